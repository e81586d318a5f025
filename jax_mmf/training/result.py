"""Result of a run: the last state, the history, and the best state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax_mmf.codes import CodeSolver
from jax_mmf.core import short
from jax_mmf.io import Best, Record, SavedRun, save_run
from jax_mmf.learning import Memory, OnlineFactorization, State
from jax_mmf.training.streaming import centred, encode
from jax_mmf.typing import Array


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
      state: after the last step, in the original order of the features.
      history: a `Record` per evaluation.
      memory: of averaged statistics, or None.
      solver: of the run. A `RelativeAlpha` has become a number.
      stopped_by: ``"epochs"`` for a run that did all of its epochs; ``"callback"``; ``"interrupt"`` for Ctrl-C; or
        ``"error"`` in the attribute ``result`` of an error.
      best: the `Best` evaluation, or None without held-out samples. It holds a copy of a state.
      feature_names: of the source, or None for features without names.
      run: arguments of `fit` in this run, which are stored in files.
      progress: what else is needed to resume the run: see `jax_mmf.io.SavedRun`.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> result = mmf.fit(solver, x, key=jax.random.key(1), held_out=8, n_epochs=2, batch_size=16)
      >>> result.best.record.objective <= result.objective, result.solver == solver
      (True, True)
    """

    state: State
    history: list[Record]
    memory: Memory | None
    solver: OnlineFactorization
    stopped_by: str
    best: Best | None = None
    feature_names: Any = None
    run: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None

    @property
    def dictionary(self) -> Array:
        """``(k, p)``: the last dictionary, that of ``state``; ``best.dictionary`` is the best one."""
        return self.state.dictionary

    @property
    def objective(self) -> float:
        """The last objective of the history, or NaN if the history is empty."""
        return self.history[-1].objective if self.history else float("nan")

    def saved(self) -> SavedRun:
        """Return what `fit` needs to resume the run, as in a checkpoint."""
        return SavedRun(
            self.solver, self.state, self.history, self.run or {}, self.memory, self.best, self.progress or {}
        )

    def save(self, path: str | Path) -> None:
        """Write a model file with all that is needed to resume the run: `load_model` and `load_checkpoint` read it.

        Args:
          path: of the file, .h5 or .hdf5, which is replaced if it exists.

        Raises:
          TypeError: as `jax_mmf.save_model` does.
          ValueError: as `jax_mmf.save_model` does.
          OSError: if the file can't be written.
        """
        save_run(path, self.saved())

    def encode(
        self,
        x: Any,
        *,
        mask: Any = None,
        solver: CodeSolver | None = None,
        out: Any = None,
        batch_size: int | None = None,
    ) -> Any:
        """Compute codes ``(n, k)`` of samples or of a source ``(n, p)``, with the last dictionary and the penalty.

        Arguments are those of `jax_mmf.encode`. A centred model subtracts its mean from the samples.
        """
        penalty = self.solver.penalty
        x = x if self.state.mean is None else centred(x, self.state.mean)
        return encode(self.dictionary, x, penalty, mask=mask, solver=solver, out=out, batch_size=batch_size)

    def plot(self, axes: Any = None, *, against: str = "n_samples") -> Any:
        """Draw the objective over the course of the run. Needs matplotlib (extra ``plot``).

        Args:
          axes: matplotlib axes to draw on; by default those of a new pyplot figure.
          against: ``"n_samples"``, ``"seconds"`` or ``"bytes_read"``.

        Returns:
          the axes.
        """
        from jax_mmf.plotting import plot_convergence

        return plot_convergence({"fit": self.history}, against=against, ax=axes)

    def __repr__(self) -> str:
        parts = {"dictionary": short(self.dictionary), "step": short(self.state.step), "stopped_by": self.stopped_by}
        if self.history:
            parts |= {"objective": f"{self.objective:.6g}", "held_out": str(self.history[-1].held_out)}
        if self.best is not None:
            parts["best"] = f"{self.best.record.objective:.6g} at step {self.best.record.step}"
        lines = (", ".join(f"{name}={value}" for name, value in parts.items()), f"history={len(self.history)} records")
        return f"FitResult({', '.join(lines)},\n  solver={self.solver!r})"
