"""The state of a run, its arrays by name, and the report of a step."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp

from jax_mmf.core import short_fields
from jax_mmf.learning.statistics import Memory
from jax_mmf.learning.surrogate import Surrogate
from jax_mmf.typing import Array, Key


class State(NamedTuple):
    """State of a run: with the data that follow, it determines the rest of the run bit for bit.

    The annotation of each array names its axes, k atoms and p features, which `map_arrays` uses.

    States can be pickled and copied. NumPy can't hold a typed key. To get a tree of NumPy arrays, use
    ``jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))``, and `jax.random.wrap_key_data` on
    the way back.

    Attributes:
      key: PRNG key of the run; it does not change.
      step: int32, number of steps done, modulo 2^31: after 2^31 steps, subsets and orders of atoms repeat.
      n_samples: int32, number of samples seen; it stops at 2^31 - 1, and weights of mini-batches with it.
      dictionary: ``(k, p)``.
      surrogate: moments of all samples: C and B, or, with partial B, C, residuals and counts of the features.
      gauge: ``(k,)`` gauges of the atoms.
      gram: ``(k, k)`` D D^T where the statistics need it, else None.
      update_state: of the dictionary update: ``()``, or the state of an optax optimiser.
      mean: ``(p,)`` with ``center=True``, the mean of the samples seen, else None.
      mean_weight: ``(p,)`` with ``center=True``, the sum of the weights of the entries that each mean is of, which is
        the number of samples without weights and masks; else None.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (20, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
      >>> state = solver.init(jax.random.key(1), samples=x)
      >>> state.dictionary.shape, int(state.step), int(state.n_samples)
      ((3, 8), 0, 0)
    """

    key: Key
    step: Annotated[Array, ""]
    n_samples: Annotated[Array, ""]
    dictionary: Annotated[Array, "kp"]
    surrogate: Surrogate
    gauge: Annotated[Array, "k"]
    gram: Annotated[Array | None, "kk"]
    update_state: Any
    mean: Annotated[Array | None, "p"] = None
    mean_weight: Annotated[Array | None, "p"] = None

    def __repr__(self) -> str:
        return short_fields(self, self._fields)


def _annotated(kind: type[Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Name and axes of each array of a named tuple, and of the named tuples in it."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if hasattr(hint, "__metadata__"):
            yield before + name, hint.__metadata__[0]
        elif hasattr(hint, "_fields"):
            yield from _annotated(hint, f"{before}{name}/")


_AXES = dict(_annotated(State))


def map_arrays(function: Callable[[str, str | None, Any], Any], state: State) -> State:
    """Apply a function to every array of a state except the key.

    Args:
      function: of the name of an array in files, its axes, and the array: ``("surrogate/c", "kk", c)``. Arrays of the
        dictionary update are numbered; one with the shape of the dictionary has its axes, and those of others are None.
      state: of arrays, or of anything with their shapes.

    Returns:
      a state.
    """
    named: Any = state._replace(key=None, update_state=None)  # type: ignore[arg-type]
    shape, (leaves, structure) = jnp.shape(state.dictionary), jax.tree.flatten(state.update_state)

    def visit(path: Any, array: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return function(name, _AXES[name], array)

    mapped: State = jax.tree_util.tree_map_with_path(visit, named)
    update = [
        function(f"update_state/{index}", "kp" if jnp.shape(array) == shape else None, array)
        for index, array in enumerate(leaves)
    ]
    return mapped._replace(key=state.key, update_state=jax.tree.unflatten(structure, update))


class Info(NamedTuple):
    """Report of a step.

    Attributes:
      codes: ``(b, k)`` of the mini-batch, in the dictionary before the step.
      weight: scalar, of the mini-batch in the moments.
      gap: ``(b,)`` duality gaps of the codes, relative to the objective.
      n_iter: ``(b,)`` int32, iterations of the code solver.
      n_dead: int32, number of unused atoms.
      finite: whether codes, their second moments and the gauges of the atoms are all finite. If not, the data held NaN
        or infinity, or the numbers overflowed, and the state is unusable: keep the previous one.
      memory: rows of the averaged statistics to write back, or None.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (20, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
      >>> state = solver.init(jax.random.key(1), samples=x)
      >>> state, info = solver.update(state, x)
      >>> info.codes.shape, bool(info.finite), int(info.n_dead)
      ((20, 3), True, 0)
    """

    codes: Array
    weight: Array
    gap: Array
    n_iter: Array
    n_dead: Array
    finite: Array
    memory: Memory | None

    def __repr__(self) -> str:
        return short_fields(self, self._fields)
