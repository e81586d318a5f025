"""Patches of an image as samples, read when they are needed, and an image from overlapping patches."""

from typing import Any

import numpy as np

from jax_mmf.core import HostStream, as_array, check_count, check_real, check_real_dtype, host_generator
from jax_mmf.images.pictures import as_missing, as_picture
from jax_mmf.io import MatrixSource
from jax_mmf.typing import HostArray, Key

_LIMITS = 1e-18, 1e18  # of the largest value, whose square float32 can hold


class PatchSource(MatrixSource):
    """The overlapping square patches of an image, as a `jax_mmf.io.Source`: a row is a patch.

    Only the patches that are read are in memory. A row is in the order (row, column, band) within the patch, and
    rows are in scan order. `jax_mmf.io.JoinedSource` joins the patches of several images.

    Args:
      image: ``(rows, columns)`` or ``(rows, columns, bands)`` integers or floats. Integers are divided by the largest
        value of their dtype, such as 255 for 8 bits.
      patch_size: side of a patch in pixels.
      stride: distance of the patches of a grid; 1 takes all of them. The last patches of a grid lie at the border, so
        that the patches cover the image if the stride is at most the side.
      n_patches: size of a random subset, without repetition; None for all.
      key: PRNG key of the subset.
      mask: missing pixels, as in `inpaint`. They are zero in the rows. Patches without an observed pixel are left out.
      center: whether the mean of the observed pixels is subtracted from each patch, in each band by itself.
      contrast: if positive, each patch is divided by the larger of its standard deviation and this number. 0 leaves the
        contrast as it is.

    Attributes:
      places: ``(n, 2)``, row and column of the upper left pixel of each patch.
      mask: source ``(n, p)`` of weights for `jax_mmf.fit`, 1 for observed pixels and 0 for missing ones; None if the
        source was made without a mask.
      scale: what the values of the image are divided by: 1 for floats.

    Raises:
      ValueError: for an image that is smaller than a patch, not finite, or of another number of axes; for a mask of
        another shape; and for a random subset without a key.
      TypeError: for an image that does not hold real numbers.

    Example:
      >>> source = PatchSource(np.arange(30.0).reshape(5, 6), 3)
      >>> source.n_samples, source.n_features
      (12, 9)
    """

    reads_in_parallel = True

    def __init__(
        self,
        image: Any,
        patch_size: int,
        *,
        stride: int = 1,
        n_patches: int | None = None,
        key: Key | None = None,
        mask: Any = None,
        center: bool = True,
        contrast: float = 0.0,
    ) -> None:
        check_count("patch_size", patch_size)
        check_count("stride", stride)
        check_real("contrast", contrast, low=0.0)
        if n_patches is not None:
            check_count("n_patches", n_patches)
            if key is None:
                raise ValueError(f"n_patches={n_patches} is a random subset and needs a key, such as jax.random.key(0)")
        image = as_array("image", image)
        missing = None if mask is None else as_missing(mask, image.shape)
        picture = as_picture(image, missing=missing, least=patch_size, limits=_LIMITS)
        self.scale = picture.scale
        self._size, self._center, self._contrast = patch_size, center, contrast
        self._pixels = _windows((picture.values / picture.scale).astype(np.float32), patch_size)
        self._observed = None if missing is None else _windows(~missing, patch_size)
        self.places = _places(self._pixels.shape[:2], stride, self._observed)
        if n_patches is not None and key is not None and n_patches < len(self.places):
            draw = host_generator(key, HostStream.DRAW)
            self.places = self.places[np.sort(draw.choice(len(self.places), n_patches, replace=False))]
        super().__init__("image", (len(self.places), self._pixels[0, 0].size), np.float32)
        self.mask = None if self._observed is None else _ObservedPixels(self.places, self._observed)

    def read_with_means(self, rows: HostArray) -> tuple[HostArray, HostArray, HostArray | None]:
        """Read patches together with what was removed from them.

        Args:
          rows: ``(b,)`` row numbers.

        Returns:
          the rows ``(b, p)``, what to add to a patch without its mean ``(b, p)``, and the weights ``(b, p)`` or None.
        """
        patches = _rows_of(self._pixels, self.places[rows])  # (b, size^2, bands)
        weights = None if self._observed is None else _rows_of(self._observed, self.places[rows]).astype(np.float32)
        means = np.zeros((len(rows), 1, patches.shape[2]), np.float32)
        if self._center:
            total = patches.sum(1, keepdims=True, dtype=np.float64)
            count = patches.shape[1] if weights is None else np.maximum(weights.sum(1, keepdims=True), 1)
            means = (total / count).astype(np.float32)
            patches = patches - means if weights is None else (patches - means) * weights
        means = np.broadcast_to(means, patches.shape)
        if self._contrast > 0:
            count = patches[0].size if weights is None else np.maximum(weights.sum((1, 2), keepdims=True), 1)
            spread = np.sqrt((patches**2).sum((1, 2), keepdims=True) / count)
            patches = patches / np.maximum(spread, self._contrast)
        flat = (len(rows), -1)
        return patches.reshape(flat), means.reshape(flat), None if weights is None else weights.reshape(flat)

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        patches = self.read_with_means(rows)[0]
        out[:] = patches if columns is None else patches[:, columns]
        self._count(out.nbytes)


