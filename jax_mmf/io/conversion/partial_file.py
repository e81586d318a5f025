"""Files that take hours to write, and can be continued after the process ended at any moment.

A folder ``NAME.partial`` next to the file holds the part that is written, and a record. The record describes the
conversion, and holds the number of complete rows. HDF5 keeps metadata in memory between flushes, and the record marks
the time of a flush. Thus the file on disk is either consistent, or marked as inconsistent.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jax_mmf.core import warn
from jax_mmf.io.bad_file import BadFileError
from jax_mmf.io.output.atomic import HDF5_ENDINGS, check_ending, check_outputs, publish
from jax_mmf.io.output.hdf5_output import HDF5Output, WrittenHDF5

_SECONDS_PER_FLUSH = 5.0


class PartialFile:
    """The part of a file that has been written so far, open for writing.

    Args:
      path: of the whole file.
      plan: the settings that determine the content, as JSON; "shape" holds the number of rows. A part with another
        plan is removed, with a warning.

    Attributes:
      file: HDF5 file.
      n_rows: number of complete rows in it.

    Raises:
      OSError: if the folder can't be written, or another process is writing it.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        self.folder = folder_of(path)
        self._path, self._plan = path, plan
        self._data, self._record = self.folder / "data.h5", self.folder / "record.json"
        self._check_folder()
        self.n_rows = self._rows_of_this_plan()
        self.file = self._open()
        self._last_flush = time.monotonic()

    def _check_folder(self) -> None:
        """Make the folder, or check that there is nothing else in it, since it is removed at the end."""
        own = {self._data.name, self._record.name, self._record.with_suffix(".new").name}
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} must be a folder, for the part that is written; move the file away")
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in own:
                raise FileExistsError(
                    f"{self.folder} is for the part that is written, and would be removed with {path.name} in it; move "
                    "it away, or give another output"
                )

    def restart(self, reason: str) -> None:
        """Discard what is written and start with an empty file, with a warning."""
        warn(f"{self.folder} can't be continued, since {reason}; the conversion starts again from the first row")
        self._close()
        self.n_rows = 0
        self.file = self._open()

    def complete(self, n_rows: int, *, at_once: bool = False) -> None:
        """Note that the first n rows are written. They are flushed to disk within seconds, or immediately."""
        self.file.check()
        self.n_rows = n_rows
        if at_once or time.monotonic() - self._last_flush >= _SECONDS_PER_FLUSH:
            self._output.synchronise()  # the numbers, which takes long; metadata are still in memory
            self._write_record(None)
            self.file.flush()
            self._output.synchronise()
            self._write_record(n_rows)
            self._last_flush = time.monotonic()

    def last_words(self) -> None:
        """Note that all rows are written, and that data sets follow which can't be continued if the process ends."""
        self.complete(self.n_rows, at_once=True)
        self._write_record(None)

    def publish(self) -> None:
        """Give the file its name, and remove the folder."""
        self._close()
        with self._data.open("rb+") as file:
            os.fsync(file.fileno())
        self._write_record(self.n_rows)  # the file is consistent again
        publish(self._data, self._path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder and what is written."""
        with suppress(OSError, RuntimeError):
            self._close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self) -> None:
        """Close the file; a later conversion can continue it."""
        with suppress(OSError, RuntimeError):
            self.complete(self.n_rows, at_once=True)
        with suppress(OSError, RuntimeError):
            self._close()

    @property
    def failed_write(self) -> OSError | None:
        """The error of the first write that failed, with the name of the file; or None."""
        error = self._output.error
        if error is not None and error.filename is None:
            error.filename = str(self._path)
        return error

    def _close(self) -> None:
        self.file.close()
        self._output.close()

    def _open(self) -> WrittenHDF5:
        """Open the part that is written if it can be continued, or else a new file."""
        existing = self.n_rows > 0 and self._data.exists()
        try:
            self._output = HDF5Output(self._data, existing=existing)
        except BlockingIOError as error:
            raise OSError(f"{self.folder} is in use: another process converts to {self._path}") from error
        if existing:
            try:
                return _with_metadata_in_memory(WrittenHDF5(self._output, "r+"))
            except (OSError, RuntimeError):
                warn(f"{self.folder} is damaged; the conversion starts again from the first row")
                self._output.close()
                self._output = HDF5Output(self._data)
        self.n_rows = 0
        return _with_metadata_in_memory(WrittenHDF5(self._output))

    def _rows_of_this_plan(self) -> int:
        """Return the number of complete rows, or 0 if there is nothing to continue."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            n_rows, plan = record["n_rows"], record["plan"]
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            n_rows, plan = None, self._plan
        if plan != self._plan:
            other = [name for name in self._plan if not isinstance(plan, dict) or plan.get(name) != self._plan[name]]
            warn(
                f"{self.folder} is of a conversion with another {', '.join(other) or 'plan'}; this one starts from the "
                "first row"
            )
            return 0
        if not isinstance(n_rows, int) or not 0 <= n_rows <= self._plan["shape"][0]:
            warn(f"{self.folder} was not written to its end; the conversion starts again from the first row")
            return 0
        return n_rows

    def _write_record(self, n_rows: int | None) -> None:
        aside = self._record.with_suffix(".new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump({"n_rows": n_rows, "plan": self._plan}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._record)


def folder_of(path: str | Path) -> Path:
    """Return the folder for the part of a file that has been written so far."""
    return Path(f"{path}.partial")


@contextmanager
def continued_file(path: str | Path, plan: dict[str, Any]) -> Iterator[PartialFile]:
    """Yield the part of an HDF5 file that has been written so far; the file gets its name at the end of the block.

    A TypeError or ValueError removes the part, because the same call would raise it again. The part is kept after a
    `BadFileError` and all other errors, after Ctrl-C, and after the end of the process.

    Args:
      path: of the file, .h5 or .hdf5.
      plan: as in `PartialFile`.
    """
    check_ending(path, HDF5_ENDINGS)
    check_outputs({"path": path})
    partial = PartialFile(Path(path), plan)
    try:
        yield partial
        partial.publish()
    except BaseException as error:
        if isinstance(error, TypeError | ValueError) and not isinstance(error, BadFileError):
            partial.discard()
        else:
            partial.keep()
        if partial.failed_write not in (None, error):  # HDF5 turns a failed write into other errors
            raise partial.failed_write from error
        raise


def _with_metadata_in_memory(file: WrittenHDF5) -> WrittenHDF5:
    """Make HDF5 write metadata only at a flush: the file on disk is then consistent between two flushes."""
    settings = file.id.get_mdc_config()
    settings.evictions_enabled = False
    settings.incr_mode = settings.flash_incr_mode = settings.decr_mode = 0  # which HDF5 asks for
    file.id.set_mdc_config(settings)
    return file
