"""The error of files that can't be trusted."""

from collections.abc import Iterator
from contextlib import contextmanager


class BadFileError(ValueError):
    """A file is damaged, is not what its name says, holds what is refused, or changed while it was read."""


class NoDataSetError(BadFileError, KeyError):
    """A file does not hold the data set that was asked for, or holds several and none was asked for."""

    def __str__(self) -> str:
        """Return the message; that of a KeyError would be in quotes."""
        return ValueError.__str__(self)


@contextmanager
def bad_file_told(what: str) -> Iterator[None]:
    """Raise errors in a block that reads a file as a `BadFileError`: its libraries raise errors of any kind.

    Errors that tell of the file already, and those about rights and files that are not there, stay as they are.

    Args:
      what: start of the message, which names the file.
    """
    try:
        yield
    except (BadFileError, PermissionError, FileNotFoundError):
        raise
    except Exception as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        raise BadFileError(f"{what}: {text or type(error).__name__}") from error
