"""Configuration classes as pytrees, and short reprs of objects that hold arrays."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")

_named: dict[str, type[Any]] = {}  # classes of configurations, by the name that model files know them under


@overload
def register_configuration(cls: type[T]) -> type[T]: ...
@overload
def register_configuration(*, name: str | None = None, static: bool = False) -> Callable[[type[T]], type[T]]: ...
def register_configuration(cls: Any = None, *, name: str | None = None, static: bool = False) -> Any:
    """Class decorator: a frozen dataclass becomes a pytree; fields with metadata ``static`` are part of its structure.

    As `jax.tree_util.register_dataclass`, with one difference. Its structures compare equal for different classes whose
    fields have the same names (seen with jax 0.10.2). `jax.jit` finds compiled code by the structure of the arguments,
    and may then run the code of `Ridge` for `Lasso`. Here the class is part of the structure.

    JAX rebuilds objects from tracers, None, and internal objects. It then sets the fields directly, without
    ``__init__`` and ``__post_init__``. Their checks therefore see only values that a user passed.

    Args:
      cls: a dataclass whose fields hold all of its data.
      name: the name that model files know the class under, such as ``"mylab.GroupLasso"``; without one, a file can't
        hold the class. A program that loads such a file imports the module of the class first. Classes of jax_mmf
        go by the name of the class.
      static: whether all fields are part of the structure.

    Returns:
      the class; or, without one, a decorator with these options.

    Raises:
      ValueError: if the name is that of another class. A class that is defined again, as in a notebook, replaces the
        previous one.
      TypeError: if the name is not a string.

    Example:
      >>> import dataclasses, jax, jax_mmf as mmf
      >>> @mmf.register_configuration(name="mylab.Plain")
      ... @dataclasses.dataclass(frozen=True)
      ... class Plain:
      ...     rate: float = 0.5
      >>> jax.tree.leaves(Plain())
      [0.5]
    """
    if cls is None:
        return lambda cls: _register(cls, name, static)
    return _register(cls, name, static)


def _register(cls: Any, name: str | None, static: bool) -> Any:
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise TypeError(
            f"register_configuration must decorate a dataclass, got {cls!r}; put @dataclass(frozen=True) below it"
        )
    fields = dataclasses.fields(cls)
    if name is None and cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
        name = cls.__name__
    if name is not None:
        _check_name(cls, name)
    fixed = tuple(f.name for f in fields if static or f.metadata.get("static"))
    leaves = tuple(f.name for f in fields if f.name not in fixed)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in leaves)

    def structure(value: Any) -> tuple[Any, tuple[Any, ...]]:
        return cls, tuple(getattr(value, name) for name in fixed)

    def flatten(value: Any) -> tuple[tuple[Any, ...], Any]:
        return tuple(getattr(value, name) for name in leaves), structure(value)

    def flatten_with_keys(value: Any) -> tuple[tuple[tuple[Any, Any], ...], Any]:
        children, kind = flatten(value)
        return tuple(zip(keys, children, strict=True)), kind

    def unflatten(kind: Any, children: Any) -> Any:
        value = object.__new__(cls)
        for name, part in (*zip(fixed, kind[1], strict=True), *zip(leaves, children, strict=True)):
            object.__setattr__(value, name, part)  # the class is frozen
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    if name is not None:
        _named[name] = cls
    return cls


def _check_name(cls: type[Any], name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string such as 'mylab.GroupLasso', got {name!r}")
    other = _named.get(name)
    if other is not None and not _is_same(other, cls):
        raise ValueError(
            f"name {name!r} already belongs to {other.__module__}.{other.__qualname__}; choose another, such as "
            f"'mylab.{cls.__name__}'"
        )


def _is_same(one: type[Any], other: type[Any]) -> bool:
    """Whether two classes are the same, or one redefines the other."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def configuration_name(cls: type[Any]) -> str | None:
    """The name of a registered class in model files, or None."""
    return next((name for name, known in _named.items() if _is_same(known, cls)), None)


def configuration_named(name: str) -> type[Any] | None:
    """The registered class of a name in model files, or None."""
    return _named.get(name)


class _Short:
    """Text for an array: a number for a concrete scalar, else its dtype and shape."""

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


@jax.jit
def copied(tree: T) -> T:
    """Copy all arrays of a pytree, by one program: steps overwrite the memory of their input state."""
    return jax.tree.map(jnp.copy, tree)
