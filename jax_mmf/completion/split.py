"""Training, validation and test parts of ratings, and hyperparameter search by cross-validation."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from jax_mmf.completion.fitted import Fitted
from jax_mmf.completion.model import Model
from jax_mmf.completion.ratings import Ratings
from jax_mmf.completion.training import Score, default_score, fit
from jax_mmf.core import HostStream, Stream, check_choice, check_count, host_generator, stream_key
from jax_mmf.typing import HostArray, Key


def train_test_split(
    ratings: Ratings, *, test_size: float | int = 0.25, key: Key | None = None, by: str = "random"
) -> tuple[Ratings, Ratings]:
    """Split ratings into two disjoint parts with the same users and items.

    Args:
      ratings: to split.
      test_size: size of the test part, as a share (float in (0, 1)) or a number (int) of all ratings. With
        ``by="user"``, of the ratings of each user, of which at least one stays in the training part.
      key: PRNG key; not needed with ``by="time"``.
      by: how to choose the test part: ``"random"``, any entries; ``"user"``, random entries of each user (leave k out);
        ``"time"``, the latest entries.

    Returns:
      training and test part.

    Raises:
      ValueError: for sizes that leave one part empty, a missing key, or ratings without timestamps.
    """
    check_choice("by", by, ("random", "user", "time"))
    times = ratings.timestamps
    n, is_count = len(ratings), isinstance(test_size, int | np.integer)
    if isinstance(test_size, bool) or not (1 <= test_size < n if is_count else 0 < test_size < 1):
        raise ValueError(f"test_size must be a share in (0, 1) or a number from 1 to {n - 1}, got {test_size!r}")
    if by == "time" and times is None:
        raise ValueError("by='time' needs ratings with timestamps")
    if by != "time" and key is None:
        raise ValueError(f"by={by!r} needs a key")
    if by == "user":
        place, size = _places(ratings, key)
        wanted = np.full(len(size), test_size) if is_count else np.floor(test_size * size + 0.5).astype(int)
        test = place < np.minimum(wanted, size - 1)[ratings.users]
    else:
        n_test = int(test_size) if is_count else round(test_size * n)
        order = _shuffled(n, key) if times is None or by != "time" else np.argsort(times, kind="stable")
        test = np.zeros(n, bool)
        test[order[n - n_test :]] = True
    if test.all() or not test.any():
        raise ValueError(f"test_size={test_size!r} leaves nothing to {'train' if test.all() else 'test'} on")
    return ratings.select(~test), ratings.select(test)


def k_folds(ratings: Ratings, n_folds: int, *, key: Key) -> Iterator[tuple[Ratings, Ratings]]:
    """Iterate over pairs of training and validation part, such that each rating is in one validation part.

    Args:
      ratings: to split.
      n_folds: number of pairs, at least 2.
      key: PRNG key.

    Yields:
      training and validation part.
    """
    check_count("n_folds", n_folds, low=2)
    if n_folds > len(ratings):
        raise ValueError(f"n_folds must be at most the number of ratings, {len(ratings)}, got {n_folds}")
    fold = np.empty(len(ratings), int)
    fold[_shuffled(len(ratings), key)] = np.arange(len(ratings)) % n_folds
    for number in range(n_folds):
        yield ratings.select(fold != number), ratings.select(fold == number)


class Trial(NamedTuple):
    """One configuration of a search.

    Attributes:
      values: of the fields, by name.
      score: mean score over the folds; smaller is better.
      n_epochs: mean over the folds of the epoch with the best score.
    """

    values: dict[str, Any]
    score: float
    n_epochs: int


class SearchResult(NamedTuple):
    """Result of `search`.

    Attributes:
      fitted: the best configuration, trained on all ratings.
      n_epochs: number of epochs of that training.
      trials: all configurations.
    """

    fitted: Fitted
    n_epochs: int
    trials: list[Trial]


def search(
    model: Model,
    ratings: Ratings,
    values: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    *,
    key: Key,
    n_folds: int = 3,
    n_epochs: int = 30,
    patience: int | None = 5,
    score: Score | None = None,
    validation: Ratings | None = None,
) -> SearchResult:
    """Choose values of a configuration by cross-validation, and train the best one on all ratings.

    Args:
      model: the configuration.
      ratings: for training and validation; keep the test part separate.
      values: of fields of the configuration: lists by name, of which all combinations are tried, or a list of
        combinations. New values of static fields (sizes) compile new programs; values of other fields do not.
      key: PRNG key.
      n_folds: number of folds.
      n_epochs: largest number of epochs in each fit.
      patience: as in `fit`.
      score: as in `fit`.
      validation: ratings for validation, instead of folds.

    Returns:
      a `SearchResult`.

    Raises:
      ValueError: if there are no combinations, and as `fit` does.
      FloatingPointError: if numbers overflow with all combinations.
      KeyboardInterrupt: after Ctrl-C; its attribute ``trials`` has the finished trials.
    """
    grid = _combinations(model, values)
    folds = [(ratings, validation)] if validation is not None else list(k_folds(ratings, n_folds, key=key))
    trials: list[Trial] = []
    for chosen in grid:
        candidate = replace(model, **chosen)  # type: ignore[type-var]
        scores, epochs = [], []
        for number, (train, held_out) in enumerate(folds):
            try:
                one = fit(
                    candidate, train, key=stream_key(key, Stream.TRIAL, number), n_epochs=n_epochs, validation=held_out,
                    patience=patience, score=score or default_score(candidate, train),
                )  # fmt: skip
            except FloatingPointError:
                scores.append(math.inf)  # other values may work
                break
            if one.stopped_by == "interrupt":
                raise _interrupted(trials)
            found = [record.score for record in one.history]
            scores.append(min(found))
            epochs.append(int(np.argmin(found)) + 1)
        trials.append(Trial(dict(chosen), float(np.mean(scores)), round(float(np.mean(epochs or [n_epochs])))))
    best = min(trials, key=lambda trial: trial.score)
    if math.isinf(best.score):
        raise FloatingPointError("no combination of values gives finite factors; try a larger alpha")
    everything = ratings if validation is None else ratings.union(validation)
    final = fit(replace(model, **best.values), everything, key=key, n_epochs=best.n_epochs)  # type: ignore[type-var]
    return SearchResult(final, best.n_epochs, trials)


def _interrupted(trials: list[Trial]) -> KeyboardInterrupt:
    error = KeyboardInterrupt()
    error.trials = trials  # type: ignore[attr-defined]
    error.add_note("The finished trials are in the attribute `trials` of this error.")
    return error


def _combinations(model: Model, values: Any) -> list[dict[str, Any]]:
    if isinstance(values, Mapping):
        grid = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    else:
        grid = [dict(chosen) for chosen in values]
    if not grid:
        raise ValueError("values must hold at least one combination")
    names = {f.name for f in fields(model)}  # type: ignore[arg-type]
    unknown = sorted(set().union(*grid) - names)
    if unknown:
        raise ValueError(
            f"values must be of fields of {type(model).__name__}, {', '.join(sorted(names))}, got {', '.join(unknown)}"
        )
    return grid


def _shuffled(n: int, key: Key | None) -> HostArray:
    assert key is not None
    return host_generator(key, HostStream.SPLIT).permutation(n)


def _places(ratings: Ratings, key: Key | None) -> tuple[HostArray, HostArray]:
    """Return the place of each entry in a random order of its user's entries, and the number of these per user."""
    starts = ratings.row_starts()
    order = np.lexsort((_shuffled(len(ratings), key), ratings.users))
    place = np.empty(len(ratings), int)
    place[order] = np.arange(len(ratings)) - starts[ratings.users[order]]
    return place, np.diff(starts)
