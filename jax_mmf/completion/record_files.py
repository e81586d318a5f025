"""Tables in Parquet, Arrow and JSON files, which are read a block at a time."""

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from jax_mmf.completion.text_file import raw_stream

PARQUET, ARROW, JSON = (".parquet", ".pq"), (".arrow", ".feather", ".ipc"), (".jsonl", ".ndjson", ".json")
_ROWS = 1 << 18  # of a block
_FIRST = 1000  # objects whose keys are names of columns


class _Records:
    """A file of named columns, whose cells have types."""

    is_text = False
    names: list[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    def blocks(self, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Iterate over blocks of columns, by the names that ``columns`` gives to their numbers."""
        raise NotImplementedError

    def where(self, row: int, column: int) -> tuple[str, str]:
        """Return the number of a row, counted from 1, and the text of a cell."""
        first = 0
        for block in self.blocks({"cell": column}):
            cells = block["cell"]
            if row < first + len(cells):
                cell = cells[row - first]
                return f"row {row + 1}", str(cell.as_py() if hasattr(cell, "as_py") else cell)
            first += len(cells)
        raise IndexError(row)


class ParquetTable(_Records):
    """Columns of a Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        raw_stream(path).close()
        import pyarrow as pa
        from pyarrow import parquet

        try:
            self._file = parquet.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a Parquet file: {error}") from error
        self.names = self._file.schema_arrow.names

    def blocks(self, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Iterate over blocks of columns, by the names that ``columns`` gives to their numbers."""
        wanted = [self.names[at] for at in columns.values()]
        if repeated := sorted({name for name in wanted if self.names.count(name) > 1}):
            raise ValueError(f"{self.path} must have one column {repeated[0]!r}, got several; rename or drop them")
        for batch in self._file.iter_batches(_ROWS, columns=wanted):
            yield {role: batch.column(self.names[at]) for role, at in columns.items()}


class ArrowTable(_Records):
    """Columns of an Arrow file, also called Feather, or of an Arrow stream."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        raw_stream(path).close()
        self.names = self._batches([0])[0].names

    def _batches(self, numbers: list[int]) -> tuple[Any, Iterator[Any]]:
        """Return the schema of the file, and batches with some of its columns."""
        import pyarrow as pa
        from pyarrow import ipc

        options = ipc.IpcReadOptions(included_fields=sorted(set(numbers)))
        try:
            file = ipc.open_file(pa.memory_map(str(self.path)), options=options)
        except pa.ArrowInvalid:
            pass
        else:
            return ipc.open_file(pa.memory_map(str(self.path))).schema, map(
                file.get_batch, range(file.num_record_batches)
            )
        try:
            return ipc.open_stream(pa.memory_map(str(self.path))).schema, iter(
                ipc.open_stream(pa.memory_map(str(self.path)), options=options)
            )
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path} is not an Arrow file: {error}") from error

    def blocks(self, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Iterate over blocks of columns, by the names that ``columns`` gives to their numbers."""
        numbers = sorted(set(columns.values()))
        for batch in self._batches(numbers)[1]:
            yield {role: batch.column(numbers.index(at)) for role, at in columns.items()}


class JsonTable(_Records):
    """Values of JSON objects, one in each line."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.names = list(dict.fromkeys(key for found in islice(self._objects(), _FIRST) for key in found))
        if not self.names:
            raise ValueError(f"{path} holds no ratings")

    def _objects(self) -> Iterator[dict[str, Any]]:
        with io.BufferedReader(raw_stream(self.path)) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    found = json.loads(line)
                except ValueError:  # also of other encodings
                    found = None
                if not isinstance(found, dict):
                    raise ValueError(  # noqa: TRY004
                        f"{self.path} must hold a JSON object in UTF-8 in each line, got {line[:50]!r} in line {number}"
                    )
                yield found

    def blocks(self, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Iterate over blocks of columns, by the names that ``columns`` gives to their numbers."""
        cells: dict[str, list[Any]] = {role: [] for role in columns}
        names = {role: self.names[at] for role, at in columns.items()}
        for found in self._objects():
            for role, name in names.items():
                cells[role].append(found.get(name))
            if len(next(iter(cells.values()))) == _ROWS:
                yield cells
                cells = {role: [] for role in columns}
        yield cells
