"""Operations of any JAX function, counted in its jaxpr, in the HLO that XLA makes of it, and by XLA itself.

Nothing here knows this project's models; jax and numpy are all that is imported.
"""
