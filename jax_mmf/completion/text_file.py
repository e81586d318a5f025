"""Text files of separated columns, which pyarrow reads a block at a time, with their encodings and separators."""

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UNIT = "\x1f"  # replaces other separators than one ASCII character, the only ones that pyarrow takes
_BLOCK = 1 << 23  # bytes
_PEEK = 1 << 20
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_SEPARATORS = ("::", "\t", ",", ";", "|", " ")
_USUAL = {".csv": ",", ".data": "\t", ".inter": "\t", ".tsv": "\t", ".dat": "::"}
_WITHOUT_QUOTES = (".data", ".dat", ".inter")
_WITH_HEADER = (".csv", ".tsv", ".inter")
_NAMES = ["user", "item", "rating", "timestamp"]
_NUMBER = re.compile(
    r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*|\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE
)


def is_number(cell: str) -> bool:
    """Whether a cell is the text of a number, also NaN or infinite."""
    return _NUMBER.fullmatch(cell) is not None


def plain_name(name: str) -> str:
    """Return the name of a column in lower case, without hyphens, underscores and the type that RecBole adds."""
    return re.sub(r"[\s_-]", "", name.partition(":")[0]).lower()


def suffix_of(path: Path) -> str:
    """Return the ending of a file name in lower case, without that of compression."""
    path = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    return path.suffix.lower()


def encodings(path: Path, given: str | None) -> tuple[str, ...]:
    """Return the encodings to try for a file.

    Raises:
      ValueError: for an encoding that Python does not know.
    """
    if given is not None:
        try:
            name = codecs.lookup(given).name
            " ".encode(given)  # fails for codecs of bytes
        except LookupError:
            raise ValueError(
                f"encoding must be one that Python knows, such as utf-8 or cp1252, got {given!r}"
            ) from None
        return ("utf-8" if name == "utf-8-sig" else name,)
    with raw_stream(path) as file:
        start = file.read(2)
    return ("utf-16",) if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ("utf-8", "cp1252", "latin-1")


