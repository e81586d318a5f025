"""Updates of the dictionary: block coordinate descent or projected gradient on the surrogate, or optax.

All work on the columns of the current subset only, and project each atom on the budget that its other features leave.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jax_mmf.constraints import Constraint
from jax_mmf.core import check_choice, check_count, check_methods, in_tiles, largest_eigenvalue, map_rows, matmul
from jax_mmf.learning.subsampling import Subset
from jax_mmf.learning.surrogate import BatchMoments
from jax_mmf.typing import Array, Key

_MANY_FEATURES = 2**16  # above, arrays as large as a few atoms are kept small
_POWER_ITERATIONS = 4
_MARGIN = 1.1  # on an eigenvalue that is estimated from below


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
        size = min(self.block_size or (16 if s <= _MANY_FEATURES else 8), k)
        # Places that fill up the last block point past the last atom: read as the last atom, never written.
        order = jnp.pad(self.atom_order(key, k), (0, -k % size), constant_values=k).reshape(-1, size)
        used = _used(problem.c)

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
class ProjectedGradient:
    """Gradient steps on the surrogate, of all atoms at once, and projections::

        d_j <- project(d_j + (b_j - c_j D) / (curvature c_jj))

    The curvature is the largest eigenvalue of C with its diagonal scaled to one, 1 if no two atoms are used together:
    with it, a step never raises the surrogate. Where codes are sparse it is 3 to 5, and a step, or a few, teach as much
    as a sweep of `BlockCoordinateDescent`. A step needs one product C D and little else, on any number of threads, and
    none of the sequence of small operations that accelerators are slow at. Where all atoms are in all codes, as with
    ridge codes, it is tens, and takes that many steps, or the root of it by Nesterov's momentum: coordinate descent is
    better there.

    The curvature comes from a few power iterations, from the eigenvector of the step before, which is the state of this
    update. Atoms that no code used stay as they are.

    Attributes:
      n_steps: gradient steps per step of learning (static); with momentum from the second [Beck and Teboulle 2009].

    Raises:
      ValueError: if n_steps is below 1.
    """

    n_steps: int = 1

    def __post_init__(self) -> None:
        check_count("n_steps", self.n_steps)

    def init(self, dictionary: Array) -> Array:
        """The first guess ``(k,)`` of the leading eigenvector."""
        return jnp.ones(dictionary.shape[:1], dictionary.dtype)

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """New atoms; arguments as in `DictionaryUpdate.update`."""
        diagonal, used = jnp.diagonal(problem.c), _used(problem.c)
        scale = jnp.where(used, lax.rsqrt(jnp.where(used, diagonal, 1)), 0)
        value, vector = largest_eigenvalue(problem.c * scale[:, None] * scale[None], state, _POWER_ITERATIONS)
        state = jnp.where(value > 0, vector, state)
        # Half of the eigenvalue would be enough for descent.
        rate = (scale**2 / jnp.maximum(_MARGIN * value, 1))[:, None]

        def project(atom: Array, budget: Array, used: Array) -> Array:
            return jnp.where(used, _project(constraint, atom, budget, problem.subset), atom)

        def forward(atoms: Array) -> Array:
            step = lambda take, d: d + rate * (take(problem.b) - matmul(problem.c, d))  # noqa: E731
            # In tiles there is no second dictionary, but on smaller ones that costs a quarter more.
            moved = step(lambda b: b, atoms) if atoms.shape[1] <= _MANY_FEATURES else in_tiles(step, atoms)
            return map_rows(project, moved, problem.budget, used)

        def accelerated(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            new, before = carry
            inertia = i.astype(new.dtype) / (i + 3)
            return forward(new + inertia * (new - before)), new

        new = forward(atoms)
        if self.n_steps > 1:
            new, _ = lax.fori_loop(1, self.n_steps, accelerated, (new, atoms))
        return new, state


@dataclass(frozen=True)
class GradientUpdate:
    """Any optax transformation on the gradient ``(C D - B)`` of the current mini-batch alone, then projection.

    The gradient exists on the subset only. State of the optimiser that has the shape of the dictionary (momentum,
    second moments) is updated there and stays as it is elsewhere; other state (step counts) is shared.

    Optax builds its transformations of local functions, which `pickle` refuses. `cloudpickle` takes them; or save the
    state with `save_model`, and make the solver anew.

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
        return map_rows(project, subset.drop_invalid(moved), problem.budget), state


for _class in (BlockCoordinateDescent, ProjectedGradient, GradientUpdate):
    jax.tree_util.register_static(_class)


def _used(c: Array) -> Array:
    """Atoms that codes used: ``(k,)``. Below this, the rounding of b_j - c_j D is as large as c_jj itself."""
    diagonal = jnp.diagonal(c)
    return diagonal > diagonal.max() * jnp.finfo(c.dtype).eps ** 2


def _project(constraint: Constraint, atom: Array, budget: Array, subset: Subset) -> Array:
    """Projection of the part of an atom on a subset. Columns that are not valid are none of its features."""
    if subset.valid is None:
        return constraint.project(atom, budget)
    # Far below every other entry, a padded column is outside of the support on the simplex too.
    if constraint.nonneg:
        atom = jnp.where(subset.valid, atom, jnp.minimum(atom.min(), 0) - 4 * jnp.abs(atom).max() - budget)
    return subset.drop_invalid(constraint.project(atom, budget))
