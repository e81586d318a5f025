"""Choice of the strength of the penalty and of the number of atoms."""

from jax_mmf.selection.choice import Candidate as Candidate
from jax_mmf.selection.choice import Choice as Choice
from jax_mmf.selection.choice import choose as choose
from jax_mmf.selection.hidden import hidden_errors as hidden_errors
from jax_mmf.selection.path import alpha_grid as alpha_grid
from jax_mmf.selection.path import alpha_path as alpha_path
from jax_mmf.selection.path import with_alpha as with_alpha
from jax_mmf.selection.stability import Stability as Stability
from jax_mmf.selection.stability import amari_distance as amari_distance
from jax_mmf.selection.stability import stability as stability

__all__ = [
    "Candidate",
    "Choice",
    "Stability",
    "alpha_grid",
    "alpha_path",
    "amari_distance",
    "choose",
    "hidden_errors",
    "stability",
]
