"""The same work in jaxlv and in PyTorch, timed in turns."""
