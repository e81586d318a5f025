"""Factories of contestants that learn a dictionary from a .npy file of samples.

Their runs return ``dictionaries`` ``(m, k, p)`` at m times, and ``seconds``, ``n_samples`` and ``bytes_read`` ``(m,)``
up to these times. The parent evaluates them outside of the timed part. The clock stops while a dictionary is copied.
``penalty`` is ``{"l1", "l2", "nonneg"}``; ``ball`` is "l1" or "l2", of radius ``radius`` in the l1 or the squared l2
norm, or "l2, nonneg" with non-negative atoms; ``init`` is the path of the initial dictionary.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.evaluation import Penalty, as_jax_mmf, mean_objective

_EVALUATED = 256  # held-out rows of a curve that is evaluated in the process of a contestant

Run = Callable[[], dict[str, Any]]


class Recorder:
    """Keeps dictionaries at geometrically spaced times, on a clock that stands still meanwhile."""

    def __init__(self, max_seconds: float, checkpoints: int) -> None:
        self._due = list(np.geomspace(max_seconds / 64, max_seconds, checkpoints))
        self._kept: list[tuple[np.ndarray, float, int, int]] = []
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def is_due(self) -> bool:
        return bool(self._due) and self.seconds() >= self._due[0]

    def keep(self, dictionary: np.ndarray, n_samples: int, bytes_read: int, seconds: float | None = None) -> bool:
        """Keep a dictionary; whether the run is over. ``seconds`` is when it was ready, by default now."""
        now = time.perf_counter()
        seconds = now - self._start if seconds is None else seconds
        self._kept.append((np.array(dictionary, np.float32), seconds, n_samples, bytes_read))
        while self._due and self._due[0] <= seconds:
            self._due.pop(0)
        self._start += time.perf_counter() - self._start - seconds
        return not self._due

    def arrays(self) -> dict[str, np.ndarray]:
        return as_arrays(self._kept)


def as_arrays(kept: list[tuple[np.ndarray, float, int, int]]) -> dict[str, np.ndarray]:
    """Dictionary, seconds, samples and bytes of each moment, as arrays by name."""
    columns = zip(*kept, strict=True)
    return dict(zip(("dictionaries", "seconds", "n_samples", "bytes_read"), map(np.array, columns), strict=True))


def _batches(rng: np.random.Generator, n: int, batch_size: int) -> Iterator[np.ndarray]:
    """Numbers of the samples of one batch after another, in a new order in each epoch."""
    while True:
        order = rng.permutation(n)
        for first in range(0, n, batch_size):
            yield np.sort(order[first : first + batch_size])  # sorted, for the disk


def jax_mmf_fit(
    samples: str, init: str, penalty: dict[str, Any], ball: str, radius: float = 1.0, batch_size: int = 128,
    seed: int = 0, max_seconds: float = 10.0, checkpoints: int = 16, in_memory: bool = True,
    n_samples: int | None = None, **options: Any,
) -> Run:  # fmt: skip
    """`jax_mmf.fit` of `default_solver`, on the first ``n_samples`` or all. Options are those of `OnlineFactorization`.

    With an initialization among them, the dictionary to start from is made from samples, else it is ``init``. An object
    among them is [name, arguments]. Compiles while preparing; the result tells in how many seconds, a first mini-batch
    included.
    """
    import jax

    import jax_mmf as mmf

    start = np.load(init)
    solver = _solver(len(start), penalty, ball, radius, options)
    x = np.load(samples, mmap_mode=None if in_memory else "r")[:n_samples]
    width = start.shape[1] if solver.needs_whole_samples else -(-start.shape[1] // round(solver.subset.reduction))

    def fit(source: np.ndarray, n_epochs: int, *callbacks: Callable[[Any], bool]) -> None:
        key = jax.random.key(seed)
        first = {"samples": x[: 4 * len(start)]} if "initialization" in options else {"dictionary": start}
        common = {"batch_size": batch_size, "evaluate_every": 10**9, "callbacks": callbacks}
        mmf.fit(solver, source, state=solver.init(key, **first), n_epochs=n_epochs, **common)

    begin = time.perf_counter()
    fit(x[: batch_size + len(x) % batch_size], 1)  # both shapes of batch: whole, and the last of an epoch
    compiled = {"compile_seconds": time.perf_counter() - begin}

    def run() -> dict[str, Any]:
        recorder, seen = Recorder(max_seconds, checkpoints), 0

        def callback(event: mmf.Event) -> bool:
            nonlocal seen
            seen += len(event.info.codes)
            if not recorder.is_due():
                return False
            jax.block_until_ready(event.info.weight)  # steps run behind the host
            seconds = recorder.seconds()
            return recorder.keep(np.asarray(event.state.dictionary), seen, 4 * seen * width, seconds)

        fit(x, 10**6, callback)
        return recorder.arrays() | compiled

    return run


def jax_mmf_curves(
    samples: str, held_out: str, init: str, penalty: dict[str, Any], ball: str, runs: list[dict[str, Any]],
    max_samples: int, radius: float = 1.0, batch_size: int = 128, checkpoints: int = 20, max_seconds: float = np.inf,
    in_memory: bool = True, **options: Any,
) -> tuple[Run, Callable[[dict[str, Any]], dict[str, Any]]]:  # fmt: skip
    """As `jax_mmf_fit`, with checkpoints at geometrically spaced numbers of samples, evaluated in this process.

    Each call is another of ``runs``: options of a solver, and ``seed``, of the order of samples and features. The
    result has ``curves`` of all calls so far: what their run was, ``objective``, ``seconds``, ``n_samples`` and
    ``bytes_read``.
    """
    import jax

    import jax_mmf as mmf

    start = np.load(init)
    x, rows = np.load(samples, mmap_mode=None if in_memory else "r"), np.load(held_out)[:_EVALUATED]
    solvers = [
        _solver(len(start), penalty, ball, radius, options | {n: v for n, v in own.items() if n != "seed"})
        for own in runs
    ]

    def fit(solver: mmf.OnlineFactorization, seed: int, source: np.ndarray, n_epochs: int, *callbacks: Any) -> None:
        state = solver.init(jax.random.key(seed), dictionary=start)
        common = {"batch_size": batch_size, "evaluate_every": 10**9, "callbacks": callbacks}
        mmf.fit(solver, source, state=state, n_epochs=n_epochs, **common)

    begin = time.perf_counter()
    fit(solvers[0], 0, x[: batch_size + len(x) % batch_size], 1)
    compile_seconds, curves = time.perf_counter() - begin, list[dict[str, Any]]()

    def run() -> dict[str, Any]:
        number = len(curves) % len(runs)
        solver = solvers[number]
        width = start.shape[1] if solver.needs_whole_samples else -(-start.shape[1] // round(solver.subset.reduction))
        due = list(np.geomspace(max_samples / 24, max_samples, checkpoints))
        kept, seen, begin = list[tuple[np.ndarray, float, int, int]](), 0, time.perf_counter()

        def callback(event: mmf.Event) -> bool:
            nonlocal seen, begin
            seen += len(event.info.codes)
            if seen < due[0]:
                return False
            jax.block_until_ready(event.info.weight)  # steps run behind the host
            seconds = time.perf_counter() - begin
            kept.append((np.array(event.state.dictionary), seconds, seen, 4 * seen * width))
            while due and due[0] <= seen:
                due.pop(0)
            begin = time.perf_counter() - seconds  # the clock stands still meanwhile
            return not due or seconds > max_seconds

        fit(solver, runs[number].get("seed", 0), x, 10**6, callback)
        return {"kept": kept}

    def finish(result: dict[str, Any]) -> dict[str, Any]:
        dictionaries, *columns = zip(*result["kept"], strict=True)
        objective = [mean_objective(d, rows, Penalty(**penalty)) for d in dictionaries]
        axes = dict(zip(("seconds", "n_samples", "bytes_read"), columns, strict=True))
        curves.append({"run": runs[len(curves) % len(runs)], "objective": objective} | axes)
        return {"curves": curves, "compile_seconds": compile_seconds}

    return run, finish


def _solver(k: int, penalty: dict[str, Any], ball: str, radius: float, options: dict[str, Any]) -> Any:
    """`default_solver`; an object among the options is [name, arguments]."""
    import jax_mmf as mmf

    constraint = {"l1": mmf.L1Ball, "l2": mmf.L2Ball}[ball[:2]](radius, nonneg=ball.endswith("nonneg"))
    return mmf.default_solver(k, as_jax_mmf(Penalty(**penalty)), constraint, **_resolved(options))


def _resolved(value: Any) -> Any:
    """Make the objects of options, each of which is a name in jax_mmf and its arguments."""
    import jax_mmf as mmf

    if isinstance(value, dict):
        return {name: _resolved(each) for name, each in value.items()}
    return getattr(mmf, value[0])(**_resolved(value[1])) if isinstance(value, list) else value


def spams_fit(
    samples: str, init: str, penalty: dict[str, Any], ball: str = "l2", batch_size: int = 512,
    max_seconds: float = 10.0, checkpoints: int = 8,
) -> Run:  # fmt: skip
    """`spams.trainDL`, started anew for each moment: going on from its statistics is an algorithm that learns worse."""
    import spams

    if not ball.startswith("l2"):
        raise ValueError(f"spams_fit knows the l2 ball only, got {ball!r}")
    x, start = np.asfortranarray(np.load(samples).T), np.asfortranarray(np.load(init).T)
    options = {
        "lambda1": penalty["l1"], "lambda2": penalty.get("l2", 0.0), "posAlpha": penalty.get("nonneg", False),
        "posD": ball.endswith("nonneg"), "mode": 2, "batchsize": batch_size, "verbose": False,
        "numThreads": int(os.environ["OMP_NUM_THREADS"]),
    }  # fmt: skip

    def run() -> dict[str, Any]:
        kept, n_steps, seconds = [], 4, max_seconds / 64
        for due in np.geomspace(max_seconds / 64, max_seconds, checkpoints):
            n_steps = max(1, round(n_steps * due / seconds))  # by the speed of the run before
            begin = time.perf_counter()
            dictionary = spams.trainDL(x, D=start, iter=n_steps, **options)
            seconds, seen = time.perf_counter() - begin, n_steps * batch_size
            kept.append((np.array(dictionary.T, np.float32), seconds, seen, 4 * seen * len(x)))
        return as_arrays(kept)

    return run


def sklearn_fit(
    samples: str, init: str, penalty: dict[str, Any], ball: str = "l2", batch_size: int = 256, seed: int = 0,
    max_seconds: float = 10.0, checkpoints: int = 16,
) -> Run:  # fmt: skip
    """`MiniBatchDictionaryLearning.partial_fit`."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    if ball != "l2" or penalty.get("l2", 0.0) != 0:
        raise ValueError("sklearn_fit knows lasso codes and the l2 ball only")
    x, start = np.load(samples), np.load(init)
    nonneg = penalty.get("nonneg", False)
    options = {
        "alpha": penalty["l1"], "batch_size": batch_size, "positive_code": nonneg, "random_state": seed,
        "fit_algorithm": "cd" if nonneg else "lars", "n_jobs": int(os.environ["OMP_NUM_THREADS"]),
    }  # fmt: skip

    def run() -> dict[str, np.ndarray]:
        learner = MiniBatchDictionaryLearning(len(start), dict_init=start.copy(), **options)
        recorder, seen = Recorder(max_seconds, checkpoints), 0
        for rows in _batches(np.random.default_rng(seed), len(x), batch_size):
            learner.partial_fit(x[rows])
            seen += len(rows)
            if recorder.is_due() and recorder.keep(learner.components_, seen, 4 * seen * x.shape[1]):
                break
        return recorder.arrays()

    return run


