"""Benchmarks of jax_mmf against other libraries: ``python -m benchmarks --help``, from the root of the repository."""
