"""Atomic writing of files: they are written under a temporary name, then renamed."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from jax_mmf.io.output.hdf5_output import HDF5Output, WrittenHDF5
from jax_mmf.io.output.leftovers import remove_leftovers, temporary_prefix

HDF5_ENDINGS = (".h5", ".hdf5")
_LONGEST_SUFFIX = 20  # a longer suffix is not a format, and could make a temporary name too long
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)  # errors of a write, without file name


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to ``path`` at the end, or removed after an error.

    The file is flushed to disk before the renaming, and the folder after it. An existing file is replaced only at the
    end, and keeps its permissions. A symbolic link stays, and the file that it points to is replaced. Temporary files
    that killed processes left for the same path are removed first.

    Args:
      path: of the file to write.

    Raises:
      OSError: if the folder does not exist or can't be written, the name belongs to a folder, a device or a pipe, or
        the disk is full.
    """
    path, shown = _target(path), path
    remove_leftovers(path)
    try:
        suffix = path.suffix if len(path.suffix) < _LONGEST_SUFFIX else ""
        handle, name = tempfile.mkstemp(prefix=temporary_prefix(path), suffix=suffix, dir=path.parent)
    except OSError as error:
        raise type(error)(f"can't write {shown}: {error.strerror or error}") from error
    os.close(handle)
    aside = Path(name)
    try:
        _set_permissions(aside, path)
        yield aside
        _rename(aside, path)
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            error.filename = str(shown)
        raise
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


@contextmanager
def hdf5_written_aside(
    path: str | Path, *, userblock_size: int | None = None, finish: Callable[[Path], None] | None = None
) -> Iterator[WrittenHDF5]:
    """Yield a new HDF5 file, open for writing, which is renamed to ``path`` at the end, or removed after an error.

    A failed write raises an error at the end of the block, or at the next call of the file's method ``check``.

    Args:
      path: of the file to write.
      userblock_size: as of `h5py.File`.
      finish: function that is called with the temporary path of the complete file before the renaming, or None.

    Raises:
      ValueError: if the name does not end in .h5 or .hdf5.
      OSError: as of `written_aside`.
    """
    check_ending(path, HDF5_ENDINGS)
    with written_aside(path) as aside:
        with HDF5Output(aside) as output, WrittenHDF5(output, userblock_size=userblock_size) as file:
            yield file
        if finish is not None:
            finish(aside)


def check_outputs(outputs: Mapping[str, str | Path | None], *inputs: str | Path | None) -> None:
    """Check that outputs can be written, and differ from each other and from the inputs.

    Paths are compared after links are resolved.

    Args:
      outputs: paths or None, by the name of the option or argument.
      inputs: files that must not be overwritten, or None.

    Raises:
      ValueError: if two outputs are one file, or an output is an input.
      OSError: if an output can't be written: its folder does not exist or may not be written, or the name is too long
        or belongs to a folder, a device or a pipe.
    """
    seen: dict[str, Path] = {}
    for name, given in outputs.items():
        if given is None:
            continue
        path = Path(given)
        for other, earlier in seen.items():
            if _is_same_file(path, earlier):
                raise ValueError(f"{other} and {name} are both {path}; give them different names")
        if any(_is_same_file(path, Path(i)) for i in inputs if i is not None):
            raise ValueError(f"{name} {path} is an input too; give the output another name")
        folder = _target(path).parent
        if not folder.is_dir():
            raise FileNotFoundError(f"the folder {folder} of {path.name} does not exist; create it first")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"can't write {path}")
        seen[name] = path


def publish(aside: Path, path: Path) -> None:
    """Give a complete file its name, with the permissions of the file that it replaces; links stay."""
    path = _target(path)
    _set_permissions(aside, path)
    _rename(aside, path)


def check_ending(path: str | Path, endings: tuple[str, ...]) -> None:
    """Raise a ValueError unless a file name has one of the given endings, by which readers recognise the format."""
    path = Path(path)
    if path.suffix.lower() not in endings and not path.is_dir():
        advice = f"call it {path.with_suffix(endings[0]).name}" if path.name else "give the name of a file"
        raise ValueError(f"{path} must end in {' or '.join(endings)}, the format that is written; {advice}")


def _target(path: str | Path) -> Path:
    """Return the path of the regular file to write, at the end of symbolic links; the file need not exist."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path.resolve() if path.is_symlink() else path
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise FileExistsError(f"{path} is a device or a pipe, which a file would replace; give the name of a file")
    return path.resolve() if path.is_symlink() else path


def _rename(aside: Path, path: Path) -> None:
    """Flush a file to disk, rename it, and flush the folder."""
    _synchronise(aside)
    aside.replace(path)
    _synchronise(path.parent)


def _is_same_file(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def _set_permissions(aside: Path, path: Path) -> None:
    """Give a file of mkstemp, which is private, the owner and mode of the file that it replaces, or of a new file."""
    with suppress(FileNotFoundError):
        there = path.stat()
        with suppress(PermissionError, AttributeError):  # Windows has no owners
            os.chown(aside, there.st_uid, there.st_gid)
        aside.chmod(stat.S_IMODE(there.st_mode))
        return
    mask = os.umask(0)
    os.umask(mask)
    aside.chmod(0o666 & ~mask)


def _synchronise(path: Path) -> None:
    """Flush a file or folder to disk; some file systems can't do this for folders."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
