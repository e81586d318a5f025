"""The errors of files that are damaged or can't be trusted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BadFileError(ValueError):
    """A file is damaged, has another format than its name says, has refused content, or changed while it was read.

    Example:
      >>> import pathlib, tempfile, jax_mmf as mmf
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "x.npy"
      ...     size = path.write_bytes(b"not an array")
      ...     try:
      ...         mmf.open_source(path)
      ...     except mmf.BadFileError as error:
      ...         print("x.npy is not a NumPy array file" in str(error))
      True
    """


class NoDataSetError(BadFileError, KeyError):
    """A file does not hold the requested data set, or it holds several and none was named."""

    def __str__(self) -> str:
        """Return the message without the quotes that a KeyError would add."""
        return ValueError.__str__(self)


class MissingFilterError(BadFileError, ImportError):
    """The numbers of a file need a filter that is not installed, or a filter that a damaged file names by mistake."""


@contextmanager
def bad_file_told(path: Path, what: str) -> Iterator[None]:
    """Convert errors of any kind, in a block that reads a file by other libraries, to a `BadFileError`.

    A `BadFileError` that already names the file is not changed, nor are errors about permissions and missing packages.

    Args:
      path: of the file.
      what: what may be wrong with the file; the message is "path what: error".
    """
    try:
        yield
    except (PermissionError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, BadFileError) and str(path) in str(error):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        raise BadFileError(f"{path} {what}: {text or type(error).__name__}") from error