class _ObservedPixels(MatrixSource):
    """The weights of the pixels of patches: 1 for observed ones and 0 for missing ones."""

    reads_in_parallel = True

    def __init__(self, places: HostArray, observed: HostArray) -> None:
        super().__init__("mask", (len(places), observed[0, 0].size), np.float32)
        self._places, self._observed = places, observed

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        weights = _rows_of(self._observed, self._places[rows]).reshape(len(rows), -1)
        out[:] = weights if columns is None else weights[:, columns]
        self._count(out.nbytes)


class PatchAverage:
    """The weighted average of overlapping patches, built up from batches.

    Args:
      shape: ``(rows, columns, bands)`` of the image.
      patch_size: side of a patch in pixels.
    """

    def __init__(self, shape: tuple[int, ...], patch_size: int) -> None:
        self._shape, self._size = shape, patch_size
        self._sum = np.zeros((shape[0] * shape[1], shape[2]))
        self._weight = np.zeros(shape[0] * shape[1])

    def add(self, patches: HostArray, places: HostArray, weights: HostArray | None = None) -> None:
        """Add patches.

        Args:
          patches: ``(b, p)``, in the order (row, column, band).
          places: ``(b, 2)``, row and column of the upper left pixels.
          weights: ``(b,)`` positive weights; ones by default.
        """
        weights = np.ones(len(patches)) if weights is None else weights
        values = patches.reshape(len(patches), self._size**2, self._shape[2]) * weights[:, None, None]
        first = places[:, 0] * self._shape[1] + places[:, 1]
        for pixel in range(self._size**2):
            index = first + pixel // self._size * self._shape[1] + pixel % self._size
            np.add.at(self._weight, index, weights)
            for band in range(self._shape[2]):
                np.add.at(self._sum[:, band], index, values[:, pixel, band])

    def image(self, elsewhere: HostArray) -> HostArray:
        """Return the average ``(rows, columns, bands)``, and the values of another image where there is no patch."""
        covered = self._weight[:, None] > 0
        mean = self._sum / np.where(covered, self._weight[:, None], 1)
        return np.where(covered, mean, elsewhere.reshape(mean.shape)).reshape(self._shape)


