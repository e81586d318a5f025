"""Recommenders of all libraries as `completion.Fitted`, so that one evaluation serves all, and their ratings.

`learn` takes ratings, values by name and, for our models, optional validation ratings that determine the number of
epochs. For a user or item without training ratings, all models predict the mean plus the bias of the other one.
"""

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import jax_mmf as mmf
from benchmarks.problems import Paths, cached
from jax_mmf import completion
from jax_mmf.completion.fitted import Fitted
from jax_mmf.completion.lookup import without_unrated

LIMITS = (1.0, 5.0)
BURN_IN = 20  # sweeps of Gibbs samplers
PATIENCE = 5  # epochs of ours without a better validation score
Values = dict[str, Any]


def as_fitted(
    train: completion.Ratings, users: np.ndarray, items: np.ndarray, *, mean: float = 0.0,
    user_bias: np.ndarray | None = None, item_bias: np.ndarray | None = None,
    limits: tuple[float, float] | None = LIMITS,
) -> Fitted:  # fmt: skip
    """Factors of another library, by the positions of ``train``."""
    zeros = lambda bias, n: np.zeros(n) if bias is None else bias  # noqa: E731
    arrays = (mean, zeros(user_bias, len(users)), zeros(item_bias, len(items)), users, items)
    factors = completion.Factors(*(np.asarray(a, np.float32) for a in arrays))
    counts = np.bincount(train.items, minlength=train.n_items)
    return Fitted(None, None, without_unrated(factors, train), train, counts, limits, [])  # type: ignore[arg-type]


def our_model(name: str, values: Values) -> completion.Model:
    """A configuration of jax_mmf."""
    values = dict(values)
    plain: dict[str, Callable[..., completion.Model]] = {
        "jax_mmf ExplicitALS": completion.ExplicitALS,
        "jax_mmf ExplicitALS, fixed priors": partial(completion.ExplicitALS, learned_prior=False),
        "jax_mmf ExplicitALS, point estimates": partial(completion.ExplicitALS, variational=False),
        "jax_mmf BayesianMF": completion.BayesianMF,
        "jax_mmf EASE": completion.EASE,
        "jax_mmf ImplicitALS": completion.ImplicitALS,
    }
    if name in plain:
        return plain[name](**values)
    if name == "jax_mmf ExplicitOnline":
        scale, exponent = values.pop("scale"), values.pop("exponent")
        scaled = values.pop("forgetting") == "ScaledForgetting"
        forgetting = mmf.ScaledForgetting(scale) if scaled else mmf.PowerForgetting(exponent)
        return completion.ExplicitOnline(forgetting=forgetting, **values)
    if name == "jax_mmf BPR":
        return completion.BPR(optimizer=_adam(values.pop("learning_rate")), **values)
    raise ValueError(f"jax_mmf has no {name!r}")


_ADAM: dict[float, Any] = {}


def _adam(learning_rate: float) -> Any:
    """One object per rate: an optimiser is static, and another one compiles anew."""
    import optax

    return _ADAM.setdefault(learning_rate, optax.adam(learning_rate))


def learn(
    name: str, train: completion.Ratings, values: Values, *, threads: int, n_epochs: int,
    validation: completion.Ratings | None = None,
) -> Fitted:  # fmt: skip
    """A model of ``train``. ``n_epochs`` is of ours: the number, or with a validation part the largest one."""
    if name in PEERS:
        return PEERS[name](train, values, threads)
    import jax

    model = our_model(name, values)
    if hasattr(model, "n_epochs"):  # which says itself how many it needs
        return completion.fit(model, train, key=jax.random.key(0))
    more = {} if validation is None else {"validation": validation, "patience": PATIENCE}
    return completion.fit(model, train, key=jax.random.key(0), n_epochs=n_epochs, **more)


def surprise_trainset(train: completion.Ratings, seed: int = 0) -> Any:
    """Ratings as Surprise takes them, in random order: it goes through them as they come."""
    from surprise import Trainset

    order = np.random.default_rng(seed).permutation(len(train))
    by_user: dict[int, list[tuple[int, float]]] = defaultdict(list)
    by_item: dict[int, list[tuple[int, float]]] = defaultdict(list)
    columns = (a[order].tolist() for a in (train.users, train.items, train.values))
    for user, item, value in zip(*columns, strict=True):
        by_user[user].append((item, value))
        by_item[item].append((user, value))
    return Trainset(by_user, by_item, train.n_users, train.n_items, len(train), LIMITS, {}, {})


def surprise_factors(train: completion.Ratings, solver: Any) -> Fitted:
    """What a fitted SVD or SVDpp of Surprise knows."""
    users = np.array(solver.pu)
    if hasattr(solver, "yj"):
        counts = np.maximum(np.bincount(train.users, minlength=train.n_users), 1)
        clicks = train.positives(-np.inf).to_scipy()
        users += (clicks @ np.asarray(solver.yj)) / np.sqrt(counts)[:, None]
    mean = solver.trainset.global_mean
    return as_fitted(train, users, solver.qi, mean=mean, user_bias=solver.bu, item_bias=solver.bi)


