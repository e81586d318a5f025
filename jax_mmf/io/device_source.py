"""A JAX array on an accelerator as a source of samples, which stay on the device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jax_mmf.core import with_auto_axes
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.typing import Array, HostArray


class DeviceSource(MatrixSource):
    """A JAX array whose rows are gathered on its device. Only `read` sends them to the host.

    Args:
      array: ``(n, p)`` real numbers, on one device or sharded over several.
      name: of the array, for error messages.

    Raises:
      ValueError: for NaN or infinity, with the position of the first one. All entries are checked once, because arrays
        are immutable.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jax_mmf as mmf
      >>> print(mmf.io.DeviceSource(jnp.eye(3)).read(np.array([1])))
      [[0. 1. 0.]]
    """

    def __init__(self, array: Array, name: str = "source") -> None:
        super().__init__(name, array.shape, array.dtype)
        if isinstance(array.sharding, NamedSharding):  # rows are taken whatever axes its type names
            array = jax.device_put(array, NamedSharding(with_auto_axes(array.sharding.mesh), array.sharding.spec))
        self._array = array
        self.reads_on_several_devices = len(array.sharding.device_set) > 1
        if not _all_finite(array):
            i, j = (int(index[0]) for index in jnp.nonzero(~jnp.isfinite(array), size=1))
            raise ValueError(
                f"{name} holds {array[i, j]} at sample {i}, feature {j}; clean, impute or scale the data first"
            )

    def take(self, rows: HostArray, columns: HostArray | None, dtype: np.dtype) -> Array:
        """Gather rows on the device.

        Args:
          rows: as in `read`, or past the last row for rows of zeros.
          columns: as in `read`, or past the last column for columns of zeros.
          dtype: of the result.

        Returns:
          ``(b, s)`` or ``(b, p)``.
        """
        self._check_open()
        n_columns = self.n_features if columns is None else columns.size
        self.bytes_read += int((rows < self.n_samples).sum()) * n_columns * self._array.dtype.itemsize
        return _take(self._array, rows, columns, dtype)

    def close(self) -> None:
        """Release the array."""
        super().close()
        del self._array

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        out[:] = self.take(rows, columns, self.dtype)


@jax.jit
def _all_finite(array: Array) -> Array:
    return jnp.isfinite(array).all()


@partial(jax.jit, static_argnames="dtype")
def _take(array: Array, rows: Array, columns: Array | None, dtype: np.dtype) -> Array:
    places = array.at[rows] if columns is None else array.at[rows[:, None], columns]
    return places.get(mode="fill", fill_value=0).astype(dtype)