def from_patches(
    patches: Any, shape: tuple[int, ...], *, places: Any = None, weights: Any = None, stride: int = 1
) -> HostArray:
    """Average overlapping patches to an image: the inverse of a `PatchSource` that does not center its patches.

    Args:
      patches: ``(n, p)``, in the order (row, column, band) within a patch.
      shape: of the image, ``(rows, columns)`` or ``(rows, columns, bands)``.
      places: ``(n, 2)`` upper left pixels, such as ``source.places``; by default those of a grid over the image.
      weights: ``(n,)`` positive weights of the patches; ones by default.
      stride: of that grid, if ``places`` is not given.

    Returns:
      float64 of the shape. Pixels that no patch covers are NaN.

    Raises:
      ValueError: for numbers of patches, pixels or weights that do not fit, patches outside of the image, and weights
        that are not positive.
      TypeError: for patches, places and weights of another kind.

    Example:
      >>> image = np.arange(30.0).reshape(5, 6)
      >>> source = PatchSource(image, 3, center=False)
      >>> np.allclose(from_patches(source.read(np.arange(12)), image.shape), image)
      True
    """
    if not isinstance(shape, tuple | list) or len(shape) not in (2, 3):
        raise ValueError(f"shape must be (rows, columns) or (rows, columns, bands), got {shape}")
    full = (*shape, 1)[:3]
    for length in full:
        check_count("each length of shape", length)
    check_count("stride", stride)
    values = np.asarray(as_array("patches", patches))
    check_real_dtype("patches", values.dtype)
    size = _side(values, full)
    corners = (full[0] - size + 1, full[1] - size + 1)
    if places is None:
        places = _places(corners, stride, None)
        if len(places) != len(values):
            raise ValueError(
                f"patches must be the {len(places)} of a grid of stride {stride} over {full[0]} x {full[1]} pixels, or "
                f"come with places; got {len(values)} patches"
            )
    average = PatchAverage(full, size)
    average.add(
        values,
        _checked_places(places, len(values), corners),
        None if weights is None else _checked_weights(weights, len(values)),
    )
    return average.image(np.full(full, np.nan)).reshape(shape)


def _side(patches: HostArray, shape: tuple[int, ...]) -> int:
    """Return the side of the patches ``(n, p)`` of an image ``(rows, columns, bands)``."""
    size = round((patches.shape[1] / shape[2]) ** 0.5) if patches.ndim == 2 else 0
    if size < 1 or size * size * shape[2] != patches.shape[1]:
        raise ValueError(
            f"patches must be (n, side * side * {shape[2]}) for an image of {shape[2]} band(s); got shape "
            f"{patches.shape}"
        )
    if min(shape[:2]) < size:
        raise ValueError(f"shape of {shape[0]} x {shape[1]} pixels is smaller than a patch of {size} x {size}")
    return size


def _checked_places(places: Any, n: int, corners: tuple[int, int]) -> HostArray:
    found = np.asarray(places)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"places must hold whole numbers, the upper left pixels of patches; got {found.dtype}")
    if found.shape != (n, 2):
        raise ValueError(f"places must be ({n}, 2), a place for each patch; got shape {found.shape}")
    if (found < 0).any() or (found >= corners).any():
        raise ValueError(
            f"places must be at least 0, with rows below {corners[0]} and columns below {corners[1]}, so that patches "
            f"lie inside the image; got {found.min(0)} to {found.max(0)}"
        )
    return found.astype(np.intp)


def _checked_weights(weights: Any, n: int) -> HostArray:
    found = np.asarray(as_array("weights", weights))
    check_real_dtype("weights", found.dtype)
    if found.shape != (n,):
        raise ValueError(f"weights must be ({n},), one for each patch; got shape {found.shape}")
    if not ((found > 0) & np.isfinite(found)).all():
        raise ValueError("weights must be positive and finite; leave out patches of weight 0")
    return found.astype(np.float64)


def _windows(values: HostArray, size: int) -> HostArray:
    """View ``(rows, columns, bands)`` as windows ``(rows', columns', bands, size, size)``."""
    view: HostArray = np.lib.stride_tricks.sliding_window_view(values, (size, size), (0, 1))
    return view


def _rows_of(windows: HostArray, places: HostArray) -> HostArray:
    """Copy some windows as ``(b, size^2, bands)``."""
    chosen = windows[places[:, 0], places[:, 1]]
    return np.moveaxis(chosen, 1, -1).reshape(len(places), -1, windows.shape[2])


def _places(corners: tuple[int, ...], stride: int, observed: HostArray | None) -> HostArray:
    """Upper left pixels of a grid of patches, in scan order, without those that have no observed pixel."""
    rows, columns = (np.unique(np.r_[0:n:stride, n - 1]) for n in corners[:2])
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    if observed is None:
        return places
    some: HostArray = np.any(observed, (2, 3, 4))
    found: HostArray = places[some[places[:, 0], places[:, 1]]]
    return found
