"""Operations of any JAX function, counted in its jaxpr, in the HLO that XLA compiles it to, and by XLA itself.

Nothing here knows this project's models; only jax and numpy are imported.
"""
