"""Qwen2.5 and its checkpoints."""
