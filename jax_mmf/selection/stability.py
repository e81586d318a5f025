"""Stability of dictionaries over random seeds."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_mmf.codes import match_atoms
from jax_mmf.core import as_real_array, check_count, check_key, check_shape
from jax_mmf.learning import OnlineFactorization
from jax_mmf.selection.path import alpha_path, as_list, check_not_iterator
from jax_mmf.training import fit
from jax_mmf.typing import ArrayLike, HostArray, Key


class Stability(NamedTuple):
    """How much dictionaries of several seeds agree, for one number of atoms.

    Attributes:
      n_components: number of atoms.
      cosines: ``(n_pairs,)`` for each pair of seeds, the mean absolute cosine of atoms matched by
        `jax_mmf.match_atoms`.
      distances: ``(n_pairs,)`` for each pair of seeds, the `amari_distance`.
      dictionaries: ``(n_seeds, k, p)``.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> table = mmf.selection.stability(
      ...     solver, x, key=jax.random.key(1), n_components=[3], n_seeds=2, n_epochs=1, batch_size=16
      ... )
      >>> table[0].dictionaries.shape
      (2, 3, 8)
    """

    n_components: int
    cosines: HostArray
    distances: HostArray
    dictionaries: HostArray


def amari_distance(dictionary: ArrayLike, reference: ArrayLike) -> float:
    """Return the distance of two dictionaries, up to the order, the signs and the scales of their atoms.

    It is one minus the mean over atoms of the largest absolute cosine with an atom of the other dictionary, averaged
    over both dictionaries [Wu et al. 2016]. The index of Amari et al. (1996) needs the inverse of a square matrix
    instead, and dictionaries with more atoms than features, or with equal atoms, have no inverse.

    Args:
      dictionary: ``(k, p)``.
      reference: ``(m, p)``.

    Returns:
      a number from 0, if each atom is a multiple of an atom of the other dictionary, to 1, if all atoms of one are
      orthogonal to those of the other. Atoms of zeros are orthogonal to all.

    Raises:
      ValueError: for shapes that do not fit.

    Example:
      >>> amari_distance([[1.0, 0.0], [0.0, 1.0]], [[0.0, -3.0], [2.0, 0.0]])
      0.0
    """
    left, right = (
        np.asarray(as_real_array(name, a, ndim=(2,)), np.float64)
        for name, a in (("dictionary", dictionary), ("reference", reference))
    )
    check_shape("reference", right, (None, left.shape[1]), "(m, n_features)")
    if not (len(left) and len(right)):
        raise ValueError(f"dictionary and reference must hold atoms, got shapes {left.shape} and {right.shape}")
    cosines = np.abs(_unit(left) @ _unit(right).T)
    return float(np.clip(1 - (cosines.max(0).mean() + cosines.max(1).mean()) / 2, 0, 1))


def _unit(atoms: HostArray) -> HostArray:
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms / np.where(norms > 0, norms, 1)


def stability(
    solver: OnlineFactorization,
    source: Any,
    *,
    key: Key,
    n_components: Sequence[int],
    n_seeds: int = 5,
    alphas: Sequence[float] | None = None,
    **options: Any,
) -> list[Stability]:
    """Learn dictionaries with several seeds for each number of atoms, and compare them in pairs.

    Seeds differ in the initial dictionary, the order of the samples and the subsets. Each seed finds the structure of
    the data. Atoms in excess of it fit noise, or share what one atom should explain, and differ between seeds [Wu et
    al. 2016]. With too few atoms, seeds differ in what they leave out.

    Args:
      solver: whose ``n_components`` is replaced.
      source: samples, as in `jax_mmf.fit`, but not an iterator.
      key: PRNG key, which the keys of the runs are split from.
      n_components: numbers of atoms.
      n_seeds: number of runs for each, at least 2.
      alphas: strengths of an `alpha_path` that each run follows to its last dictionary. By default, a run has the
        strength of the solver from the start. Such runs often end in worse optima, and look less stable.
      **options: arguments of `jax_mmf.fit`.

    Returns:
      a `Stability` for each number of atoms, in the order given.

    Raises:
      ValueError: for fewer than two seeds, an empty list, and as `jax_mmf.fit` does.
      TypeError: for an iterator as source, and as `alpha_path` does.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> table = mmf.selection.stability(
      ...     solver, x, key=jax.random.key(1), n_components=[3], n_seeds=2, n_epochs=1, batch_size=16
      ... )
      >>> table[0].n_components, table[0].cosines.shape
      (3, (1,))
    """
    check_key(key)
    check_count("n_seeds", n_seeds, low=2)
    check_not_iterator(source)
    n_components = as_list("n_components", n_components, "number of atoms")
    alphas = None if alphas is None else as_list("alphas", alphas, "strength")
    found = []
    for number in n_components:
        own = dataclasses.replace(solver, n_components=number)
        runs = [_learned(own, source, run_key, alphas, options) for run_key in jax.random.split(key, n_seeds)]
        pairs = list(itertools.combinations(runs, 2))
        cosines = np.array([match_atoms(a, b)[1].mean() for a, b in pairs])
        distances = np.array([amari_distance(a, b) for a, b in pairs])
        found.append(Stability(number, cosines, distances, np.stack(runs)))
    return found


def _learned(
    solver: OnlineFactorization, source: Any, key: Key, alphas: Sequence[float] | None, options: dict[str, Any]
) -> HostArray:
    if alphas is None:
        return np.asarray(fit(solver, source, key=key, **options).dictionary)
    return np.asarray(alpha_path(solver, source, key=key, alphas=alphas, **options)[-1].dictionary)
