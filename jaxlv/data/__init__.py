"""Series: read from files, simulated, split."""
