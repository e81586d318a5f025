"""Compiled programs on disk, which later processes need not compile again."""

import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from jax_mmf.core.user_warnings import warn


def enable_compilation_cache(path: str | Path | None = None) -> Path | None:
    """Store the programs that JAX compiles in a folder, and load them from there in later processes.

    Call it before the first computation: programs that JAX compiled earlier are not stored. All later ones are, however
    small. A stored program is used again if the computation, its shapes and dtypes, the version of JAX, the device and
    the compiler flags are the same.

    Programs for CPU use the instructions of the CPU that compiled them. Each kind of CPU has its own default folder, so
    that different machines can share a home directory. Do not share a custom ``path`` between different kinds of CPU.
    JAX runs what is in the folder: give write access only to users whom you trust.

    Args:
      path: of the folder. By default the one that JAX is already configured to use (``JAX_COMPILATION_CACHE_DIR``), or
        else ``jax-mmf/xla`` in the user's cache directory: ``$XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches`` on
        macOS, ``%LOCALAPPDATA%`` on Windows.

    Returns:
      the folder, or None if it can't be written.

    Warns:
      UserWarning: if the folder can't be written; nothing is stored then.

    Example:
      >>> import jax_mmf as mmf
      >>> folder = mmf.enable_compilation_cache()  # doctest: +SKIP
    """
    settings: Any = jax.config
    configured: str | None = settings.jax_compilation_cache_dir
    if path is None and configured:
        return Path(configured)  # keep the limits that were configured with it
    folder = _default_folder() if path is None else Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        reason = "" if os.access(folder, os.W_OK) else "no right to write there"
    if reason:
        text = (
            f"compiled programs are not kept: can't write the folder {folder} ({reason}); set XDG_CACHE_HOME to "
            "a folder that can be written"
        )
        warn(text)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _default_folder() -> Path:
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "jax-mmf" / "xla" / _cpu()


def _cpu() -> str:
    """Return a short name of this kind of CPU, which depends on its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []  # not Linux, where machines seldom share a home directory
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
