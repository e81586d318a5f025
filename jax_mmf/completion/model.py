"""Protocol of the models that `jax_mmf.completion.fit` learns, and the record of an epoch."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jax.sharding import Mesh

from jax_mmf.completion.factors import Factors
from jax_mmf.completion.ragged import RaggedRows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.typing import Array, HostArray, Key


class EpochRecord(NamedTuple):
    """Record of one epoch in the history.

    Attributes:
      epoch: number of epochs so far.
      seconds: time of all epochs so far, with the compilation in the first one, and without evaluation.
      score: on validation ratings, or NaN.
    """

    epoch: int
    seconds: float
    score: float


@runtime_checkable
class Model(Protocol):
    """Configuration of a model: a frozen pytree whose methods, except `prepare`, are pure functions."""

    @property
    def feedback(self) -> str:
        """``"explicit"`` for ratings that are predicted, ``"implicit"`` for clicks that are ranked (static)."""

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Any:
        """Convert ratings to a pytree of arrays."""

    def init(self, key: Key, data: Any) -> Any:
        """Return the state before the first epoch."""

    def epoch(self, key: Key, state: Any, data: Any) -> Any:
        """Return the state after one more epoch."""

    def resume(self, old: Any, new: Any, users: HostArray, items: HostArray) -> Any:
        """Copy what an ``old`` state has learned into a ``new`` one.

        Args:
          old: state after training on other ratings.
          new: state from `init`.
          users: ``(n_users,)`` position of each user in the old state, or -1.
          items: ``(n_items,)`` position of each item in the old state, or -1.
        """

    def fold_in(self, state: Any, rows: RaggedRows) -> tuple[Array, Array]:
        """Return factors ``(m, k)`` and biases ``(m,)`` of new users."""

    def factors(self, state: Any) -> Factors:
        """Return the factors of a state."""
