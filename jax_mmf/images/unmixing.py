"""Spectral unmixing: the endmembers of a cube, and their abundances in each pixel."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jax_mmf.codes import FISTA, ConvergenceWarning, encode_with_info
from jax_mmf.core import HostStream, as_real_array, check_count, check_key, check_shape, host_generator, warn
from jax_mmf.images.endmembers import as_spectra, successive_projection, vertex_components
from jax_mmf.images.pictures import as_picture
from jax_mmf.penalties import SimplexCodes
from jax_mmf.typing import Array, ArrayLike, HostArray, Key

_LOGISTIC = 1.702  # sigmoid(1.702 z) is within 0.01 of the normal distribution
_STEPS, _SMALL_GRADIENT, _LARGE_GRADIENT = 200, 1e-4, 0.1
_INFLATION = 3.0  # of the first simplex: where pixels are far outside of it, the search gets stuck with 12 or more
_LEAST_NOISE = 1e-3  # as a share of the spread of the data in their narrowest direction
_CODES = FISTA(tol=1e-5, max_iter=1000)
_LARGE_GAP = 1e-2  # as a share of the squared norm of the longest endmember from their mean


class Unmixing(NamedTuple):
    """Endmembers of a cube and their abundances, the most abundant endmember first.

    Attributes:
      endmembers: ``(m, bands)``, non-negative, in units of the cube.
      abundances: ``(rows, columns, m)``, non-negative, with sum one in each pixel.
      error: ``(rows, columns)``, root mean square over the bands of what the mixtures leave of each pixel.
    """

    endmembers: HostArray
    abundances: HostArray
    error: HostArray


def unmix(
    cube: Any, n_endmembers: int, *, key: Key, initialization: str | ArrayLike = "vca", refine: bool = True
) -> Unmixing:
    """Find the spectra whose mixtures make a cube, and how much of each is in each pixel.

    Abundances are codes with `SimplexCodes`: fully constrained least squares [Heinz and Chang 2001]. Endmembers start
    from extreme pixels. Then they are refined to maximise an approximate likelihood of all pixels, in which abundances
    are uniform on the simplex and noise is white. This is the simplex of least volume [Craig 1994] that contains the
    pixels up to the noise. It needs no pure pixel, and noise moves it less than it moves extreme pixels.

    Args:
      cube: ``(rows, columns, bands)`` integers or floats.
      n_endmembers: m, at most the number of bands and of pixels.
      key: PRNG key of the initialization.
      initialization: ``"vca"`` for vertex component analysis [Nascimento and Dias 2005], ``"spa"`` for successive
        projection [Araujo et al. 2001], or spectra ``(m, bands)``.
      refine: whether the initial endmembers are refined. A single endmember becomes the mean of the pixels.

    Returns:
      an `Unmixing`.

    Raises:
      ValueError: for a cube that is not finite or has fewer than three axes, for more endmembers than the spectra can
        tell apart, and for an unknown initialization.
      TypeError: for a cube that does not hold real numbers.

    Warns:
      UserWarning: if the refinement does not converge, or abundances are not optimal, as with more endmembers than the
        noise lets tell apart.

    Example:
      >>> spectra = np.array([[1.0, 0, 1, 0], [0, 2, 0, 1]])
      >>> share = np.linspace(0, 1, 12).reshape(3, 4, 1)
      >>> found = unmix(share * spectra[0] + (1 - share) * spectra[1], 2, key=jax.random.key(0))
      >>> found.endmembers.shape, found.abundances.shape
      ((2, 4), (3, 4, 2))
    """
    check_count("n_endmembers", n_endmembers)
    check_key(key)
    picture = as_picture(cube, name="cube", opacity=True)
    if len(picture.shape) != 3:
        raise ValueError(f"cube must be (rows, columns, bands), got shape {picture.shape}")
    x = picture.values.reshape(-1, picture.shape[2])
    if n_endmembers > min(x.shape):
        raise ValueError(
            f"n_endmembers must be at most the number of pixels, {x.shape[0]}, and of bands, {x.shape[1]}; got "
            f"{n_endmembers}"
        )
    endmembers = _first_endmembers(x, n_endmembers, key, initialization)
    if refine:
        endmembers = _refined(x, endmembers)
    endmembers = np.maximum(endmembers, 0)
    if not endmembers.any() and x.any():
        raise ValueError("cube has no endmember with positive values; shift or negate it, since spectra are >= 0")
    abundances = _abundances(x, endmembers)
    order = np.argsort(-abundances.mean(0), kind="stable")
    endmembers, abundances = endmembers[order], abundances[:, order]
    error = np.sqrt(np.mean((x - abundances @ endmembers) ** 2, 1))
    rows_columns = picture.shape[:2]
    return Unmixing(endmembers, abundances.reshape(*rows_columns, -1), error.reshape(rows_columns))


def spectral_angles(first: ArrayLike, second: ArrayLike) -> HostArray:
    """Return the angles between two sets of spectra.

    Args:
      first: ``(m, bands)``.
      second: ``(k, bands)``.

    Returns:
      ``(m, k)`` in degrees, from 0 to 180. A spectrum of zeros has 90 degrees with all others.

    Raises:
      ValueError: for other shapes, and for NaN and infinity.
      TypeError: for spectra that are not real numbers.

    Example:
      >>> print(np.round(spectral_angles(np.eye(2), np.array([[2.0, 2.0]])), 6))
      [[45.]
       [45.]]
    """
    rows = []
    for name, value in (("first", first), ("second", second)):
        spectra = as_spectra(name, value)
        norms = np.linalg.norm(spectra, axis=1, keepdims=True)
        rows.append(spectra / np.where(norms > 0, norms, 1))
    if rows[0].shape[1] != rows[1].shape[1]:
        raise ValueError(f"first and second must have the same bands, got {rows[0].shape[1]} and {rows[1].shape[1]}")
    angles: HostArray = np.degrees(np.arccos(np.clip(rows[0] @ rows[1].T, -1, 1)))
    return angles


def _first_endmembers(x: HostArray, m: int, key: Key, initialization: str | ArrayLike) -> HostArray:
    if not isinstance(initialization, str):
        given = np.asarray(as_real_array("initialization", initialization, ndim=(2,)), np.float64)
        check_shape("initialization", given, (m, x.shape[1]), "(n_endmembers, bands)")
        if not np.isfinite(given).all():
            raise ValueError("initialization must be finite, got NaN or infinity")
        if len(np.unique(given, axis=0)) < m:
            raise ValueError("initialization must hold different spectra; some are equal")
        return given
    if initialization == "vca":
        return x[vertex_components(x, m, host_generator(key, HostStream.DRAW))]
    if initialization == "spa":
        return x[successive_projection(x, m)]
    raise ValueError(f"initialization must be 'vca', 'spa' or spectra (m, bands), got {initialization!r}")


def _abundances(x: HostArray, endmembers: HostArray) -> HostArray:
    """Fully constrained least squares; the mean of the endmembers is subtracted for accuracy in float32."""
    if len(endmembers) == 1:
        return np.ones((len(x), 1))
    middle = endmembers.mean(0)
    scale = float(np.abs(endmembers - middle).max()) or 1.0
    atoms, samples = (jnp.asarray((part - middle) / scale, jnp.float32) for part in (endmembers, x))
    with warnings.catch_warnings():  # a gap relative to a sample near the mean of the endmembers is rounding
        warnings.simplefilter("ignore", ConvergenceWarning)
        codes, info = encode_with_info(atoms, samples, SimplexCodes(), solver=_CODES)
    gaps = info.gap * jnp.sum(samples**2, 1) / jnp.sum(atoms**2, 1).max()
    n_open = int(np.sum(~np.asarray(info.converged) & np.asarray(gaps > _LARGE_GAP)))
    if n_open:
        warn(f"abundances of {n_open} of {len(x)} pixels are not optimal: endmembers are nearly equal; use fewer")
    return np.asarray(codes, np.float64)


def _refined(x: HostArray, endmembers: HostArray) -> HostArray:
    """Move endmembers to the maximum of the likelihood, in the m - 1 main directions of the data."""
    n, bands = x.shape
    m = len(endmembers)
    mean = x.mean(0)
    if m == 1:
        return mean[None]
    variances, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / n)
    spread = np.sqrt(np.maximum(variances[::-1][: m - 1], 0))
    directions = vectors[:, ::-1][:, : m - 1]
    if not spread[-1] > np.sqrt(np.finfo(np.float64).eps) * max(spread[0], np.abs(mean).max()):
        raise ValueError(
            f"the spectra of the cube are mixtures of fewer than n_endmembers={m}; use fewer, or refine=False"
        )
    left = max(float(variances[: bands - m + 1].sum()), 0.0) / (bands - m + 1)
    noise = max(left**0.5, _LEAST_NOISE * float(spread[-1]))
    inflated = _INFLATION * (endmembers - mean)
    samples, start = (jnp.asarray(part @ directions / spread, jnp.float32) for part in (x - mean, inflated))
    optimum, slope = _maximise(start, samples, jnp.asarray(noise / spread, jnp.float32))
    found = np.asarray(optimum, np.float64)
    if not np.isfinite(found).all():
        warn("endmembers could not be refined; they are the initial ones")
        return endmembers
    if slope > _LARGE_GRADIENT:
        warn(f"the refinement of {m} endmembers did not converge, and they may be far off; use fewer, or refine=False")
    return mean + (found * spread) @ directions.T


@jax.jit
def _maximise(start: Array, samples: Array, noise: Array) -> tuple[Array, Array]:
    """Return the endmembers of largest likelihood, and the norm of the gradient there."""

    def loss(endmembers: Array) -> Array:
        return _negative_log_likelihood(endmembers, samples, noise)

    search = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        endmembers, state, number, _ = carry
        value, gradient = value_and_gradient(endmembers, state=state)
        update, state = search.update(gradient, state, endmembers, value=value, grad=gradient, value_fn=loss)
        return endmembers + update, state, number + 1, gradient

    def proceed(carry: Any) -> Array:
        return (carry[2] < _STEPS) & (jnp.linalg.norm(carry[3]) > _SMALL_GRADIENT)

    first = (start, search.init(start), jnp.zeros((), jnp.int32), jnp.ones_like(start))
    found = lax.while_loop(proceed, step, first)[0]
    return found, jnp.linalg.norm(jax.grad(loss)(found))


def _negative_log_likelihood(endmembers: Array, samples: Array, noise: Array) -> Array:
    """Approximate ``-log p`` per sample of uniform abundances and white noise, up to a constant.

    The density of a mixture is one over the volume of the simplex. The noise widens it: the volume is that of the
    covariance of the mixtures, ``1 / (m (m + 1)) sum_i (e_i - mean)^2``, plus that of the noise. Far inside of the
    simplex this is all. Near a facet, the density falls as the normal distribution of the distance to it.

    Args:
      endmembers: ``(m, m - 1)`` coordinates.
      samples: ``(n, m - 1)``.
      noise: ``(m - 1,)`` standard deviation of each coordinate.
    """
    m = endmembers.shape[0]
    weights = jnp.linalg.inv(jnp.concatenate([endmembers, jnp.ones_like(endmembers[:, :1])], 1))
    abundances = jnp.matmul(samples, weights[:-1], precision="highest") + weights[-1]
    distances = abundances / jnp.linalg.norm(weights[:-1] * noise[:, None], axis=0)  # in standard deviations
    centered = endmembers - endmembers.mean(0)
    covariance = jnp.matmul(centered.T, centered, precision="highest") / (m * (m + 1)) + jnp.diag(noise**2)
    volume = 0.5 * jnp.linalg.slogdet(covariance)[1]
    return volume - jnp.mean(jnp.sum(jax.nn.log_sigmoid(_LOGISTIC * distances), 1))
