"""The state of a run, and what a step tells about itself."""

from typing import Any, NamedTuple

from jax_mmf.core import short_fields
from jax_mmf.learning.statistics import Memory
from jax_mmf.learning.surrogate import Surrogate
from jax_mmf.typing import Array, Key


class State(NamedTuple):
    """Everything a run knows: with the data that follow, it determines the rest bit for bit.

    States can be pickled and copied. A typed key is no NumPy array: for a tree of those, take
    ``jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))``, and `jax.random.wrap_key_data` on
    the way back.

    Attributes:
      key: PRNG key of the run; it does not change.
      step: int32, number of steps done, modulo 2^31: after so many, subsets and orders of atoms come again.
      n_samples: int32, number of samples seen; it stops at 2^31 - 1, and weights of mini-batches with it.
      dictionary: ``(k, p)``.
      surrogate: statistics of all samples: C and B, or, with partial B, C, residuals and counts of the features.
      gauge: ``(k,)`` gauges of the atoms.
      gram: ``(k, k)`` D D^T where the statistics need it, else None.
      update_state: of the dictionary update: ``()``, or the state of an optax optimiser.
    """

    key: Key
    step: Array
    n_samples: Array
    dictionary: Array
    surrogate: Surrogate
    gauge: Array
    gram: Array | None
    update_state: Any

    def __repr__(self) -> str:
        return short_fields(self, self._fields)


class Info(NamedTuple):
    """What a step tells about itself.

    Attributes:
      codes: ``(b, k)`` of the mini-batch, in the dictionary before the step.
      weight: scalar, of the mini-batch in the statistics.
      gap: ``(b,)`` duality gaps of the codes, relative to the objective.
      n_iter: ``(b,)`` int32, iterations of the code solver.
      n_dead: int32, number of atoms that codes hardly use.
      finite: whether codes, their second moments and the gauges of the atoms are all finite. If not, the data held NaN
        or infinity, or the numbers overflowed, and the state is no longer of use: keep the one before.
      memory: rows of the averaged statistics to write back, or None.
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