def _surprise(kind: str) -> Callable[..., Fitted]:
    def fit(train: completion.Ratings, values: Values, _: int) -> Fitted:
        import surprise

        solver = getattr(surprise, kind)(random_state=0, **values)
        with np.errstate(all="ignore"):
            return surprise_factors(train, solver.fit(surprise_trainset(train)))

    return fit


def cmfrec_solver(values: Values, threads: int) -> Any:
    """A `cmfrec.CMF` from values; the penalty is ``lambda_``, or with ``scale_lam`` ``lambda_scaled``."""
    from cmfrec import CMF

    values = {"lambda_scaled": None, **values}
    scaled = values.pop("lambda_scaled")
    biases = values.pop("biases", True)
    values["lambda_"] = scaled if values.get("scale_lam") else values["lambda_"]
    common = {"user_bias": biases, "item_bias": biases, "precompute_for_predictions": False, "use_float": True}
    return CMF(nthreads=threads, random_state=1, verbose=False, **common, **values)


def cmfrec_factors(train: completion.Ratings, solver: Any) -> Fitted:
    """What a fitted CMF knows."""
    bias = lambda b: None if b is None or np.size(b) == 0 else b  # noqa: E731
    users, items = (np.zeros((n, solver.k), np.float32) for n in train.shape)
    users[: len(solver.A_)], items[: len(solver.B_)] = solver.A_, solver.B_
    return as_fitted(
        train, users, items, mean=solver.glob_mean_, user_bias=bias(solver.user_bias_),
        item_bias=bias(solver.item_bias_),
    )  # fmt: skip


def _cmfrec(train: completion.Ratings, values: Values, threads: int) -> Fitted:
    return cmfrec_factors(train, cmfrec_solver(values, threads).fit(as_coo(train)))


def as_coo(train: completion.Ratings) -> Any:
    """Ratings as a matrix, as cmfrec takes them."""
    from scipy.sparse import coo_matrix

    return coo_matrix((train.values, (train.users, train.items)), shape=train.shape)


def _averaged(train: completion.Ratings, samples: list[tuple[Any, ...]]) -> Fitted:
    """Samples ``(mean, user bias, item bias, users, items)`` side by side, whose predictions are their means."""
    mean, user_bias, item_bias, users, items = zip(*samples, strict=True)
    share = 1 / np.sqrt(len(samples))
    users, items = (share * np.concatenate(factors, 1) for factors in (users, items))
    means = [np.mean(a, 0) for a in (mean, user_bias, item_bias)]
    return as_fitted(train, users, items, mean=float(means[0]), user_bias=means[1], item_bias=means[2])


def _myfm(train: completion.Ratings, values: Values, _: int) -> Fitted:
    from myfm import MyFMRegressor
    from scipy.sparse import csr_matrix

    n, m, size = *train.shape, len(train)
    columns = np.stack([train.users, n + train.items], 1).ravel()
    design = csr_matrix((np.ones(2 * size), columns, np.arange(0, 2 * size + 1, 2)), shape=(size, n + m))
    solver = MyFMRegressor(rank=values["rank"], random_seed=0)
    kept = values["n_samples"]
    solver.fit(
        design, train.values.astype(float), n_iter=BURN_IN + kept, n_kept_samples=kept, grouping=[0] * n + [1] * m
    )
    return _averaged(train, [(s.w0, s.w[:n], s.w[n:], s.V[:n], s.V[n:]) for s in solver.predictor_.samples])


def _smurff(train: completion.Ratings, values: Values, threads: int) -> Fitted:
    import smurff

    n, m = train.shape
    mean = float(train.values.mean(dtype=np.float64))
    ratings = as_coo(train).astype(np.float64)
    ratings.data -= mean
    with tempfile.TemporaryDirectory() as folder:
        session = smurff.TrainSession(
            num_latent=values["num_latent"], burnin=BURN_IN, nsamples=values["n_samples"], priors=["normal", "normal"],
            seed=1, verbose=0, save_freq=1, save_name=f"{folder}/samples.hdf5", num_threads=threads,
        )  # fmt: skip
        session.addTrainAndTest(ratings, None, smurff.FixedNoise(values["precision"]))
        session.run()
        latents = [sample.latents for sample in session.makePredictSession().samples]
    zeros = np.zeros(n), np.zeros(m)
    factors = [[a if len(a) == size else a.T for a, size in zip(pair, (n, m), strict=True)] for pair in latents]
    return _averaged(train, [(mean, *zeros, *pair) for pair in factors])


def _implicit(kind: str) -> Callable[..., Fitted]:
    def fit(train: completion.Ratings, values: Values, threads: int) -> Fitted:
        from implicit.cpu import als, bpr
        from scipy.sparse import csr_matrix

        made = {"als": als.AlternatingLeastSquares, "bpr": bpr.BayesianPersonalizedRanking}[kind]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about threads of BLAS that the harness has set
            solver = made(num_threads=threads, random_state=0, **values)
            solver.fit(csr_matrix(train.to_scipy()), show_progress=False)
        return as_fitted(train, solver.user_factors, solver.item_factors, limits=None)

    return fit


