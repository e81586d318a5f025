"""Loops over scalars and short vectors, each compiled into one kernel on CPU: how the active set is searched."""
