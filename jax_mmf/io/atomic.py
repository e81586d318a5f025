"""Files that are whole or not there: written aside, then renamed into place."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it at the end if nothing was raised, and else removed.

    Args:
      path: of the file to write. A file that is there is replaced at the end only.

    Raises:
      OSError: if the folder does not exist or can't be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise type(error)(f"can't write {path}: {error.strerror or error}") from error
    os.close(handle)
    aside = Path(name)
    # mkstemp's files are private; the result should have the rights that any new file has.
    mask = os.umask(0)
    os.umask(mask)
    aside.chmod(0o666 & ~mask)
    try:
        yield aside
        aside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
