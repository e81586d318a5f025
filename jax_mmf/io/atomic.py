"""Atomic writing of files: they are written under a temporary name, then renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

HDF5_ENDINGS = (".h5", ".hdf5")


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to ``path`` at the end, or removed after an error.

    Args:
      path: of the file to write. An existing file is replaced only at the end.

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
    # Files of mkstemp are private. The result should have the permissions of any new file.
    mask = os.umask(0)
    os.umask(mask)
    aside.chmod(0o666 & ~mask)
    try:
        yield aside
        aside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


@contextmanager
def hdf5_written_aside(path: str | Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, open for writing, which is renamed to ``path`` at the end, or removed after an error.

    Raises:
      ValueError: if the name does not end in .h5 or .hdf5.
      OSError: if the folder does not exist or can't be written.
    """
    check_ending(path, HDF5_ENDINGS)
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        yield file


def check_ending(path: str | Path, endings: tuple[str, ...]) -> None:
    """Raise a ValueError unless a file name has one of some endings, by which readers recognise the format."""
    path = Path(path)
    if path.suffix.lower() not in endings and not path.is_dir():
        advice = f"call it {path.with_suffix(endings[0]).name}" if path.name else "give the name of a file"
        raise ValueError(f"{path} must end in {' or '.join(endings)}, the format that is written; {advice}")
