"""Adapters: an overlay over a base that never changes, in memory and in PEFT's files."""