def sklearn_nmf_fit(
    samples: str, init: str, batch_size: int = 256, seed: int = 0, max_seconds: float = 10.0, checkpoints: int = 16,
) -> Run:  # fmt: skip
    """`MiniBatchNMF.partial_fit`, without penalty and ball: atoms are scaled to norm 1 when they are kept."""
    from sklearn.decomposition import MiniBatchNMF

    x, start = np.load(samples), np.load(init)

    def run() -> dict[str, np.ndarray]:
        learner = MiniBatchNMF(len(start), init="custom", random_state=seed)
        recorder, seen = Recorder(max_seconds, checkpoints), 0
        for rows in _batches(np.random.default_rng(seed), len(x), batch_size):
            codes = np.full((len(rows), len(start)), 1 / len(start), np.float32)
            if seen == 0:
                learner.partial_fit(x[rows], W=codes, H=start.copy())
            else:
                learner.partial_fit(x[rows], W=codes)
            seen += len(rows)
            if recorder.is_due():
                atoms = learner.components_ / np.maximum(
                    np.linalg.norm(learner.components_, axis=1, keepdims=True), 1e-12
                )
                if recorder.keep(atoms, seen, 4 * seen * x.shape[1]):
                    break
        return recorder.arrays()

    return run


def published_fit(
    samples: str, init: str, penalty: dict[str, Any], ball: str, radius: float = 1.0, reduction: int = 1,
    batch_size: int = 50, learning_rate_exponent: float = 0.917, statistics: str = "masked", partial_b: bool = True,
    seed: int = 0, max_seconds: float = 10.0, checkpoints: int = 16, in_memory: bool = True,
) -> Run:  # fmt: skip
    """The algorithm of Mensch et al. (ICML 2016; TSP 2018) as published, in NumPy: see `PublishedAlgorithm`."""
    x, start = np.load(samples, mmap_mode=None if in_memory else "r"), np.load(init)

    def run() -> dict[str, np.ndarray]:
        algorithm = PublishedAlgorithm(
            start, len(x), Penalty(**penalty), ball, radius, reduction, learning_rate_exponent, statistics, partial_b,
            seed,
        )  # fmt: skip
        recorder, seen, read = Recorder(max_seconds, checkpoints), 0, 0
        for rows in _batches(np.random.default_rng(seed), len(x), batch_size):
            read += algorithm.step(x, rows)
            seen += len(rows)
            if recorder.is_due() and recorder.keep(algorithm.dictionary, seen, read):
                break
        return recorder.arrays()

    return run


