"""Warnings that point to a line of the user's program."""

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax

_MANY_COMPONENTS = 64  # from here on OpenBLAS factorizes on several threads


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the line of the user's program that made the call, outside of this package and of JAX."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("jax_mmf", "jax"):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, category, stacklevel=level)


def renamed(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module, which resolves deprecated names with a DeprecationWarning.

    Args:
      module: its ``__name__``.
      names: the new name for each old one.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name} is now {module}.{names[name]}; the old name will be removed", DeprecationWarning)
        return getattr(sys.modules[module], names[name])

    return get


def warn_of_blas_threads(n_components: int) -> None:
    """Warn once if the threads of SciPy's OpenBLAS, JAX's linear algebra on CPU, will compete with those of XLA."""
    if n_components >= _MANY_COMPONENTS and _n_blas_threads() > 1 and jax.default_backend() == "cpu":
        _warn_of_blas_threads()


@functools.cache
def _warn_of_blas_threads() -> None:
    warn(
        "OPENBLAS_NUM_THREADS is not set: the threads of OpenBLAS, with which JAX factorizes matrices on CPU, slow "
        "down those of XLA by a factor of 2 or more. Set OPENBLAS_NUM_THREADS=1 before Python starts, or "
        'os.environ["OPENBLAS_NUM_THREADS"] = "1" before NumPy and JAX are imported'
    )


def _n_blas_threads() -> int:
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return os.cpu_count() or 1
