"""What `jax_mmf.completion.fit` asks of a model of ratings."""

from typing import Any, Protocol, runtime_checkable

from jax.sharding import Mesh

from jax_mmf.completion.factors import Factors
from jax_mmf.completion.ragged import RaggedRows
from jax_mmf.completion.ratings import Ratings
from jax_mmf.typing import Array, HostArray, Key


@runtime_checkable
class Model(Protocol):
    """A configuration: a frozen pytree whose methods, but for `prepare`, are pure functions that `fit` jits."""

    @property
    def feedback(self) -> str:
        """``"explicit"`` for ratings that are predicted, ``"implicit"`` for clicks that are ranked (static)."""

    def prepare(self, ratings: Ratings, mesh: Mesh | None = None) -> Any:
        """Ratings as a pytree of arrays, on the host."""

    def init(self, key: Key, data: Any) -> Any:
        """The state before the first epoch."""

    def epoch(self, key: Key, state: Any, data: Any) -> Any:
        """The state after one more epoch."""

    def resume(self, old: Any, new: Any, users: HostArray, items: HostArray) -> Any:
        """A first state ``new`` with what is known from an ``old`` one.

        Args:
          old: state of other ratings.
          new: what `init` gave.
          users: ``(n_users,)`` position of each user in the old state, or -1.
          items: ``(n_items,)`` position of each item in the old state, or -1.
        """

    def fold_in(self, state: Any, rows: RaggedRows) -> tuple[Array, Array]:
        """Factors ``(m, k)`` and biases ``(m,)`` of other users."""

    def factors(self, state: Any) -> Factors:
        """The model of a state."""