class PublishedAlgorithm:
    """Online matrix factorization with subsampled features, one atom after another with rank-one updates.

    ``statistics`` are what codes are computed from: "masked", Gram matrix and X D^T from the features of the step
    [ICML16]; "averaged", the full Gram matrix and averages of the masked X D^T over the visits of a sample [TSP18];
    "full". ``partial_b`` updates B on the features of the step, with a counter for each [ICML16]; else on all [TSP18].
    """

    def __init__(
        self, dictionary: np.ndarray, n: int, penalty: Penalty, ball: str, radius: float, reduction: int,
        exponent: float, statistics: str, partial_b: bool, seed: int,
    ) -> None:  # fmt: skip
        k, p = dictionary.shape
        self.penalty, self.ball, self.radius, self.exponent = penalty, ball, radius, exponent
        self.statistics, self.partial_b, self.rng = statistics, partial_b, np.random.default_rng(seed + 1)
        self.size, self.n_seen = max(1, p // reduction), 0
        self.dictionary = np.array(dictionary, np.float32)
        self.b, self.c = np.zeros((k, p), np.float32), np.zeros((k, k), np.float32)
        self.gram, self.gauge = self.dictionary @ self.dictionary.T, self._gauge(self.dictionary)
        self.feature_counts = np.zeros(p)
        if statistics == "averaged":
            self.visits, self.beta = np.zeros(n), np.zeros((n, k), np.float32)
        self._features = self._cycle(p)

    def step(self, x: np.ndarray, rows: np.ndarray) -> int:
        """One mini-batch; the bytes that it needed of the samples."""
        whole = self.size == self.dictionary.shape[1]
        subset = slice(None) if whole else next(self._features)
        batch = x[rows]
        part = batch if whole else batch[:, subset]
        atoms = np.asfortranarray(self.dictionary[:, subset])
        codes = self._codes(batch, part, atoms, rows)
        self._update_surrogate(codes, batch, part, subset)
        self._update_dictionary(atoms, subset)
        partial = self.partial_b and self.statistics != "full"
        return 4 * (part.size if partial else batch.size)

    def _cycle(self, p: int) -> Iterator[np.ndarray]:
        """Subsets of the features that follow each other in a random order of all."""
        while True:
            order = self.rng.permutation(p)
            yield from (np.sort(order[i : i + self.size]) for i in range(0, p - self.size + 1, self.size))

    def _codes(self, batch: np.ndarray, part: np.ndarray, atoms: np.ndarray, rows: np.ndarray) -> np.ndarray:
        reduction = np.float32(self.dictionary.shape[1] / atoms.shape[1])
        gram = reduction * (atoms @ atoms.T) if self.statistics == "masked" else self.gram
        beta = batch @ self.dictionary.T if self.statistics == "full" else reduction * (part @ atoms.T)
        if self.statistics == "averaged":
            self.visits[rows] += 1
            rate = (self.visits[rows, None] ** -0.75).astype(np.float32)
            beta = self.beta[rows] = (1 - rate) * self.beta[rows] + rate * beta
        l1, l2, nonneg = self.penalty
        if l1 == 0 and not nonneg:
            return np.linalg.solve(gram + np.float32(l2) * np.eye(len(gram), dtype=np.float32), beta.T).T
        import spams  # exact, and as fast as any solver in C that takes Gram matrices

        # It takes an l2 penalty for part of the Gram matrix, and of the samples the norms: where these say that all is
        # explained, it stops. Averages belong to no samples; norms that are too large do no harm.
        gram = gram + np.float32(l2) * np.eye(len(gram), dtype=np.float32)
        x = np.sqrt(reduction) * part if self.statistics == "masked" else batch
        x = 10 * x if self.statistics == "averaged" else x
        options = {"mode": 2, "lambda1": l1, "pos": nonneg, "numThreads": int(os.environ["OMP_NUM_THREADS"])}
        x, gram, beta = (np.asfortranarray(a) for a in (x.T, gram, beta.T))
        return spams.lasso(x, Q=gram, q=beta, **options).toarray().T

    def _update_surrogate(self, codes: np.ndarray, batch: np.ndarray, part: np.ndarray, subset: Any) -> None:
        size = len(codes)
        index = self.n_seen + 1 + np.arange(size)
        weight = 1 - np.prod(1 - index**-self.exponent)
        self.n_seen += size
        self.c += np.float32(weight) * (codes.T @ codes / size - self.c)
        if not self.partial_b:
            self.b *= np.float32(1 - weight)
            self.b += np.float32(weight / size) * (codes.T @ batch)
            return
        self.feature_counts[subset] += size
        rates = np.minimum(1, weight * self.n_seen / self.feature_counts[subset]).astype(np.float32)
        self.b[:, subset] += rates * (codes.T @ part / size - self.b[:, subset])

    def _update_dictionary(self, atoms: np.ndarray, subset: Any) -> None:
        from scipy.linalg.blas import sger

        full_gram = self.statistics != "masked"
        before = atoms @ atoms.T if full_gram else 0
        outside = np.maximum(self.gauge - self._gauge(atoms), 0)
        gradient = np.asfortranarray(self.b[:, subset] - self.c @ atoms)
        for j in self.rng.permutation(len(atoms)):
            if self.c[j, j] <= 1e-12:
                continue
            old = atoms[j].copy()
            atoms[j] = self._project(old + gradient[j] / self.c[j, j], max(self.radius - outside[j], 0))
            gradient = sger(-1.0, self.c[:, j], atoms[j] - old, a=gradient, overwrite_a=1)
        self.dictionary[:, subset] = atoms
        if full_gram:
            self.gram += atoms @ atoms.T - before
        self.gauge = outside + self._gauge(atoms)

    def _gauge(self, atoms: np.ndarray) -> np.ndarray:
        return np.abs(atoms).sum(1) if self.ball == "l1" else np.sum(atoms**2, 1)

    def _project(self, atom: np.ndarray, radius: float) -> np.ndarray:
        if self.ball.startswith("l2"):
            atom = np.maximum(atom, 0) if self.ball.endswith("nonneg") else atom
            return atom * min(1.0, np.sqrt(radius / max(float(atom @ atom), 1e-30)))
        return _project_l1(atom, radius)


def _project_l1(atom: np.ndarray, radius: float) -> np.ndarray:
    """Projection on the l1 ball by Michelot's algorithm."""
    active = np.abs(atom)
    if active.sum() <= radius:
        return atom
    while True:
        threshold = (active.sum() - radius) / active.size
        kept = active[active > threshold]
        if kept.size in (0, active.size):
            return np.sign(atom) * np.maximum(np.abs(atom) - threshold, 0)
        active = kept
