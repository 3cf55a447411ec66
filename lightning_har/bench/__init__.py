"""Cost, memory, latency, and reports of them."""
