"""Initial maps: independent components of a part of the frames, or given images."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import kurtosis
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import randomized_svd

from jax_mmf.fmri.maps import upright
from jax_mmf.io import Source
from jax_mmf.learning import OnlineFactorization
from jax_mmf.penalties import has_relative_alpha
from jax_mmf.typing import HostArray

_FRAMES = 1000  # at least, if there are as many
_FRAMES_PER_MAP = 20
_BYTES = 2**29  # of these frames, at most
_RANK_PER_MAP = 3  # directions in which maps are searched: noise has directions, too
_THRESHOLD = 2.0  # standard deviations, below which a component is zero
_MOST_KURTOSIS = 30.0
_ICA = {"fun": "logcosh", "max_iter": 100, "tol": 1e-3, "whiten": "unit-variance"}


def scaled_to(solver: OnlineFactorization, maps: HostArray) -> HostArray:
    """Flip maps ``(k, p)`` to be mostly positive, and scale them to the constraint of a solver."""
    return np.asarray(jax.vmap(solver.constraint.scale)(jnp.asarray(upright(maps))))


def independent_maps(solver: OnlineFactorization, source: Source, seed: int) -> HostArray:
    """Return sparse independent components of random frames, as CanICA finds them, to start learning from.

    The leading directions of the frames are rotated to independent components (FastICA, Hyvarinen and Oja 2000), and
    entries below two standard deviations become zero. Of three times as many components as needed, those remain that
    have the largest product of two numbers: by how much they reduce the objective of the solver, and the excess
    kurtosis, which is near zero for dense noise. The kurtosis counts up to a limit, since that of a single bad voxel is
    enormous.

    Args:
      solver: of the run.
      source: of the frames.
      seed: of the choice of frames and of the rotation.

    Returns:
      ``(k, p)`` float32, in the original order of the features. Random frames fill up what components are missing.
    """
    k = solver.n_components
    frames = _some_frames(source, k, seed)
    found = _independent(frames, min(_RANK_PER_MAP * k, len(frames), frames.shape[1]), seed)
    sparse = np.where(np.abs(found) > _THRESHOLD * found.std(axis=1, keepdims=True), found, 0)
    maps = scaled_to(solver, sparse.astype(np.float32))
    scores = _gains(solver, maps, frames) * np.clip(kurtosis(found, axis=1), 0, _MOST_KURTOSIS)
    chosen = maps[np.argsort(-scores, kind="stable")[:k]]
    chosen = np.concatenate([chosen, scaled_to(solver, frames[: k - len(chosen)])])
    if source.permutation is None:
        return chosen
    original = np.empty((k, source.n_features), np.float32)
    original[:, source.permutation] = chosen
    return original


def _some_frames(source: Source, k: int, seed: int) -> HostArray:
    most = max(k, _BYTES // (4 * source.n_features))
    count = min(source.n_samples, most, max(_FRAMES, _FRAMES_PER_MAP * k))
    rows = np.random.default_rng(seed).permutation(source.n_samples)[:count]
    return np.asarray(source.read(np.sort(rows)), np.float32)


def _independent(frames: HostArray, rank: int, seed: int) -> HostArray:
    """Return independent components ``(q, p)`` of the leading directions, with q <= rank of those that are not zero."""
    _, scale, directions = randomized_svd(frames, rank, n_iter=3, random_state=seed)
    directions = directions[scale > scale[0] * 1e-5] if scale[0] > 0 else directions[:0]
    if len(directions) < 2:
        return np.asarray(directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # they are a start only
        ica: Any = FastICA(len(directions), random_state=seed, **_ICA)
        return np.asarray(ica.fit_transform(np.ascontiguousarray(directions.T)).T)


def _gains(solver: OnlineFactorization, maps: HostArray, frames: HostArray) -> HostArray:
    """Return by how much each map alone reduces the sum of the objectives of frames, with ridge codes."""
    squares = np.square(maps).sum(axis=1)
    energies = np.square(frames @ maps.T).sum(axis=0)
    alpha = 0.0 if has_relative_alpha(solver.penalty) else float(getattr(solver.penalty, "alpha", 0.0))
    return energies / np.maximum(squares + alpha, np.finfo(np.float32).tiny)
