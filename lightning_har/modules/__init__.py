"""LightningModules: thin, one per family, over the networks in `lightning_har.nets`."""
