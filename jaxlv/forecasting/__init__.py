"""Sampled forecasts, their measures, and the baselines that they must beat."""
