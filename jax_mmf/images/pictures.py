"""Pictures as the functions of this package take them, and the way back to the dtype and range of the input."""

from typing import Any, NamedTuple

import numpy as np

from jax_mmf.core import as_array
from jax_mmf.typing import HostArray

_LIMITS = 1e-100, 1e100


class Picture(NamedTuple):
    """A picture as floats, with what is needed to give a result in the form of the input.

    Attributes:
      values: ``(rows, columns, bands)`` float64, in units of the input.
      given: the input, in the byte order of this machine.
    """

    values: HostArray
    given: HostArray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the input."""
        return self.given.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the input, in the byte order of this machine."""
        return self.given.dtype

    @property
    def scale(self) -> float:
        """The largest value of an integer dtype, such as 255 for 8 bits; 1 for floats."""
        return float(np.iinfo(self.dtype).max) if self.dtype.kind in "iu" else 1.0

    def restored(self, values: HostArray, replaced: HostArray | None = None) -> HostArray:
        """Return values ``(rows, columns, bands)`` in the shape and dtype of the input.

        Integers are rounded and clipped to the range of their dtype. Pixels outside of ``replaced`` are those of the
        input, bit for bit.
        """
        values = values.reshape(self.shape)
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            high = float(limits.max)
            high = high if int(high) <= limits.max else np.nextafter(high, 0)  # 2^64 - 1 rounds to 2^64
            values = np.clip(np.rint(values.astype(np.float64)), limits.min, high)
        restored: HostArray = values.astype(self.dtype)
        return restored if replaced is None else np.where(replaced.reshape(self.shape), restored, self.given)


def as_picture(
    image: Any,
    *,
    name: str = "image",
    missing: HostArray | None = None,
    least: int = 1,
    opacity: bool = False,
    limits: tuple[float, float] = _LIMITS,
) -> Picture:
    """Check an image and convert it to float64.

    Args:
      image: ``(rows, columns)`` or ``(rows, columns, bands)`` integers or floats, in any byte order.
      name: of the argument, for error messages.
      missing: ``(rows, columns, bands)``, True for pixels whose values are not used. They may be NaN, and become zero.
      least: smallest number of rows and of columns.
      opacity: whether 8-bit images of four bands are accepted. The fourth is usually opacity.
      limits: between which the largest absolute value of floats must be.

    Returns:
      the picture.

    Raises:
      TypeError: for anything but integers and floats.
      ValueError: for another number of axes, an image without pixels or smaller than a patch, NaN and infinity, values
        whose squares overflow or vanish, and an alpha channel.
    """
    values = np.asarray(as_array(name, image))
    if values.dtype.kind not in "iuf":
        raise TypeError(
            f"{name} must hold integers or floats, got {values.dtype}; convert it, such as with astype('float32')"
        )
    _check_axes(name, values.shape)
    if not opacity and values.ndim == 3 and values.shape[2] == 4 and values.dtype == np.uint8:
        raise ValueError(
            f"{name} of shape {values.shape} and {values.dtype} looks like RGB with an alpha channel, which is not a "
            f"color; pass {name}[..., :3], or {name}.astype('float32') for an image of four bands"
        )
    if min(values.shape[:2]) < least:
        raise ValueError(
            f"{name} of {values.shape[0]} x {values.shape[1]} pixels is smaller than a patch of {least} x {least}; "
            "use a smaller patch_size"
        )
    given = values.astype(values.dtype.newbyteorder("="), copy=False)
    cube = values.reshape(*values.shape[:2], -1).astype(np.float64)
    if missing is not None:
        cube[missing] = 0
    bad = np.argwhere(~np.isfinite(cube))
    if len(bad):
        row, column, band = bad[0]
        raise ValueError(
            f"{name} must be finite, but holds {cube[row, column, band]} at row {row}, column {column}; such "
            "pixels can be filled by jax_mmf.images.inpaint(image, ~np.isfinite(image))"
        )
    largest = np.abs(cube).max()
    if given.dtype.kind == "f" and largest > 0 and not limits[0] < largest < limits[1]:
        raise ValueError(
            f"{name} must be in units where its largest value is between {limits[0]:g} and {limits[1]:g}, since "
            f"squares are computed; got {largest:g}; divide it by a constant"
        )
    return Picture(cube, given)


def as_missing(mask: Any, shape: tuple[int, ...], name: str = "mask") -> HostArray:
    """Check a mask of missing pixels, and return it for each band.

    Args:
      mask: ``(rows, columns)`` for all bands, or the shape of the image; nonzero for missing pixels.
      shape: of the image.
      name: of the argument, for error messages.

    Returns:
      ``(rows, columns, bands)`` bool, True for missing pixels.

    Raises:
      TypeError: for anything but booleans and numbers.
      ValueError: for another shape, and if nothing is left to learn from.
    """
    _check_axes("image", shape)
    values = np.asarray(mask)
    if values.dtype.kind not in "biuf" or (values.dtype.kind == "f" and np.isnan(values).any()):
        raise TypeError(f"{name} must hold booleans or numbers, nonzero for missing pixels; got {_kind(values)}")
    if values.shape not in (tuple(shape), tuple(shape[:2])):
        raise ValueError(
            f"{name} must have the shape of the image, {tuple(shape)}, or {tuple(shape[:2])}; got {values.shape}"
        )
    bands = shape[2] if len(shape) == 3 else 1
    missing = values.astype(bool).reshape(*shape[:2], -1)
    if missing.all(axis=(0, 1)).any():
        raise ValueError(f"{name} marks every pixel as missing (in some band); nonzero means missing, zero observed")
    full: HostArray = np.broadcast_to(missing, (*shape[:2], bands)).copy()
    return full


def _check_axes(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"{name} must be (rows, columns) or (rows, columns, bands) with at least one pixel; got shape {shape}"
        )


def _kind(values: HostArray) -> str:
    return "NaN" if values.dtype.kind == "f" else f"dtype {values.dtype}"
