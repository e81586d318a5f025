"""The settings that determine the content of a converted file."""

import zlib
from typing import Any, NamedTuple

import numpy as np

from jax_mmf.core import check_count, check_real_dtype
from jax_mmf.io.compression import chosen_compression
from jax_mmf.io.training_file import Layout
from jax_mmf.learning import BlockSubset
from jax_mmf.typing import HostArray

_BAND = 2**25  # bytes of rows that are converted at a time, if the chunks allow it


class Plan(NamedTuple):
    """The settings that determine the content of a converted file.

    Attributes:
      chunks: layout of the matrix. Its block width may be a `BlockSubset`, whose width depends on p.
      dtype: of the file, or None for that of the source.
      memory: bytes of rows that may be converted at a time.
      inputs: path, size and modification time of each file that is converted, and the names of the data sets.
    """

    chunks: Layout
    dtype: np.dtype[Any] | None
    memory: int
    inputs: list[Any]

    def layout(self, n_features: int) -> Layout:
        """Return the layout of a matrix with p features."""
        width: Any = self.chunks.block_width
        width = width.layout(n_features)[0] if isinstance(width, BlockSubset) else width
        return self.chunks._replace(block_width=width)

    def dtype_of(self, source: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the file for a source of some dtype."""
        dtype = np.dtype(source if self.dtype is None else self.dtype)
        return dtype if dtype.kind in "biuf" else np.dtype("float32")

    def height(self, source: Any, row_bytes: int) -> int:
        """Return how many rows to convert at a time: whole chunks of the file and, if memory allows, of the source."""
        chunk_rows = self.chunks.rows_per_chunk
        together = max(getattr(source, "rows_per_chunk", 1), getattr(source, "rows_per_read", 1))
        wanted = max(together, _BAND // row_bytes)
        return chunk_rows * max(1, min(-(-wanted // chunk_rows), self.memory // (row_bytes * chunk_rows)))

    def record(
        self, shape: tuple[int, int], dtype: np.dtype[Any], order: HostArray | None, height: int
    ) -> dict[str, Any]:
        """Return what must be the same in a conversion that resumes another one, by the name of the argument."""
        return {
            "source": self.inputs,
            "shape": list(shape),
            "dtype": dtype.str,
            "key": None if order is None else zlib.crc32(order.astype("<i8").tobytes()),
            "memory": height,
        } | self.layout(shape[1])._asdict()


def checked_plan(
    dataset: str,
    block_width: int | BlockSubset,
    rows_per_chunk: int,
    compression: str | None,
    dtype: Any,
    memory: int,
    *,
    checksums: bool,
) -> Plan:
    """Make a plan from the arguments of `convert`; it raises the same errors."""
    if not isinstance(block_width, BlockSubset):
        check_count("block_width", block_width)
    check_count("rows_per_chunk", rows_per_chunk)
    if dtype is not None:
        check_real_dtype("dtype", np.dtype(dtype))
    width: Any = block_width
    chunks = Layout(dataset, width, int(rows_per_chunk), chosen_compression(compression), checksums)
    return Plan(chunks, None if dtype is None else np.dtype(dtype), memory, [])
