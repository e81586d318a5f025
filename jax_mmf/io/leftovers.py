"""Temporary files of killed processes, which the next process that writes the same file removes."""

import os
import platform
import zlib
from contextlib import suppress
from pathlib import Path


def temporary_prefix(path: Path) -> str:
    """Return how the names of this process's temporary files for a path start: they tell the path and the process."""
    return f"{_prefix_of_all(path)}{_machine()}-{os.getpid()}-{_start_of(os.getpid())}-"


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files for a path that dead processes of this machine left.

    Files of other machines stay, since it is unknown whether their processes live.
    """
    common = _prefix_of_all(path)
    with suppress(OSError):
        for found in path.parent.iterdir():
            if found.name.startswith(common) and _is_dead(found.name.removeprefix(common)):
                with suppress(OSError):
                    found.unlink()


def _prefix_of_all(path: Path) -> str:
    # A checksum, since the name itself may be as long as names may be.
    return f".jax-mmf-{zlib.crc32(os.fsencode(path.name)):08x}-"


def _is_dead(rest: str) -> bool:
    """Whether the process of a temporary file is dead, by the name of the file after the common prefix."""
    machine, pid, start, *_ = (*rest.split("-"), "", "")
    if os.name == "nt" or machine != _machine() or not pid.isdecimal():  # Windows has no signal that asks only
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    # The number may belong to a later process.
    return start != _start_of(int(pid))


def _machine() -> str:
    """Return a token of the machine, or of the container, whose process numbers mean something here."""
    space, identity = 0, ""
    with suppress(OSError):
        space = Path("/proc/self/ns/pid").stat().st_ino
    with suppress(OSError):
        identity = Path("/etc/machine-id").read_text()
    return f"{zlib.crc32(f'{platform.node()} {space} {identity}'.encode()):08x}"


def _start_of(pid: int) -> str:
    """Return when a process started, in ticks since the start of the machine; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "0"
    return text.rpartition(")")[2].split()[19]
