"""Updates of the dictionary: block coordinate descent on the surrogate, or any optax transformation.

Both work on the columns of the current subset only, and project each atom on the budget that its other features leave.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jax_mmf.constraints import Constraint
from jax_mmf.linalg import matmul
from jax_mmf.subsampling import Subset
from jax_mmf.surrogate import BatchMoments
from jax_mmf.typing import Array, Key
from jax_mmf.validation import check_choice, check_count, check_methods


class DictionaryProblem(NamedTuple):
    """What an update of the dictionary is computed from.

    Attributes:
      c: ``(k, k)`` of the surrogate.
      b: ``(k, s)`` of the surrogate, on the subset.
      batch: moments of the current mini-batch alone.
      budget: ``(k,)`` largest gauge of each atom on the subset.
      subset: the features.
    """

    c: Array
    b: Array
    batch: BatchMoments
    budget: Array
    subset: Subset


@runtime_checkable
class DictionaryUpdate(Protocol):
    """A way to improve the dictionary on the columns of a subset."""

    def init(self, dictionary: Array) -> Any:
        """State of the update for a dictionary ``(k, p)``: a pytree, ``()`` if there is none."""

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """New atoms ``(k, s)``, each within its budget, and the new state."""


@dataclass(frozen=True)
class BlockCoordinateDescent:
    """Exact minimisation of the surrogate over one atom after another, then projection ([JMLR10], algorithm 2)::

        d_j <- project(d_j + (b_j - c_j D) / c_jj)

    The gradient of a block of atoms comes from one matrix product; inside of the block it is corrected for the atoms
    before (Gauss-Seidel): the same result as atom by atom, with far less memory traffic. Atoms that no code used
    (c_jj at the level of rounding) stay as they are.

    Attributes:
      order: ``"random"``, afresh in each step, or ``"cyclic"`` (static).
      n_sweeps: passes over the atoms per step (static).
      block_size: atoms per matrix product (static), a matter of speed and memory only; by default 16, or 8 where the
        subset has more than 65,536 features.

    Raises:
      ValueError: for another order, or sizes below 1.
    """

    order: str = "random"
    n_sweeps: int = 1
    block_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("order", self.order, ("random", "cyclic"))
        check_count("n_sweeps", self.n_sweeps)
        if self.block_size is not None:
            check_count("block_size", self.block_size)

    def init(self, dictionary: Array) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def atom_order(self, key: Key, n_components: int) -> Array:
        """The order ``(k,)`` in which a step with this key visits the atoms."""
        if self.order == "random":
            return jax.random.permutation(key, n_components)
        return jnp.arange(n_components)

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """New atoms; arguments as in `DictionaryUpdate.update`."""
        k, s = atoms.shape
        # A few arrays of a block should fit in cache; at k = 256, s = 51,200, 8 atoms are slower than 16 all the same.
        size = min(self.block_size or (16 if s <= 2**16 else 8), k)
        # Places that fill up the last block point past the last atom: read as the last atom, never written.
        order = jnp.pad(self.atom_order(key, k), (0, -k % size), constant_values=k).reshape(-1, size)
        diagonal = jnp.diagonal(problem.c)
        # Below this, the rounding of b_j - c_j D is as large as c_jj itself.
        used = diagonal > diagonal.max() * jnp.finfo(diagonal.dtype).eps ** 2

        def block(i: Array, atoms: Array) -> Array:
            members = order[i]
            take = lambda array, axis=0: jnp.take(array, members, axis=axis, mode="clip")  # noqa: E731
            old, rows = take(atoms), take(problem.c)
            inside = take(rows, axis=1)
            # Without the terms of the block itself, which the loop below adds as they change. The loop carries nothing
            # but the atoms of the block, and takes their old values from outside: else XLA copies them each time.
            linear = take(problem.b) - matmul(rows, atoms) + matmul(inside, old)
            active, budget = take(used), take(problem.budget)
            others = inside * (1 - jnp.eye(size, dtype=inside.dtype))

            def one(j: Array, new: Array) -> Array:
                curvature = jnp.where(active[j], inside[j, j], 1)
                best = (linear[j] - matmul(others[j], new)) / curvature
                atom = jnp.where(active[j], _project(constraint, best, budget[j], problem.subset), old[j])
                return lax.dynamic_update_index_in_dim(new, atom, j, 0)

            new = lax.fori_loop(0, size, one, old)
            return atoms.at[members].set(new, mode="drop", unique_indices=True)

        sweep = lambda _, atoms: lax.fori_loop(0, order.shape[0], block, atoms)  # noqa: E731
        return lax.fori_loop(0, self.n_sweeps, sweep, atoms), state


@dataclass(frozen=True)
class GradientUpdate:
    """Any optax transformation on the gradient ``(C D - B)`` of the current mini-batch alone, then projection.

    The gradient exists on the subset only. State of the optimiser that has the shape of the dictionary (momentum,
    second moments) is updated there and stays as it is elsewhere; other state (step counts) is shared.

    Attributes:
      optimizer: an `optax.GradientTransformation` (static); a learning rate that should not be compiled in goes
        through `optax.inject_hyperparams`.

    Raises:
      TypeError: if optimizer has no init and update.
    """

    optimizer: optax.GradientTransformation = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_methods("optimizer", self.optimizer, "optax.GradientTransformation", ("init", "update"))

    def init(self, dictionary: Array) -> Any:
        """State of the optimiser for the whole dictionary ``(k, p)``."""
        return self.optimizer.init(dictionary)

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """New atoms; arguments as in `DictionaryUpdate.update`."""
        subset = problem.subset
        shape = (atoms.shape[0], subset.n_features)
        like_dictionary = lambda leaf: jnp.shape(leaf) == shape  # noqa: E731
        part = jax.tree.map(lambda a: subset.gather(a) if like_dictionary(a) else a, state)
        gradient = matmul(problem.batch.c, atoms) - problem.batch.b
        updates, part = self.optimizer.update(gradient, part, atoms)
        moved = optax.apply_updates(atoms, updates)
        assert isinstance(moved, jax.Array)
        project = lambda atom, budget: _project(constraint, atom, budget, subset)  # noqa: E731
        state = jax.tree.map(lambda old, new: subset.scatter(old, new) if like_dictionary(old) else new, state, part)
        return jax.vmap(project)(subset.drop_invalid(moved), problem.budget), state


for _class in (BlockCoordinateDescent, GradientUpdate):
    jax.tree_util.register_static(_class)


def _project(constraint: Constraint, atom: Array, budget: Array, subset: Subset) -> Array:
    """Projection of the part of an atom on a subset. Columns that are not valid are none of its features."""
    if subset.valid is None:
        return constraint.project(atom, budget)
    # Far below every other entry, a padded column is outside of the support on the simplex too.
    if constraint.nonneg:
        atom = jnp.where(subset.valid, atom, jnp.minimum(atom.min(), 0) - 4 * jnp.abs(atom).max() - budget)
    return subset.drop_invalid(constraint.project(atom, budget))
