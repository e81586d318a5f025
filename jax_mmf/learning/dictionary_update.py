"""Updates of the dictionary: block coordinate descent or projected gradient on the surrogate, or optax.

All work on the columns of the current subset only, and project each atom onto the budget that its other features leave.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from jax_mmf.constraints import Constraint
from jax_mmf.core import (
    check_choice,
    check_count,
    check_methods,
    in_tiles,
    largest_eigenvalue,
    map_rows,
    matmul,
    register_configuration,
)
from jax_mmf.learning.subset import Subset
from jax_mmf.learning.surrogate import BatchMoments
from jax_mmf.typing import Array, Key

if TYPE_CHECKING:  # importing optax takes as long as the rest of the package
    import optax

_MANY_FEATURES = 2**16  # above this number, temporary arrays of several atoms are avoided
_FEW_ATOMS = 128  # a block is corrected after each atom; products of few rows cost more with many atoms
_POWER_ITERATIONS = 4
_MARGIN = 1.1  # on the eigenvalue, which is estimated from below


class DictionaryProblem(NamedTuple):
    """Input of a dictionary update.

    Attributes:
      c: ``(k, k)`` moments C of the surrogate.
      b: ``(k, s)`` moments B of the surrogate, on the subset.
      batch: moments of the current mini-batch alone.
      budget: ``(k,)`` largest gauge of each atom on the subset.
      subset: the features.

    Example:
      >>> import jax, jax.numpy as jnp, jax_mmf as mmf
      >>> subset = mmf.FullSubset().draw(jax.random.key(0), 0, n_features=8)
      >>> batch = mmf.extending.BatchMoments(c=jnp.eye(2), b=jnp.ones((2, 8)))
      >>> budget = jnp.ones(2)
      >>> problem = mmf.extending.DictionaryProblem(batch.c, batch.b, batch=batch, budget=budget, subset=subset)
      >>> problem.b.shape
      (2, 8)
    """

    c: Array
    b: Array
    batch: BatchMoments
    budget: Array
    subset: Subset


@runtime_checkable
class DictionaryUpdate(Protocol):
    """Rule that improves the dictionary on the columns of a subset.

    Example:
      >>> import jax.numpy as jnp, jax_mmf as mmf
      >>> mmf.BlockCoordinateDescent().init(jnp.eye(2, 8))
      ()
    """

    def init(self, dictionary: Array) -> Any:
        """Return the initial state of the rule for a dictionary ``(k, p)``: a pytree, ``()`` if it has no state."""

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """Return new atoms ``(k, s)``, each within its budget, and the new state."""


@register_configuration(static=True)
@dataclass(frozen=True)
class BlockCoordinateDescent:
    """Exact minimisation of the surrogate over one atom after another, then projection ([JMLR10], algorithm 2)::

        d_j <- project(d_j + (b_j - c_j D) / c_jj)

    One matrix product gives the gradient of a block of atoms. Within the block, the gradient is corrected after each
    atom (Gauss-Seidel). The result is the same as atom by atom, with far less memory traffic. Atoms that no code uses
    (c_jj at the level of rounding) stay unchanged.

    Attributes:
      order: ``"random"``, a new order in each step, or ``"cyclic"`` (static).
      n_sweeps: passes over the atoms per step (static).
      block_size: atoms per matrix product (static), which affects speed and memory only; by default 8, or 16 for more
        than 128 atoms on at most 65,536 features.

    Raises:
      ValueError: for another order, or sizes below 1.

    Example:
      >>> import jax_mmf as mmf
      >>> mmf.BlockCoordinateDescent(order="cyclic", n_sweeps=2)
      BlockCoordinateDescent(order='cyclic', n_sweeps=2, block_size=None)
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
        """Return the empty state."""
        return ()

    def atom_order(self, key: Key, n_components: int) -> Array:
        """Return the order ``(k,)`` in which a step with this key visits the atoms."""
        if self.order == "random":
            return jax.random.permutation(key, n_components)
        return jnp.arange(n_components)

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """Return new atoms and the state; arguments as in `DictionaryUpdate.update`."""
        k, s = atoms.shape
        size = min(self.block_size or (16 if k > _FEW_ATOMS and s <= _MANY_FEATURES else 8), k)
        # The padding of the last block points past the last atom: it reads the last atom and is never written.
        order = jnp.pad(self.atom_order(key, k), (0, -k % size), constant_values=k).reshape(-1, size)
        used = _used(problem.c)

        def block(i: Array, atoms: Array) -> Array:
            members = order[i]
            take = lambda array, axis=0: jnp.take(array, members, axis=axis, mode="clip")  # noqa: E731
            old, rows = take(atoms), take(problem.c)
            inside = take(rows, axis=1)
            # The terms of the block itself are left out, and the loop below adds them as they change. The loop carries
            # only the atoms of the block and reads their old values from outside: XLA would copy anything else.
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


