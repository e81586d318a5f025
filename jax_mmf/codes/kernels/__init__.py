"""Loops over scalars and short vectors, each compiled into one kernel on CPU: the search of `ActiveSet`."""
