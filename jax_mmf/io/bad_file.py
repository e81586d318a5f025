"""The error of files that can't be trusted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BadFileError(ValueError):
    """A file is damaged, is not what its name says, holds what is refused, or changed while it was read."""


class NoDataSetError(BadFileError, KeyError):
    """A file does not hold the data set that was asked for, or holds several and none was asked for."""

    def __str__(self) -> str:
        """Return the message; that of a KeyError would be in quotes."""
        return ValueError.__str__(self)


class MissingFilterError(BadFileError, ImportError):
    """The numbers of a file are compressed by what is not installed, or what the damaged file names."""


@contextmanager
def bad_file_told(path: Path, what: str) -> Iterator[None]:
    """Raise errors in a block that reads a file as a `BadFileError`: its libraries raise errors of any kind.

    Errors that name the file already, and those about rights and missing packages, stay as they are.

    Args:
      path: of the file.
      what: may be wrong with it: the message is "path what: error".
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
