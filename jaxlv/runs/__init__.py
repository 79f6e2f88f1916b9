"""Training from a config to a folder: one run, several at once, sweeps; resumed after whatever happens."""
