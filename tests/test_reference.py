"""The NumPy reference against SciPy, scikit-learn and brute force, so that it can be trusted as an oracle."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import reference
from reference import ReferenceConfig, batch_weight, code_sample, gauge, project, run
from scipy.optimize import minimize, nnls
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode

BASE = ReferenceConfig(
    alpha=0.1,
    l1_ratio=1.0,
    nonneg_codes=False,
    mu=0.0,
    radius=1.0,
    nonneg_atoms=False,
    simplex=False,
    statistics="full",
    power=0.8,
    partial_b=False,
    forgetting=("power", 1.0),
)
CONSTRAINTS = {
    "l2": {"mu": 0.0},
    "l1": {"mu": 1.0},
    "elastic": {"mu": 0.4},
    "nearly-l2": {"mu": 1e-6},
    "l2-nonneg": {"mu": 0.0, "nonneg_atoms": True},
    "l1-nonneg": {"mu": 1.0, "nonneg_atoms": True},
    "elastic-nonneg": {"mu": 0.4, "nonneg_atoms": True},
    "simplex": {"mu": 1.0, "nonneg_atoms": True, "simplex": True},
}
STATISTICS = ["masked", "full", "full_gram_averaged", "averaged"]


def parameters(table):
    return pytest.mark.parametrize("settings", table.values(), ids=table.keys())


def objective(gram, beta, config, a):
    penalty = config.alpha * (config.l1_ratio * np.sum(np.abs(a)) + (1 - config.l1_ratio) / 2 * np.sum(a**2))
    return a @ gram @ a / 2 - a @ beta + penalty


def problem(seed, *, steps=12, p=20, k=4, b=5, s=8, n=15, ragged=True):
    """Batches of a low-rank matrix, whose samples come back, with all that run needs."""
    rng = np.random.default_rng(seed)
    data = np.abs(rng.normal(size=(n, k)) @ rng.normal(size=(k, p))) + 0.3 * rng.normal(size=(n, p))
    sizes = [b - (t % 3 if ragged else 0) for t in range(steps)]
    ids = [rng.choice(n, size, replace=False) for size in sizes]
    subsets = [rng.choice(p, s, replace=False) for _ in range(steps)]
    dictionary = np.abs(rng.normal(size=(k, p)))
    return {
        "batches": [data[i] for i in ids],
        "dictionary": dictionary / dictionary.sum(axis=1, keepdims=True),
        "subsets": subsets,
        "reductions": [p / s] * steps,
        "orders": [rng.permutation(k) for _ in range(steps)],
        "sample_ids": ids,
    }


def everything(problem):
    """The same problem with all features at each step."""
    p = problem["dictionary"].shape[1]
    steps = len(problem["batches"])
    return {**problem, "subsets": [np.arange(p)] * steps, "reductions": [1.0] * steps}


# Codes


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_codes_match_brute_force_over_supports(l1_ratio, nonneg):
    rng = np.random.default_rng(0)
    k = 5
    config = replace(BASE, alpha=0.7, l1_ratio=l1_ratio, nonneg_codes=nonneg)
    l1, l2 = config.alpha * l1_ratio, config.alpha * (1 - l1_ratio)
    for _ in range(20):
        D = rng.normal(size=(k, 7))
        gram, beta = D @ D.T, D @ rng.normal(size=7)
        # The optimum is the best point that is stationary for its own signs.
        best, best_value = None, np.inf
        for pattern in itertools.product([0, 1] if nonneg else [-1, 0, 1], repeat=k):
            signs = np.array(pattern)
            on = np.flatnonzero(signs)
            a = np.zeros(k)
            a[on] = np.linalg.solve(gram[np.ix_(on, on)] + l2 * np.eye(len(on)), beta[on] - l1 * signs[on])
            if np.all(np.sign(a) == signs) and objective(gram, beta, config, a) < best_value:
                best, best_value = a, objective(gram, beta, config, a)
        np.testing.assert_allclose(code_sample(gram, beta, config), best, rtol=0, atol=1e-12)


def test_codes_match_scikit_learn_and_scipy():
    rng = np.random.default_rng(1)
    D = rng.normal(size=(6, 15))
    X = rng.normal(size=(30, 15))
    lasso = replace(BASE, alpha=0.9)
    codes = np.array([code_sample(D @ D.T, D @ x, lasso) for x in X])
    np.testing.assert_allclose(codes, sparse_encode(X, D, algorithm="lasso_lars", alpha=0.9), rtol=0, atol=1e-10)
    assert np.mean(codes == 0) > 0.05

    # Non-negative ridge is a non-negative least squares problem with extra rows.
    ridge = replace(BASE, alpha=0.4, l1_ratio=0.0, nonneg_codes=True)
    for x in X:
        expected = nnls(np.vstack([D.T, np.sqrt(0.4) * np.eye(6)]), np.concatenate([x, np.zeros(6)]))[0]
        np.testing.assert_allclose(code_sample(D @ D.T, D @ x, ridge), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("nonneg", [False, True])
def test_codes_of_a_singular_gram_are_optimal(nonneg):
    # More atoms than features, and an atom that is zero on them.
    rng = np.random.default_rng(2)
    config = replace(BASE, alpha=0.05, nonneg_codes=nonneg)
    for _ in range(20):
        D = rng.normal(size=(8, 4))
        D[3] = 0
        gram, beta = 10 * D @ D.T, 10 * D @ rng.normal(size=4)
        a = code_sample(gram, beta, config)
        assert a[3] == 0
        gradient = gram @ a - beta
        assert np.all(-gradient <= 0.05 + 1e-10)
        assert nonneg or np.all(gradient <= 0.05 + 1e-10)
        assert not nonneg or np.all(a >= 0)
        np.testing.assert_allclose(a @ gradient, -0.05 * np.sum(np.abs(a)), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(code_sample(gram, np.zeros(8), config), 0)


@pytest.mark.parametrize("nonneg", [False, True])
def test_codes_of_nearly_collinear_atoms(nonneg):
    # Condition numbers near 1e8, where coordinate descent alone takes far too many sweeps.
    rng = np.random.default_rng(17)
    config = replace(BASE, alpha=0.01, nonneg_codes=nonneg)
    for _ in range(20):
        D = rng.normal(size=(1, 12)) + 1e-4 * rng.normal(size=(6, 12))
        gram, beta = D @ D.T, D @ rng.normal(size=12) + 1e-3 * rng.normal(size=6)
        a = code_sample(gram, beta, config)
        gradient = gram @ a - beta
        assert np.all(-gradient <= 0.01 + 1e-8)
        assert np.all(a >= 0) if nonneg else np.all(gradient <= 0.01 + 1e-8)
        np.testing.assert_allclose(gradient[a != 0], -0.01 * np.sign(a[a != 0]), rtol=0, atol=1e-8)


# Atoms


def is_feasible(d, radius, config, tolerance=1e-12):
    if (config.nonneg_atoms or config.simplex) and np.any(d < 0):
        return False
    if config.simplex:
        return abs(np.sum(d) - radius) <= tolerance
    return gauge(d, config) <= radius + tolerance


def feasible_points(rng, size, radius, config, count):
    """Points of the set, most of them on its boundary, found without project."""
    for _ in range(count):
        d = rng.normal(size=size) * (rng.random(size) < rng.choice([0.2, 0.6, 1.0]))
        if config.nonneg_atoms or config.simplex:
            d = np.abs(d)
        if not np.any(d):
            d[rng.integers(size)] = 1.0
        # The scale c with mu * |d|_1 * c + (1 - mu) * |d|_2^2 * c^2 == radius.
        linear, square = config.mu * np.sum(np.abs(d)), (1 - config.mu) * np.sum(d**2)
        d *= 2 * radius / (linear + np.sqrt(linear**2 + 4 * square * radius))
        yield d if config.simplex else d * rng.choice([1.0, 1.0, rng.random()])


@parameters(CONSTRAINTS)
@pytest.mark.parametrize("radius", [0.01, 1.0, 3.0])
def test_projections_meet_the_variational_inequality(settings, radius):
    # q is the projection of v if and only if q is in the set and (v - q).(y - q) <= 0 for all y of the set.
    rng = np.random.default_rng(3)
    config = replace(BASE, **settings)
    for scale in [0.01, 0.3, 1.0, 30.0]:
        v = scale * rng.normal(size=9)
        q = project(v, radius, config)
        assert is_feasible(q, radius, config, 1e-12 * max(1, scale))
        np.testing.assert_allclose(project(q, radius, config), q, rtol=0, atol=1e-12 * max(1, scale))
        for y in feasible_points(rng, 9, radius, config, 200):
            assert (v - q) @ (y - q) <= 1e-11 * max(1, scale) ** 2
        if not config.simplex and is_feasible(v, radius, config, 0):
            np.testing.assert_array_equal(q, v)


@parameters(CONSTRAINTS)
def test_projections_match_scipy(settings):
    rng = np.random.default_rng(4)
    config = replace(BASE, **settings)
    for _ in range(5):
        v = rng.normal(size=5)
        # d = positive - negative makes the problem smooth.
        both = not (config.nonneg_atoms or config.simplex)

        def join(z, both=both):
            return z[:5] - z[5:] if both else z

        def slack(z):
            square = np.sum(z**2)  # of the parts: equal to that of d at the optimum, where one part is zero
            return 0.8 - (config.mu * np.sum(z) + (1 - config.mu) * square)

        def distance(z, v=v, join=join):
            return np.sum((join(z) - v) ** 2)

        size = 10 if both else 5
        found = minimize(
            distance,
            np.full(size, 0.05),
            method="SLSQP",
            bounds=[(0, None)] * size,
            constraints=[{"type": "eq" if config.simplex else "ineq", "fun": slack}],
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(project(v, 0.8, config), join(found.x), rtol=0, atol=2e-5)


def test_projection_on_an_l1_ball_matches_brute_force_over_supports():
    rng = np.random.default_rng(5)
    l1 = replace(BASE, mu=1.0)
    simplex = replace(BASE, mu=1.0, simplex=True)
    for _ in range(20):
        v = rng.normal(size=6)
        for config, values, signs in [(simplex, v, np.ones(6)), (l1, np.abs(v), np.sign(v))]:
            if config is l1 and np.sum(values) <= 0.9:
                continue
            candidates = []
            for count in range(1, 7):
                for support in itertools.combinations(range(6), count):
                    on = list(support)
                    d = np.zeros(6)
                    d[on] = values[on] + (0.9 - np.sum(values[on])) / count
                    if np.all(d >= 0):
                        candidates.append(d)
            best = min(candidates, key=lambda d, values=values: np.sum((d - values) ** 2))
            np.testing.assert_allclose(project(v, 0.9, config), signs * best, rtol=0, atol=1e-14)


@parameters(CONSTRAINTS)
def test_an_empty_budget_gives_zeros(settings):
    config = replace(BASE, **settings)
    for radius in [0.0, -1e-3]:
        np.testing.assert_array_equal(project(np.array([1.0, -2.0, 0.0]), radius, config), 0)


def test_the_gauge_by_hand():
    assert gauge(np.array([1.0, -2.0]), replace(BASE, mu=0.25)) == 0.25 * 3 + 0.75 * 5


# Weights and statistics


def test_batch_weights():
    assert batch_weight(0, 10, ("power", 0.9)) == 1
    np.testing.assert_allclose(batch_weight(30, 10, ("power", 1.0)), 10 / 40)
    np.testing.assert_allclose(batch_weight(2, 2, ("power", 0.9)), 1 - (1 - 3**-0.9) * (1 - 4**-0.9))
    np.testing.assert_allclose(batch_weight(30, 10, ("scaled", 2.0)), 20 / 50)
    np.testing.assert_allclose(batch_weight(7, 3, ("constant", 0.1)), 1 - 0.9**3)
    # A batch weighs as much as its samples one after another.
    kept = np.prod([1 - batch_weight(n, 1, ("power", 0.8)) for n in range(5, 12)])
    np.testing.assert_allclose(batch_weight(5, 7, ("power", 0.8)), 1 - kept)


@pytest.mark.parametrize("partial_b", [False, True])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_without_forgetting_the_surrogate_is_a_mean(statistics, partial_b):
    # u = 1: C is the mean of a'a over all samples, and full B that of a'x.
    inputs = problem(6)
    history = run(config=replace(BASE, statistics=statistics, partial_b=partial_b), **inputs)
    codes = np.concatenate([step["codes"] for step in history])
    data = np.concatenate(inputs["batches"])
    seen = np.concatenate(
        [
            np.tile(np.isin(np.arange(20), s), (len(x), 1))
            for s, x in zip(inputs["subsets"], inputs["batches"], strict=True)
        ]
    )
    np.testing.assert_array_equal(history[-1]["counts"], seen.sum(axis=0))
    np.testing.assert_allclose(history[-1]["C"], codes.T @ codes / len(codes), rtol=0, atol=1e-12)
    if not partial_b:
        np.testing.assert_allclose(history[-1]["B"], codes.T @ data / len(codes), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("weight", "reaches_cap"), [(0.03, False), (0.3, True)])
def test_weights_of_features_follow_their_counts(weight, reaches_cap):
    inputs = problem(7)
    history = run(config=replace(BASE, partial_b=True, forgetting=("constant", weight)), **inputs)
    n_seen, counts, R, D = 0, np.zeros(20), np.zeros((4, 20)), inputs["dictionary"]
    capped = 0
    for x, subset, step in zip(inputs["batches"], inputs["subsets"], history, strict=True):
        n_seen += len(x)
        counts[subset] += len(x)
        weights = np.zeros(20)
        weights[subset] = (1 - (1 - weight) ** len(x)) * n_seen / counts[subset]
        capped += np.sum(weights > 1)
        weights = np.minimum(weights, 1)
        R = R + weights * (step["codes"].T @ (x - step["codes"] @ D) / len(x) - R)
        np.testing.assert_allclose(step["B"], R + step["C"] @ D, rtol=0, atol=1e-12)
        # The gradient of the surrogate goes with the atoms where they move.
        R, D = R - step["C"] @ (step["D"] - D), step["D"]
        np.testing.assert_allclose(step["R"], R, rtol=0, atol=1e-12)
    assert (capped > 0) == reaches_cap


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_codes_follow_the_statistics(statistics, power):
    # v = 1 averages all the visits of a sample with equal weights; v = 0 keeps the last one only.
    inputs = problem(8)
    config = replace(BASE, statistics=statistics, power=power, partial_b=True, forgetting=("power", 0.9))
    history = run(config=config, **inputs)
    D = inputs["dictionary"]
    betas, grams = {}, {}
    repeated = 0
    for x, subset, ids, step in zip(inputs["batches"], inputs["subsets"], inputs["sample_ids"], history, strict=True):
        mask = np.isin(np.arange(20), subset)
        for row, i in enumerate(ids):
            betas.setdefault(i, []).append(20 / 8 * D @ (mask * x[row]))
            grams.setdefault(i, []).append(20 / 8 * (D * mask) @ D.T)
            repeated += len(betas[i]) > 1
            beta = np.mean(betas[i], axis=0) if power == 1 else betas[i][-1]
            gram = np.mean(grams[i], axis=0) if power == 1 else grams[i][-1]
            if statistics == "masked":
                beta, gram = betas[i][-1], grams[i][-1]
            if statistics == "full":
                beta = D @ x[row]
            if statistics in ("full", "full_gram_averaged"):
                gram = D @ D.T
            np.testing.assert_allclose(step["codes"][row], code_sample(gram, beta, config), rtol=0, atol=1e-10)
        D = step["D"]
    assert repeated > 10


# The dictionary


@parameters(CONSTRAINTS)
@pytest.mark.parametrize("partial_b", [False, True])
def test_each_atom_is_the_best_one_given_the_others(settings, partial_b):
    # The surrogate as a function of one atom is C_jj / 2 |d - target|^2, and no feasible atom that differs on the
    # subset only does better: the variational inequality, with the gradient of the surrogate itself.
    rng = np.random.default_rng(9)
    inputs = problem(10)
    config = replace(BASE, statistics="masked", partial_b=partial_b, **settings)
    history = run(config=config, **inputs)
    before = inputs["dictionary"]
    for step, subset, order in zip(history, inputs["subsets"], inputs["orders"], strict=True):
        off = np.setdiff1d(np.arange(20), subset)
        np.testing.assert_array_equal(step["D"][:, off], before[:, off])
        D = before.copy()
        for j in order:
            if step["C"][j, j] <= 1e-30:
                np.testing.assert_array_equal(step["D"][j], before[j])
                continue
            D[j] = step["D"][j]
            assert is_feasible(D[j], 1.0, config)
            gradient = (step["C"] @ D - step["B"])[j, subset]
            budget = 1 - (np.sum(D[j, off]) if config.simplex else gauge(D[j, off], config))
            if budget < 1e-9:
                continue
            for y in feasible_points(rng, len(subset), budget, config, 20):
                slope = gradient @ (y - D[j, subset])  # must not go down towards y
                assert slope >= -1e-10 * (1 + np.max(np.abs(gradient)))
        before = step["D"]


def test_unused_atoms_stay():
    inputs = problem(11)
    step = run(config=replace(BASE, alpha=1e6), **inputs)[-1]
    np.testing.assert_array_equal(step["codes"], 0)
    np.testing.assert_array_equal(step["D"], inputs["dictionary"])


# Whole runs


@pytest.mark.parametrize("positive", [False, True])
def test_all_features_match_scikit_learn(positive, monkeypatch):
    # scikit-learn's sums are A <- beta A + a'a / b, so that the weight of a batch is one over the sum of the factors.
    steps, b, k = 25, 5, 4
    inputs = everything(problem(12, steps=steps, b=b, ragged=False))
    inputs["orders"] = [np.arange(k)] * steps
    theirs = MiniBatchDictionaryLearning(
        n_components=k,
        alpha=0.1,
        batch_size=b,
        fit_algorithm="lars",
        dict_init=inputs["dictionary"].copy(),
        positive_dict=positive,
        random_state=0,
    )
    weights, total = {}, 0.0
    for t in range(steps):
        theta = (t + 1) * b if t < b - 1 else b**2 + t + 1 - b
        total = total * (theta + 1 - b) / (theta + 1) + 1
        weights[t * b] = 1 / total
    monkeypatch.setattr(reference, "batch_weight", lambda n_before, b, forgetting: weights[n_before])
    history = run(config=replace(BASE, nonneg_atoms=positive), **inputs)
    for x, step in zip(inputs["batches"], history, strict=True):
        theirs.partial_fit(x)
        np.testing.assert_allclose(step["D"], theirs.components_, rtol=0, atol=1e-8)
    assert np.max(np.abs(history[-1]["D"] - inputs["dictionary"])) > 0.1
    assert np.all(np.diag(theirs._A) > 1e-3)  # no atom was drawn again


def test_with_all_features_all_statistics_agree():
    inputs = everything(problem(13))
    # v = 0 keeps the last visit, which saw everything with the current dictionary.
    runs = [
        run(config=replace(BASE, statistics=statistics, power=0.0, partial_b=partial_b), **inputs)[-1]
        for statistics in STATISTICS
        for partial_b in [False, True]
    ]
    for other in runs[1:]:
        for name in ["D", "B", "C", "codes", "counts"]:
            np.testing.assert_allclose(other[name], runs[0][name], rtol=0, atol=1e-10)


def test_inputs_are_left_alone_and_history_is_not_shared():
    inputs = problem(14)
    kept = inputs["dictionary"].copy()
    config = replace(BASE, statistics="averaged", partial_b=True)
    history = run(config=config, **inputs)
    again = run(config=config, **{name: value[:5] if name != "dictionary" else value for name, value in inputs.items()})
    np.testing.assert_array_equal(inputs["dictionary"], kept)
    for name in ["D", "B", "C", "codes", "counts"]:
        np.testing.assert_array_equal(history[4][name], again[4][name])


def test_wrong_settings_are_refused():
    inputs = problem(15)
    with pytest.raises(ValueError, match="statistics"):
        run(config=replace(BASE, statistics="half"), **inputs)
    with pytest.raises(ValueError, match="sample_ids"):
        run(config=replace(BASE, statistics="averaged"), **{**inputs, "sample_ids": None})
    with pytest.raises(ValueError, match="forgetting"):
        run(config=replace(BASE, forgetting=("none", 0.0)), **inputs)
