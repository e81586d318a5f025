"""Orthogonal matching pursuit of patches up to an error, with missing pixels."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_mmf.core import matmul
from jax_mmf.typing import Array, HostArray

_CHUNK, _NUMBERS = 2048, 1 << 24  # patches at a time, and the numbers of their bases
_DEPENDENT = 1e-3  # share of its squared norm that an atom must have outside of the span of the others


class _Pursuit(NamedTuple):
    step: Array
    residual: Array  # (b, p), of the observed pixels
    estimate: Array  # (b, p)
    basis: Array  # (b, max_atoms, p), orthonormal on the observed pixels
    whole: Array  # the same combinations of atoms on all pixels
    active: Array
    n_atoms: Array


def pursue(
    dictionary: HostArray, patches: HostArray, error: HostArray, *, max_atoms: int, mask: HostArray | None = None
) -> tuple[HostArray, HostArray]:
    """Approximate each patch by as few atoms as reach an error [Pati et al. 1993; Aharon et al. 2006].

    Args:
      dictionary: ``(k, p)``, atoms of unit norm.
      patches: ``(n, p)``.
      error: ``(n,)`` squared errors to reach.
      max_atoms: largest number of atoms in a patch.
      mask: ``(n, p)``, 1 for observed pixels and 0 for others, or None.

    Returns:
      approximations ``(n, p)`` on all pixels, and numbers of atoms ``(n,)``.
    """
    n = len(patches)
    # Patches that need similar numbers of atoms go together, since a chunk goes on until its last patch is done.
    order = np.argsort(np.einsum("ij,ij->i", patches, patches) / np.maximum(error, np.finfo(np.float32).tiny))
    estimates, n_atoms = np.empty_like(patches), np.empty(n, np.int32)
    fitting = max(16, _NUMBERS // (max_atoms * patches.shape[1]))
    chunk = 1 << min(_CHUNK.bit_length() - 1, fitting.bit_length() - 1, (n - 1).bit_length())
    atoms = jnp.asarray(dictionary)
    for first in range(0, n, chunk):
        rows = order[first : first + chunk]
        filled = np.resize(rows, chunk)
        own = None if mask is None else jnp.asarray(mask[filled])
        found = _pursue(atoms, jnp.asarray(patches[filled]), jnp.asarray(error[filled]), own, max_atoms)
        estimates[rows], n_atoms[rows] = (np.asarray(part)[: len(rows)] for part in found)
    return estimates, n_atoms


@functools.partial(jax.jit, static_argnames="max_atoms")
def _pursue(dictionary: Array, patches: Array, error: Array, mask: Array | None, max_atoms: int) -> tuple[Array, Array]:
    b, p = patches.shape
    residual = patches if mask is None else patches * mask
    norms = None if mask is None else jnp.sqrt(jnp.maximum(matmul(mask, (dictionary**2).T), _DEPENDENT))
    basis = jnp.zeros((b, max_atoms, p), patches.dtype)

    def proceed(now: _Pursuit) -> Array:
        return (now.step < max_atoms) & now.active.any()

    def add_atom(now: _Pursuit) -> _Pursuit:
        scores = jnp.abs(matmul(now.residual, dictionary.T))
        atom = dictionary[jnp.argmax(scores if norms is None else scores / norms, 1)]
        seen = atom if mask is None else atom * mask
        weights = jnp.sum(now.basis * seen[:, None], -1)
        new = seen - jnp.sum(weights[..., None] * now.basis, 1)
        size = jnp.sum(new**2, -1)
        useful = now.active & (size > _DEPENDENT * jnp.sum(seen**2, -1))
        scale = jnp.where(useful, lax.rsqrt(jnp.where(size > 0, size, 1)), 0)[:, None]
        new = new * scale
        whole = new if mask is None else (atom - jnp.sum(weights[..., None] * now.whole, 1)) * scale
        code = jnp.sum(new * now.residual, -1, keepdims=True)
        residual = now.residual - code * new
        put = lambda array, row: lax.dynamic_update_slice(array, row[:, None], (0, now.step, 0))  # noqa: E731
        return _Pursuit(
            now.step + 1,
            residual,
            now.estimate + code * whole,
            put(now.basis, new),
            now.whole if mask is None else put(now.whole, whole),
            useful & (jnp.sum(residual**2, -1) > error),
            now.n_atoms + useful,
        )

    start = _Pursuit(
        jnp.zeros((), jnp.int32),
        residual,
        jnp.zeros_like(patches),
        basis,
        jnp.zeros((), patches.dtype) if mask is None else basis,
        jnp.sum(residual**2, -1) > error,
        jnp.zeros(b, jnp.int32),
    )
    end = lax.while_loop(proceed, add_atom, start)
    return end.estimate, end.n_atoms
