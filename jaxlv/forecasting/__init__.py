"""Sampled forecasts, what they are measured by, and what they must beat."""
