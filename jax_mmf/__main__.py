"""``python -m jax_mmf``: the command ``jax-mmf``."""

from jax_mmf.cli import main

main()