def _biases(train: completion.Ratings, values: Values, _: int) -> Fitted:
    """Mean and damped biases alone, by ten alternations."""
    mean = float(train.values.mean(dtype=np.float64))
    rows, columns, rest = train.users, train.items, train.values.astype(np.float64) - mean
    user_bias, item_bias = np.zeros(train.n_users), np.zeros(train.n_items)
    for _ in range(10):
        for own, other, at, where, damping in (
            (item_bias, user_bias, columns, rows, values["item_damping"]),
            (user_bias, item_bias, rows, columns, values["user_damping"]),
        ):
            total = np.bincount(at, weights=rest - other[where], minlength=len(own))
            own[:] = total / (np.bincount(at, minlength=len(own)) + damping)
    users, items = (np.zeros((n, 1)) for n in train.shape)
    return as_fitted(train, users, items, mean=mean, user_bias=user_bias, item_bias=item_bias)


def _popularity(train: completion.Ratings, values: Values, _: int) -> Fitted:
    users, items = (np.zeros((n, 1)) for n in train.shape)
    return as_fitted(train, users, items, item_bias=np.bincount(train.items, minlength=train.n_items), limits=None)


PEERS: dict[str, Callable[..., Fitted]] = {
    "biases": _biases,
    "popularity": _popularity,
    "Surprise SVD": _surprise("SVD"),
    "Surprise SVDpp": _surprise("SVDpp"),
    "cmfrec CMF": _cmfrec,
    "myFM": _myfm,
    "SMURFF": _smurff,
    "implicit ALS": _implicit("als"),
    "implicit BPR": _implicit("bpr"),
}
"""``(train, values, threads) -> Fitted``, baselines among them."""


def movielens_problem(cache: Path) -> Paths:
    """``users``, ``items``, ``values`` of MovieLens 100K, its ``shape``, and ``is_test``: a quarter, at random."""

    def write(folder: Path) -> None:
        ratings = completion.read_ratings(completion.movielens_100k()[0])
        _save(folder, ratings.users, ratings.items, ratings.values, ratings.shape, 0.25)

    return cached(cache, "movielens-100k", write)


def synthetic_problem(n_users: int, n_items: int, n: int, cache: Path) -> Paths:
    """As `movielens_problem`, a tenth to test on: n distinct pairs, popularity of items a power law.

    Activity of users is lognormal. Ratings are biases, ten factors and noise of deviation 0.8, rounded to 1..5.
    """

    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        popularity = rng.permutation((np.arange(n_items) + 20.0) ** -0.9)
        activity = np.minimum(rng.lognormal(0, 1, n_users), 20)
        pairs = np.empty(0, np.int64)
        while len(pairs) < n:
            size = int(1.3 * (n - len(pairs))) + 1000
            drawn = _draw(rng, activity, size) * n_items + _draw(rng, popularity, size)
            pairs = np.unique(np.concatenate([pairs, drawn]))
        pairs = np.sort(rng.choice(pairs, n, replace=False))
        users, items = (a.astype(np.int32) for a in np.divmod(pairs, n_items))
        sides = [rng.standard_normal((size, 10), np.float32) for size in (n_users, n_items)]
        biases = [spread * rng.standard_normal(size) for spread, size in ((0.4, n_users), (0.5, n_items))]
        values = np.empty(n, np.float32)
        for part in np.array_split(np.arange(n), -(-n // 1_000_000)):
            u, i = users[part], items[part]
            product = np.sum(sides[0][u] * sides[1][i], 1) * (0.5 / np.sqrt(10))
            values[part] = 3.6 + biases[0][u] + biases[1][i] + product + 0.8 * rng.standard_normal(len(part))
        _save(folder, users, items, np.clip(np.rint(values), *LIMITS), (n_users, n_items), 0.1)

    return cached(cache, f"ratings-{n_users}-{n_items}-{n}", write)


def _draw(rng: np.random.Generator, weights: np.ndarray, n: int) -> np.ndarray:
    """Positions ``(n,)``, in proportion to weights."""
    total = np.cumsum(weights)
    return np.minimum(np.searchsorted(total, rng.uniform(0, total[-1], n)), len(weights) - 1)


def _save(
    folder: Path, users: np.ndarray, items: np.ndarray, values: np.ndarray, shape: tuple[int, int], test_size: float
) -> None:
    is_test = np.random.default_rng(1).permutation(len(values)) < test_size * len(values)
    arrays = {"users": users, "items": items, "values": values, "shape": np.array(shape), "is_test": is_test}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(paths: dict[str, str]) -> tuple[completion.Ratings, completion.Ratings]:
    """Training and test part of a problem."""
    users, items, values, shape, is_test = (
        np.load(paths[name]) for name in ("users", "items", "values", "shape", "is_test")
    )
    user_ids, item_ids = (completion.Labels(np.arange(n)) for n in shape.tolist())
    ratings = completion.Ratings(user_ids, item_ids, users, items, values)  # they are sorted
    return ratings.select(~is_test), ratings.select(is_test)
