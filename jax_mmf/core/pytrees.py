"""Configuration classes as pytrees, and short texts of what holds arrays."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")


def register_configuration(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass becomes a pytree; fields with metadata ``static`` are part of its structure.

    As `jax.tree_util.register_dataclass`, with one difference. Its structures compare equal for different classes whose
    fields have the same names (seen with jax 0.10.2), so that `jax.jit`, which finds compiled code by the structure of
    the arguments, may run the code of `Ridge` for `Lasso`. Here the class is part of the structure.

    JAX rebuilds objects from tracers, None, and objects of its own. Then the fields are set as they come, and
    ``__init__`` and ``__post_init__``, with their checks, do not run: they see values that a user gave, and no others.

    Args:
      cls: a dataclass whose fields are all there is in it.

    Returns:
      the class.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    static = tuple(f.name for f in fields if f.metadata.get("static"))
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in leaves)

    def structure(value: Any) -> tuple[type[T], tuple[Any, ...]]:
        return cls, tuple(getattr(value, name) for name in static)

    def flatten(value: Any) -> tuple[tuple[Any, ...], Any]:
        return tuple(getattr(value, name) for name in leaves), structure(value)

    def flatten_with_keys(value: Any) -> tuple[tuple[tuple[Any, Any], ...], Any]:
        children, kind = flatten(value)
        return tuple(zip(keys, children, strict=True)), kind

    def unflatten(kind: Any, children: Any) -> T:
        value = object.__new__(cls)
        for name, part in (*zip(static, kind[1], strict=True), *zip(leaves, children, strict=True)):
            object.__setattr__(value, name, part)  # the class is frozen
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class _Short:
    """Stands for an array in a text: a number for a scalar that is there, else its dtype and shape."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __repr__(self) -> str:
        array = self._array
        known = not isinstance(array, jax.core.Tracer) and not (isinstance(array, jax.Array) and array.is_deleted())
        kind = getattr(array.dtype, "kind", "key")
        if array.ndim == 0 and known and kind in "biuf":
            return f"{array.item():.6g}" if kind == "f" else str(array.item())
        return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def short(value: Any) -> str:
    """The repr of a pytree, with the dtype and shape of each array instead of its numbers: ``float32[16, 64]``."""
    is_array = lambda a: isinstance(a, jax.Array | np.ndarray | np.generic)  # noqa: E731
    return repr(jax.tree.map(lambda a: _Short(a) if is_array(a) else a, value))


def short_fields(value: Any, names: Iterable[str]) -> str:
    """The `short` repr of an object with some of its fields: ``Class(name=..., ...)``."""
    return f"{type(value).__name__}({', '.join(f'{name}={short(getattr(value, name))}' for name in names)})"