def raw_stream(path: Path) -> Any:
    """Open a file, which may be compressed, as a stream of bytes of pyarrow.

    Raises:
      ImportError: if pyarrow is not installed.
      ValueError: for archives.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError("files of ratings need pyarrow; pip install 'jax-mmf[recommend]'") from error
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise ValueError(f"{path} is an archive or a spreadsheet; unpack it, or save it as .csv")
    return pa.input_stream(str(path), compression="detect")


def read_text(path: Path) -> str:
    """Read a small file in UTF-8 (with or without byte order mark), UTF-16, Windows-1252 or Latin 1."""
    data = path.read_bytes()
    utf16 = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


class TextTable:
    """Columns of a text file.

    Args:
      path: of the file.
      separator: of columns; None to find it in the first line.
      header: whether the first line has names; None to find it there.
      comment: with which lines begin that are left out, or None.
      encoding: of the file.
      known: names, as `plain_name` returns them, by which a first line of names is recognised.

    Attributes:
      names: of the columns.

    Raises:
      UnicodeDecodeError: if the file has another encoding, here and in ``blocks``.
      ValueError: for files without rows or with one column.
    """

    is_text = True

    def __init__(
        self, path: Path, separator: str | None, header: bool | None, comment: str | None, encoding: str,
        known: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.path, self._comment, self._encoding = path, comment, encoding
        ending = suffix_of(path)
        self._quote = None if ending in _WITHOUT_QUOTES else '"'
        self._separator = self._found_separator(ending) if separator is None else separator
        rows, ends = self._first_rows()
        if not rows:
            raise ValueError(f"{path} holds no ratings")
        first = rows[0]
        if header is None:
            names_known = any(plain_name(cell) in known for cell in first)
            header = names_known or (not any(map(is_number, first)) and ending in _WITH_HEADER)
        self._n_skipped = ends[0] if header else 0
        rows = rows[1:] if header else rows
        if len(first) < 2:
            raise ValueError(
                f"{path} must have at least two columns, separated by {self._separator!r}, got {first[0]!r}"
            )
        self.names = [cell.strip() for cell in first] if header else _NAMES[: len(first)]
        if not header and len(first) > len(_NAMES):
            self.names = [str(at) for at in range(len(first))]
        self._first = rows[0] if rows else []

    def blocks(self, columns: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Iterate over blocks of columns: ids as text, values as numbers, times as numbers or text.

        Args:
          columns: numbers of the columns ``"user"``, ``"item"``, and perhaps ``"value"`` and ``"timestamp"``.

        Yields:
          arrays of pyarrow by the names of the columns.

        Raises:
          ValueError: for rows of different lengths, and values that are not numbers.
        """
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        if not self._first:
            return
        at = columns.get("timestamp")
        has_dates = at is not None and at < len(self._first) and not is_number(self._first[at])
        types = {"user": pa.string(), "item": pa.string(), "value": pa.float64()}
        types["timestamp"] = pa.string() if has_dates else pa.float64()
        numbers = sorted(set(columns.values()))
        try:
            reader = arrow_csv.open_csv(
                self._stream(),
                arrow_csv.ReadOptions(
                    block_size=_BLOCK, skip_rows=self._n_skipped, column_names=[str(i) for i in range(len(self.names))]
                ),
                arrow_csv.ParseOptions(
                    delimiter=self._delimiter, quote_char=self._quote or False, newlines_in_values=bool(self._quote)
                ),
                arrow_csv.ConvertOptions(
                    column_types={str(at): types[role] for role, at in columns.items()},
                    include_columns=[str(at) for at in numbers],
                    null_values=["", "nan", "NaN", "NA", "null", "NULL", "None"],
                ),
            )
            for batch in reader:
                yield {role: batch.column(numbers.index(at)) for role, at in columns.items()}
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise UnicodeDecodeError(self._encoding, b"", 0, 0, str(error)) from error
            self._explain(columns, has_dates)
            raise ValueError(f"{self.path} can't be read: {error}") from error

    def where(self, row: int, column: int) -> tuple[str, str]:
        """Return the line of a row, counted from 1, and the text of a cell."""
        line, cells = next(itertools.islice(self._rows(), row, None))
        return f"line {line}", cells[column]

    def _explain(self, columns: dict[str, int], has_dates: bool) -> None:
        """Raise a ValueError for the first row that can't be read."""
        numeric = [at for role, at in columns.items() if role == "value" or (role == "timestamp" and not has_dates)]
        for line, cells in self._rows():
            if len(cells) != len(self.names):
                raise ValueError(
                    f"{self.path} must have the {len(self.names)} columns {', '.join(self.names)}, got {len(cells)} in "
                    f"line {line}"
                )
            for at in numeric:
                if not is_number(cells[at]):
                    raise ValueError(
                        f"{self.path}: {self.names[at]} must be finite numbers, got {cells[at]!r} in line {line}; "
                        "correct or drop such lines"
                    )

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Iterate slowly over rows, with the number of the line in which each begins, for messages."""
        with io.TextIOWrapper(raw_stream(self.path), self._encoding, newline="") as file:
            before, skip = 0, self._n_skipped > 0
            reader = self._reader(self._one_character(line) for line in file)
            for row in reader:
                start, before = before + 1, reader.line_num
                if not row or (self._comment and row[0].startswith(self._comment)):
                    continue
                if skip:
                    skip = False
                    continue
                yield start, row

    def _reader(self, lines: Iterator[str]) -> Any:
        return csv.reader(
            lines,
            delimiter=self._delimiter,
            quotechar=self._quote,
            quoting=csv.QUOTE_MINIMAL if self._quote else csv.QUOTE_NONE,
        )

    def _one_character(self, text: str) -> str:
        return text.replace(self._separator, self._delimiter)

    @property
    def _delimiter(self) -> str:
        return self._separator if len(self._separator) == 1 and self._separator.isascii() else _UNIT

    def _stream(self, replaces: bool = True) -> Any:
        """Open the file as UTF-8 without comments, with separators of one character."""
        import pyarrow as pa

        stream = raw_stream(self.path)
        if self._encoding != "utf-8":
            stream = pa.transcoding_input_stream(stream, self._encoding, "utf-8")
        long = self._separator if replaces and self._delimiter == _UNIT else ""
        if not long and not self._comment:
            return stream
        return pa.PythonFile(_Rewritten(stream, long.encode(), (self._comment or "").encode()), mode="r")

    def _start(self, size: int, replaces: bool = True) -> tuple[str, bool]:
        """Return the first characters of the file, and whether they are all."""
        data = b""
        with self._stream(replaces) as stream:
            while len(data) < size and (part := stream.read(size - len(data))):
                data += part
        decoder = codecs.getincrementaldecoder("utf-8")()
        return decoder.decode(data, len(data) < size).removeprefix("\ufeff"), len(data) < size

    def _found_separator(self, ending: str) -> str:
        self._separator = "\t"
        text, _ = self._start(_PEEK, replaces=False)
        line = next((line for line in text.splitlines() if line.strip()), "")
        usual = _USUAL.get(ending, "\t")
        return next((s for s in (usual, *_SEPARATORS) if s in line), usual)

    def _first_rows(self) -> tuple[list[list[str]], list[int]]:
        """Return up to two rows, and the numbers of lines up to the end of each."""
        size = _PEEK
        while True:
            text, is_all = self._start(size)
            reader = self._reader(io.StringIO(text, newline=""))
            found = [(row, reader.line_num) for row in itertools.islice(filter(None, reader), 3)]
            if len(found) == 3 or is_all:
                return [row for row, _ in found[:2]], [end for _, end in found[:2]]
            size *= 4


class _Rewritten(io.RawIOBase):
    """Bytes of another stream without lines of comments, and with a separator replaced by one character."""

    def __init__(self, source: Any, separator: bytes, comment: bytes) -> None:
        self._source, self._separator = source, separator
        self._comment = re.compile(rb"(?m)^" + re.escape(comment) + rb"[^\n]*\n?") if comment else None
        self._rest, self._ready, self._is_first = b"", b"", True

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, all of them by default."""
        while size < 0 or len(self._ready) < size:
            part = self._source.read(_BLOCK)
            data = self._rest + part
            end = data.rfind(b"\n") + 1 if part else len(data)  # whole lines, so that no separator is cut
            data, self._rest = data[:end], data[end:]
            if self._is_first:
                data, self._is_first = data.removeprefix(codecs.BOM_UTF8), False
            data = self._comment.sub(b"", data) if self._comment else data
            self._ready += data.replace(self._separator, _UNIT.encode()) if self._separator else data
            if not part:
                break
        size = len(self._ready) if size < 0 else size
        out, self._ready = self._ready[:size], self._ready[size:]
        return out
