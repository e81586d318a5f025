"""Removal of temporary files of killed processes, by the next process that writes the same file."""

import os
import platform
import zlib
from contextlib import suppress
from pathlib import Path


def temporary_prefix(path: Path) -> str:
    """Return the prefix of the names of temporary files for a path; it identifies the path and this process."""
    return f"{_prefix_of_all(path)}{_machine()}-{os.getpid()}-{_start_of(os.getpid())}-"


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files for a path that processes of this machine left when they were killed.

    Files of other machines are kept, because it is unknown whether their processes are still running.
    """
    common = _prefix_of_all(path)
    with suppress(OSError):
        for found in path.parent.iterdir():
            if found.name.startswith(common) and _is_dead(found.name.removeprefix(common)):
                with suppress(OSError):
                    found.unlink()


def _prefix_of_all(path: Path) -> str:
    # A checksum, because the file name itself may already have the largest allowed length.
    return f".jax-mmf-{zlib.crc32(os.fsencode(path.name)):08x}-"


def _is_dead(rest: str) -> bool:
    """Whether the process of a temporary file has ended, given the part of the file name after the common prefix."""
    machine, pid, start, *_ = (*rest.split("-"), "", "")
    if os.name == "nt" or machine != _machine() or not pid.isdecimal():  # Windows has no signal that only tests
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    # A later process may have the same number.
    return start != _start_of(int(pid))


def _machine() -> str:
    """Return a token of the machine or container. Process numbers are comparable only if the tokens are equal."""
    space, identity = 0, ""
    with suppress(OSError):
        space = Path("/proc/self/ns/pid").stat().st_ino
    with suppress(OSError):
        identity = Path("/etc/machine-id").read_text()
    return f"{zlib.crc32(f'{platform.node()} {space} {identity}'.encode()):08x}"


def _start_of(pid: int) -> str:
    """Return when a process started, in ticks since the machine started; 0 if the system does not provide this."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "0"
    return text.rpartition(")")[2].split()[19]
