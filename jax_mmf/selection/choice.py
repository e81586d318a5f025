"""Choice of the strength of the penalty and of the number of atoms on held-out samples."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_mmf.codes import decode, encode
from jax_mmf.core import as_real_array, check_choice, check_key
from jax_mmf.learning import OnlineFactorization
from jax_mmf.penalties import penalty_value
from jax_mmf.selection.hidden import check_folds, hidden_errors
from jax_mmf.selection.path import alpha_path, as_list
from jax_mmf.training import FitResult
from jax_mmf.typing import Array, ArrayLike, Key

_RULES = ("one_standard_error", "best")


class Candidate(NamedTuple):
    """A strength and a number of atoms, with their results on held-out samples.

    Attributes:
      n_components: number of atoms.
      alpha: strength of the penalty.
      hidden_explained_variance: share of the sum of squares that is predicted from the other features; see
        `hidden_errors`. Higher is better, and all candidates are comparable.
      standard_error: of the difference to the best candidate in this share, over samples; 0 for the best.
      explained_variance: share of the sum of squares that codes from all features explain. It increases with the number
        of atoms, and with smaller strengths.
      objective: mean of ``1/2 |x - a D|^2 + Omega(a)``. It is comparable for the same strength only.
      density: share of the codes that are not zero.
      result: of the run.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> choice = mmf.selection.choose(
      ...     solver, x[8:], x[:8], key=jax.random.key(1), alphas=[0.1, 0.5], n_folds=2, n_epochs=1, batch_size=16
      ... )
      >>> choice.candidates[0].alpha, choice.candidates[0].n_components
      (0.5, 3)
    """

    n_components: int
    alpha: float
    hidden_explained_variance: float
    standard_error: float
    explained_variance: float
    objective: float
    density: float
    result: FitResult


class Choice(NamedTuple):
    """A table of candidates, and the one that was chosen. ``print(choice)`` shows the table.

    Attributes:
      candidates: sorted by number of atoms, then by decreasing strength.
      chosen: the chosen candidate. ``chosen.result`` has its dictionary and its solver.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> choice = mmf.selection.choose(
      ...     solver, x[8:], x[:8], key=jax.random.key(1), alphas=[0.1, 0.5], n_folds=2, n_epochs=1, batch_size=16
      ... )
      >>> len(str(choice).splitlines()), len(choice.candidates)
      (3, 2)
    """

    candidates: list[Candidate]
    chosen: Candidate

    def __str__(self) -> str:
        lines = ["    k       alpha  hidden R2  (+- s.e.)  explained  objective  density"]
        for c in self.candidates:
            mark = "  <- chosen" if c is self.chosen else ""
            lines.append(
                f"{c.n_components:5d}  {c.alpha:10.4g}  {c.hidden_explained_variance:9.4f}  {c.standard_error:9.4f}  "
                f"{c.explained_variance:9.4f}  {c.objective:9.4g}  {c.density:7.1%}{mark}"
            )
        return "\n".join(lines)


def choose(
    solver: OnlineFactorization,
    source: Any,
    held_out: ArrayLike,
    *,
    key: Key,
    alphas: Sequence[float],
    n_components: Sequence[int] | None = None,
    n_folds: int = 5,
    rule: str = "one_standard_error",
    **options: Any,
) -> Choice:
    """Choose the strength and the number of atoms by the prediction of hidden entries of held-out samples.

    For each number of atoms, `alpha_path` learns a dictionary for each strength. Dictionaries are compared by
    `hidden_errors`. Penalised objectives can't be compared between strengths, and the explained variance favours the
    smallest strength and most atoms.

    With the rule of one standard error [Breiman et al. 1984], the choice is the candidate with the fewest atoms, and
    among them the one with the largest strength, that is within one standard error of the best. The standard error is
    that of the paired difference over samples, which counts samples as independent. Strengths that predict best are
    smaller than those that find the right support, since they also shrink the codes less [Meinshausen and Bühlmann
    2006].

    Args:
      solver: whose ``alpha`` and ``n_components`` are replaced.
      source: samples to learn from, as in `alpha_path`.
      held_out: ``(m, p)`` samples that are not in the source.
      key: PRNG key of the runs and of the folds.
      alphas: strengths, such as those of `alpha_grid`.
      n_components: numbers of atoms; by default that of the solver.
      n_folds: of `hidden_errors`.
      rule: ``"one_standard_error"``, or ``"best"`` for the best prediction.
      **options: arguments of `jax_mmf.fit`, such as ``n_epochs``, for each candidate.

    Returns:
      the table and the choice.

    Raises:
      ValueError: for an unknown rule, empty lists, held-out samples that are zero or not finite, a single one with the
        rule of one standard error, and as `alpha_path` and `hidden_errors` do.
      TypeError: as `alpha_path` does.

    Example:
      >>> import jax, jax_mmf as mmf
      >>> x = jax.random.normal(jax.random.key(0), (40, 8))
      >>> solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1))
      >>> choice = mmf.selection.choose(
      ...     solver, x[8:], x[:8], key=jax.random.key(1), alphas=[0.1, 0.5], n_folds=2, n_epochs=1, batch_size=16
      ... )
      >>> choice.chosen in choice.candidates
      True
    """
    check_choice("rule", rule, _RULES)
    check_key(key)
    x = as_real_array("held_out", held_out, ndim=(2,))
    total = float(np.square(np.asarray(x, np.float64)).sum())
    if total == 0:
        raise ValueError(f"held_out must hold samples that are not all zero, got shape {x.shape}")
    if not np.isfinite(total) or total > float(np.finfo(x.dtype).max):
        raise ValueError(f"held_out must hold finite numbers whose squares fit into {x.dtype}; clean or scale the data")
    if rule != "best" and len(x) < 2:
        raise ValueError(f"held_out must hold at least two samples for a standard error, got {len(x)}; use rule='best'")
    check_folds(n_folds, x.shape[1])
    given = [solver.n_components] if n_components is None else n_components
    numbers = sorted(as_list("n_components", given, "number of atoms"))
    alphas = as_list("alphas", alphas, "strength")
    run_key, fold_key = jax.random.split(key)
    found: list[Candidate] = []
    errors = []
    for number in numbers:
        own = dataclasses.replace(solver, n_components=number)
        for result in alpha_path(own, source, key=run_key, alphas=alphas, **options):
            errors.append(hidden_errors(result.dictionary, x, result.solver.penalty, key=fold_key, n_folds=n_folds))
            found.append(_candidate(result, x, 1 - float(errors[-1].sum()) / total))
    best = int(np.argmin([e.sum() for e in errors]))
    spread = [float(np.std(e - errors[best]) * np.sqrt(len(e)) / total) for e in errors]
    candidates = [c._replace(standard_error=s) for c, s in zip(found, spread, strict=True)]
    return Choice(candidates, _chosen(candidates, candidates[best], rule))


def _candidate(result: FitResult, x: Array, hidden: float) -> Candidate:
    """Describe a run by the codes of held-out samples from all features."""
    penalty: Any = result.solver.penalty
    everything = jnp.ones(x.shape[1], x.dtype)  # as a mask, to use the compiled program of hidden_errors again
    codes = encode(result.dictionary, x, penalty, mask=everything)
    left = np.square(np.asarray(x - decode(result.dictionary, codes), np.float64)).sum()
    value = (0.5 * left + np.asarray(penalty_value(penalty, codes), np.float64).sum()) / len(x)
    explained = 1 - left / np.square(np.asarray(x, np.float64)).sum()
    density = float((codes != 0).mean())
    alpha = float(penalty.alpha)
    return Candidate(result.solver.n_components, alpha, hidden, 0.0, float(explained), float(value), density, result)


def _chosen(candidates: list[Candidate], best: Candidate, rule: str) -> Candidate:
    if rule == "best":
        return best
    top = best.hidden_explained_variance
    near = [c for c in candidates if c.hidden_explained_variance >= top - c.standard_error]
    return min(near, key=lambda c: (c.n_components, -c.alpha))