@register_configuration(static=True)
@dataclass(frozen=True)
class ProjectedGradient:
    """Projected gradient steps on the surrogate, for all atoms together::

        d_j <- project(d_j + (b_j - c_j D) / (curvature c_jj))

    The curvature is the largest eigenvalue of C with its diagonal scaled to one. It is 1 if no two atoms are used
    together. With this curvature, a step never raises the surrogate.

    For sparse codes the curvature is 3 to 5, and one step or a few achieve as much as a sweep of
    `BlockCoordinateDescent`. A step costs one product C D and little else, on any number of threads. It has no long
    sequence of small operations, which are slow on accelerators. If every code uses all atoms, as with ridge, the
    curvature is several tens. About as many steps are then needed, or the square root of that number with Nesterov's
    momentum, and coordinate descent is better.

    A few power iterations estimate the curvature. They start from the eigenvector of the previous step, which is the
    state of this update. Atoms that no code uses stay unchanged.

    Attributes:
      n_steps: gradient steps per learning step (static); those after the first use momentum (Beck and Teboulle 2009).

    Raises:
      ValueError: if n_steps is below 1.

    Example:
      >>> import jax_mmf as mmf
      >>> solver = mmf.OnlineFactorization(n_components=2, dictionary_update=mmf.ProjectedGradient(n_steps=4))
      >>> solver.dictionary_update
      ProjectedGradient(n_steps=4)
    """

    n_steps: int = 1

    def __post_init__(self) -> None:
        check_count("n_steps", self.n_steps)

    def init(self, dictionary: Array) -> Array:
        """Return the first guess ``(k,)`` of the leading eigenvector."""
        return jnp.ones(dictionary.shape[:1], dictionary.dtype)

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """Return new atoms and the state; arguments as in `DictionaryUpdate.update`."""
        diagonal, used = jnp.diagonal(problem.c), _used(problem.c)
        scale = jnp.where(used, lax.rsqrt(jnp.where(used, diagonal, 1)), 0)
        value, vector = largest_eigenvalue(problem.c * scale[:, None] * scale[None], state, _POWER_ITERATIONS)
        state = jnp.where(value > 0, vector, state)
        # Half of the eigenvalue would be enough to guarantee descent.
        rate = (scale**2 / jnp.maximum(_MARGIN * value, 1))[:, None]

        def project(atom: Array, budget: Array, used: Array) -> Array:
            return jnp.where(used, _project(constraint, atom, budget, problem.subset), atom)

        def forward(atoms: Array) -> Array:
            step = lambda take, d: d + rate * (take(problem.b) - matmul(problem.c, d))  # noqa: E731
            # Tiles avoid a second array as large as the dictionary, but take a quarter more time on small ones.
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


@register_configuration
@dataclass(frozen=True)
class GradientUpdate:
    """Step of any optax optimiser on the gradient ``(C D - B)`` of the current mini-batch, then projection.

    The gradient is known on the subset only. State of the optimiser that has the shape of the dictionary (momentum,
    second moments) is updated there and stays unchanged elsewhere; other state (step counts) is shared.

    Optax builds its transformations from local functions, which `pickle` rejects. Use `cloudpickle`, or save the state
    with `save_model` and construct the solver again.

    Attributes:
      optimizer: an `optax.GradientTransformation` (static); use `optax.inject_hyperparams` to change the learning
        rate without a new compilation.

    Raises:
      TypeError: if optimizer has no init and update.

    Example:
      >>> import optax, jax_mmf as mmf
      >>> update = mmf.GradientUpdate(optax.adam(1e-3))
      >>> solver = mmf.OnlineFactorization(n_components=2, dictionary_update=update)
    """

    optimizer: "optax.GradientTransformation" = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_methods("optimizer", self.optimizer, "optax.GradientTransformation", ("init", "update"))

    def init(self, dictionary: Array) -> Any:
        """Return the initial state of the optimiser for the whole dictionary ``(k, p)``."""
        return self.optimizer.init(dictionary)

    def update(
        self, key: Key, atoms: Array, problem: DictionaryProblem, constraint: Constraint, state: Any
    ) -> tuple[Array, Any]:
        """Return new atoms and the state; arguments as in `DictionaryUpdate.update`."""
        subset = problem.subset
        shape = (atoms.shape[0], subset.n_features)
        like_dictionary = lambda leaf: jnp.shape(leaf) == shape  # noqa: E731
        part = jax.tree.map(lambda a: subset.gather(a) if like_dictionary(a) else a, state)
        gradient = matmul(problem.batch.c, atoms) - problem.batch.b
        updates, part = self.optimizer.update(gradient, part, atoms)
        import optax

        moved = optax.apply_updates(atoms, updates)
        assert isinstance(moved, jax.Array)
        project = lambda atom, budget: _project(constraint, atom, budget, subset)  # noqa: E731
        state = jax.tree.map(lambda old, new: subset.scatter(old, new) if like_dictionary(old) else new, state, part)
        return map_rows(project, subset.drop_invalid(moved), problem.budget), state


def _used(c: Array) -> Array:
    """Whether codes use each atom: ``(k,)``. Below the limit, the rounding of b_j - c_j D is as large as c_jj."""
    diagonal = jnp.diagonal(c)
    return diagonal > diagonal.max() * jnp.finfo(c.dtype).eps ** 2


def _project(constraint: Constraint, atom: Array, budget: Array, subset: Subset) -> Array:
    """Project the part of an atom on a subset. Columns that are not valid do not count as features."""
    if subset.valid is None:
        return constraint.project(atom, budget)
    # An invalid column far below every other entry stays outside of the support, on the simplex too.
    if constraint.nonneg:
        atom = jnp.where(subset.valid, atom, jnp.minimum(atom.min(), 0) - 4 * jnp.abs(atom).max() - budget)
    return subset.drop_invalid(constraint.project(atom, budget))
