"""Networks in plain torch.nn, a family a file. Neither Lightning nor the hub nor data is known here."""
