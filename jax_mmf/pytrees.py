"""Registration of configuration classes as pytrees."""

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T")


def register_configuration(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass becomes a pytree; fields with metadata ``static`` are part of its structure.

    As `jax.tree_util.register_dataclass`, but for one thing. Its structures compare equal for different classes whose
    fields have the same names (seen with jax 0.10.2), so that `jax.jit`, which finds compiled code by the structure of
    the arguments, may run the code of `Ridge` for `Lasso`. Here the class is part of the structure.

    Args:
      cls: a dataclass.

    Returns:
      the class.
    """
    fields = [f for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
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
        return cls(**dict(zip(static, kind[1], strict=True)), **dict(zip(leaves, children, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
