"""Masks of missing entries, against the NumPy reference, deleted entries, planted matrices and `completion`."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weighted_runs import K, P, check_against_reference, matrix, solver_for

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.io import ArraySource, DeviceSource, ObservedEntries

X = matrix()
RNG = np.random.default_rng(7)
HERE = (RNG.random(X.shape) < 0.6).astype(float)
HERE[:, 4] = 0  # of no sample
HERE[5] = 0  # of no feature
SOFT = HERE * RNG.choice([0.5, 1.0, 3.0], X.shape)
HOLES = np.where(HERE == 0, np.nan, X)
WEIGHTS = RNG.choice([0.0, 0.5, 1.0, 2.0], len(X))
CASES = [(1, "masked"), (3, "masked"), ("blocks", "masked"), (1, "full"), (3, "full")]


@pytest.mark.parametrize(("subset", "statistics"), CASES)
@pytest.mark.parametrize("mask", ["zeros and ones", "weights"])
def test_steps_are_those_of_the_reference(x64, subset, statistics, mask):
    solver = solver_for(partial_b=True, subset=subset, statistics=statistics)
    check_against_reference(solver, HOLES, mask=HERE if mask == "zeros and ones" else SOFT)


@pytest.mark.parametrize(("subset", "statistics"), CASES)
def test_with_weights_of_samples_and_a_mean(x64, subset, statistics):
    solver = solver_for(partial_b=True, subset=subset, statistics=statistics, center=True)
    check_against_reference(solver, HOLES + 2, mask=SOFT, sample_weight=WEIGHTS)


def test_partial_updates_are_those_of_the_reference(x64):
    solver = solver_for(partial_b=True, subset=3, center=True)
    check_against_reference(solver, HOLES, mask=SOFT, sample_weight=WEIGHTS, partial=True)


@pytest.mark.parametrize("shape", [X.shape, (P,)])
@pytest.mark.parametrize("subset", [1, 3])
def test_a_mask_of_ones_changes_nothing(dtype, subset, shape):
    solver, x = solver_for(partial_b=True, subset=subset, center=True), X.astype(dtype)
    state = solver.init(jax.random.key(0), samples=x)
    plain, _ = solver.update(state, x[:13])
    masked, _ = solver.update(state, x[:13], mask=np.ones(shape)[..., :13, :] if len(shape) == 2 else np.ones(shape))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for a, b in zip(jax.tree.leaves(masked.surrogate), jax.tree.leaves(plain.surrogate), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(masked.mean, plain.mean, atol=tolerance)


def test_features_that_are_missing_in_all_samples_are_as_if_deleted(x64):
    """The other features learn what they learn without them, and their own atoms and residuals do not move."""
    solver, kept = solver_for(partial_b=True, constraint=mmf.L2Ball(1e6)), np.arange(P) < 20
    dictionary = np.random.default_rng(0).normal(size=(K, P))
    ours = solver.init(jax.random.key(0), dictionary=dictionary)
    theirs = solver.init(jax.random.key(0), dictionary=dictionary[:, kept])
    for first in range(0, 80, 16):
        x = np.where(kept, X[first : first + 16], np.nan)
        ours, info = solver.update(ours, x, mask=kept)
        theirs, other = solver.update(theirs, x[:, kept])
        np.testing.assert_allclose(info.codes, other.codes, atol=1e-9)
    np.testing.assert_allclose(ours.dictionary[:, kept], theirs.dictionary, atol=1e-9)
    np.testing.assert_allclose(ours.dictionary[:, ~kept], dictionary[:, ~kept], rtol=1e-12)
    np.testing.assert_array_equal(ours.surrogate.feature_counts, np.where(kept, 80, 0))


def test_samples_without_entries_add_nothing(x64):
    """Their codes are zero: residuals and the atoms are those of the other samples, for any residual of before."""
    solver = solver_for(partial_b=True)
    mask = np.ones((12, P))
    mask[[2, 7]] = 0
    state, _ = solver.update(solver.init(jax.random.key(0), samples=X), X[20:40])
    ours, info = solver.update(state, np.where(mask == 0, np.nan, X[:12]), mask=mask)
    other, _ = solver.update(state, np.where(mask == 0, 1e9, X[:12]), mask=mask)
    np.testing.assert_array_equal(info.codes[np.array([2, 7])], 0)
    np.testing.assert_array_equal(ours.dictionary, other.dictionary)
    np.testing.assert_allclose(ours.surrogate.feature_counts, 30)


@hypothesis.given(st.permutations(range(9)))
@hypothesis.settings(max_examples=8)
def test_the_order_of_the_samples_of_a_batch_does_not_matter(order):
    order = np.array(order)
    with jax.enable_x64(True):
        solver = solver_for(partial_b=True, subset=3, center=True)
        state = solver.init(jax.random.key(0), samples=X)
        ours, info = solver.update(state, HOLES[:9], mask=SOFT[:9], sample_weight=WEIGHTS[:9])
        theirs, other = solver.update(state, HOLES[order], mask=SOFT[order], sample_weight=WEIGHTS[order])
        np.testing.assert_allclose(info.codes[order], other.codes, atol=1e-9)
        np.testing.assert_allclose(ours.dictionary, theirs.dictionary, atol=1e-9)
        np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-12)


def test_derivatives_with_nan_under_the_zeros(x64):
    solver = solver_for(partial_b=True, subset=3, center=True, penalty=mmf.Ridge(0.1), code_solver=None)
    state = solver.init(jax.random.key(0), samples=HOLES, mask=HERE)

    def left(x, mask, dictionary):
        return jnp.sum(solver.update(state._replace(dictionary=dictionary), x, mask=mask)[0].dictionary ** 3)

    arguments = (jnp.asarray(HOLES[:16]), jnp.asarray(SOFT[:16]), state.dictionary)
    slopes = jax.grad(left, (0, 1, 2))(*arguments)
    rng = np.random.default_rng(0)
    steps = [1e-6 * rng.normal(size=a.shape) for a in arguments]
    steps[1] *= SOFT[:16] > 0  # negative weights are none
    difference = left(*map(jnp.add, arguments, steps)) - left(*map(jnp.subtract, arguments, steps))
    total = sum(jnp.vdot(slope, step) for slope, step in zip(slopes, steps, strict=True))
    np.testing.assert_allclose(total, difference / 2, rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(slopes[0])[SOFT[:16] == 0], 0)


def test_vmap_and_jit(x64):
    solver = solver_for(partial_b=True, subset=3, penalty=mmf.Ridge(0.1), code_solver=None)
    state = solver.init(jax.random.key(0), samples=HOLES, mask=HERE)
    step = lambda x, mask: solver.update(state, x, mask=mask)[0].dictionary
    x, masks = HOLES[:32].reshape(2, 16, P), SOFT[:32].reshape(2, 16, P)
    mapped = jax.jit(jax.vmap(step))(x, masks)
    for ours, one, mask in zip(mapped, x, masks, strict=True):
        np.testing.assert_allclose(ours, step(one, mask), atol=1e-10)


# Missing entries are found


def test_a_low_rank_matrix_is_completed(x64):
    """Half of the entries, without noise: the other half is found to a thousandth of its spread."""
    x = matrix(400, 50, noise=0) - 0.5
    here = np.random.default_rng(1).random(x.shape) < 0.5
    solver = solver_for(partial_b=True, penalty=mmf.Ridge(1e-6), code_solver=None, forgetting=None)
    holes = np.where(here, x, np.nan)
    result = mmf.fit(solver, holes, mask=here, key=jax.random.key(0), n_epochs=60, batch_size=40)
    found = result.encode(holes, mask=here) @ result.dictionary
    error = np.sqrt(np.mean((found - x)[~here] ** 2))
    assert error < 1e-3 * x.std()


def test_ratings_are_predicted_as_well_as_by_completion():
    """Ratings of a few hundred users, a fifth of them held out: biases first, then factors of what is left."""
    ratings = completion.make_ratings(jax.random.key(0), 600, 120, 24_000, noise=0.5).ratings
    learn, test = completion.train_test_split(ratings, test_size=0.2, key=jax.random.key(1))
    reference = completion.fit(completion.ExplicitALS(n_components=4), learn, key=jax.random.key(2), n_epochs=15)
    x = np.full(learn.shape, np.nan, np.float32)
    x[learn.users, learn.items] = learn.values
    here = ~np.isnan(x)
    base = np.nanmean(x) + np.nansum(x - np.nanmean(x), 0) / (here.sum(0) + 5)
    base = base + (np.nansum(x - base, 1) / (here.sum(1) + 5))[:, None]
    solver = mmf.OnlineFactorization(n_components=4, penalty=mmf.Ridge(0.1), partial_b=True, center=True)
    result = mmf.fit(solver, x - base, mask=here, key=jax.random.key(0), n_epochs=60, batch_size=100)
    found = result.encode(x - base, mask=here) @ result.dictionary + result.state.mean + base
    rmse = lambda predicted: np.sqrt(np.mean((np.clip(predicted, 1, 5)[test.users, test.items] - test.values) ** 2))
    assert rmse(base) > 1.04 * completion.rmse(reference, test)  # the factors matter
    assert rmse(found) < 1.02 * completion.rmse(reference, test)


# fit, metrics and sources


@pytest.mark.parametrize(("subset", "statistics"), CASES)
def test_fit_is_the_steps_by_hand(x64, subset, statistics):
    solver = solver_for(partial_b=True, subset=subset, statistics=statistics, center=True)
    state = solver.init(jax.random.key(0), samples=HOLES, mask=HERE)
    options = {"state": state, "batch_size": 32, "shuffle": False, "n_epochs": 2}
    results = [
        mmf.fit(solver, HOLES, mask=mask, sample_weight=WEIGHTS, **options)
        for mask in (HERE, ArraySource(HERE), ObservedEntries(HOLES), HERE.astype(bool))
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].dictionary, other.dictionary)
    on_device = mmf.fit(solver, DeviceSource(jnp.nan_to_num(HOLES)), mask=HERE, sample_weight=WEIGHTS, **options)
    np.testing.assert_allclose(on_device.dictionary, results[0].dictionary, atol=1e-10)
    if subset == "blocks":  # whose features are in random order
        return
    for first in (0, 32, 64, 0, 32, 64):
        some = slice(first, first + 32)
        state, _ = solver.update(state, HOLES[some], mask=HERE[some], sample_weight=WEIGHTS[some])
    np.testing.assert_allclose(results[0].dictionary, state.dictionary, atol=1e-8)
    np.testing.assert_allclose(results[0].state.mean, state.mean, atol=1e-10)


def test_held_out_samples_have_their_mask(x64):
    solver = solver_for(partial_b=True, subset="blocks", center=True)
    result = mmf.fit(solver, HOLES, mask=HERE, key=jax.random.key(0), held_out=20, batch_size=16, shuffle=False)
    x = HOLES[-20:] - result.state.mean
    want = mmf.objective(result.dictionary, x, solver.penalty, mask=HERE[-20:])
    np.testing.assert_allclose(result.objective, want, rtol=1e-7)
    assert result.best is not None


def test_the_objective_of_a_batch(x64):
    solver = solver_for(partial_b=True, center=True)
    state = solver.init(jax.random.key(0), samples=HOLES, mask=HERE)
    result = mmf.fit(solver, HOLES[:30], mask=SOFT[:30], state=state, batch_size=30, shuffle=False)
    after, info = solver.update(state, HOLES[:30], mask=SOFT[:30])
    errors = np.where(SOFT[:30] > 0, HOLES[:30] - after.mean - info.codes @ after.dictionary, 0)
    value = 0.5 * (SOFT[:30] * errors**2).sum(1) + mmf.penalty_value(solver.penalty, info.codes)
    np.testing.assert_allclose(result.objective, value.mean(), rtol=1e-7)


@pytest.mark.parametrize("batch_size", [None, 32])
def test_metrics_with_a_mask(x64, batch_size):
    dictionary = np.random.default_rng(0).normal(size=(K, P))
    penalty = mmf.Ridge(0.3)
    codes = np.asarray(mmf.encode(dictionary, HOLES, penalty, mask=SOFT))
    errors = np.where(SOFT > 0, HOLES - codes @ dictionary, 0)
    value = (0.5 * (SOFT * errors**2).sum(1) + 0.15 * (codes**2).sum(1)).mean()
    options = {"mask": SOFT, "batch_size": batch_size}
    np.testing.assert_allclose(mmf.objective(dictionary, HOLES, penalty, **options), value, rtol=1e-9)
    share = 1 - (SOFT * errors**2).sum() / np.nansum(SOFT * HOLES**2)
    for of in (penalty, codes):
        np.testing.assert_allclose(mmf.explained_variance(dictionary, HOLES, of, **options), share, rtol=1e-9)
    shared = mmf.objective(dictionary, X, penalty, mask=SOFT[0], batch_size=batch_size)
    each = mmf.objective(dictionary, X, penalty, mask=np.tile(SOFT[0], (len(X), 1)))
    np.testing.assert_allclose(shared, each, rtol=1e-9)
    slope = jax.grad(lambda m: mmf.objective(dictionary, HOLES, penalty, mask=m))(jnp.asarray(SOFT))
    np.testing.assert_allclose(slope[SOFT > 0], (0.5 * errors**2 / len(X))[SOFT > 0], rtol=1e-6)  # by the envelope


def test_the_first_dictionary_fills_holes_by_the_mean(x64):
    solver = solver_for(partial_b=True, initialization=mmf.RandomSamples())
    filled = np.where(HERE > 0, X, np.nan_to_num(np.where(HERE > 0, X, 0).sum(0) / np.maximum(HERE.sum(0), 1)))
    ours = solver.init(jax.random.key(0), samples=HOLES, mask=SOFT)
    theirs = solver.init(jax.random.key(0), samples=filled)
    np.testing.assert_allclose(ours.dictionary, theirs.dictionary, atol=1e-12)
    dead, _ = solver.update(ours, 0 * X[:8])
    revived = [solver.revive(jax.random.key(1), dead, x, mask=m) for x, m in ((HOLES, HERE), (filled, None))]
    np.testing.assert_allclose(revived[0].dictionary, revived[1].dictionary, atol=1e-12)


def test_revival_and_relative_alpha_in_fit():
    solver = solver_for(partial_b=True, penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)), code_solver=None)
    x = HOLES.astype(np.float32)
    result = mmf.fit(solver, x, mask=HERE, key=jax.random.key(0), n_epochs=4, batch_size=16, revive_every=2)
    assert np.isfinite(result.dictionary).all()
    assert result.history[-1].objective < result.history[0].objective


def test_a_resumed_run_is_the_same(tmp_path):
    solver, x = solver_for(partial_b=True, subset="blocks", center=True), HOLES.astype(np.float32)
    options = {"mask": HERE, "batch_size": 16, "held_out": 0.1}
    whole = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=2, **options)
    half = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=1, **options)
    half.save(tmp_path / "half.h5")
    resumed = mmf.fit(solver, x, resume=mmf.load_checkpoint(tmp_path / "half.h5"), n_epochs=2, **options)
    for name in ("dictionary", "mean", "mean_weight", "surrogate"):
        for a, b in zip(*(jax.tree.leaves(getattr(r.state, name)) for r in (resumed, whole)), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="mask whose first, middle and last row"):
        mmf.fit(solver, x, resume=half, n_epochs=2, **options | {"mask": np.ones_like(HERE) * HERE[::-1]})


def test_observed_entries():
    source = ObservedEntries(HOLES)
    assert (source.n_samples, source.n_features, source.dtype) == (*X.shape, np.float32)
    rows, columns = np.array([3, 7]), np.array([9, 4])
    np.testing.assert_array_equal(source.read(rows), HERE[rows])
    np.testing.assert_array_equal(source.read(rows, columns), HERE[rows][:, columns])
    counts = np.where(HERE == 0, -1, 3)
    np.testing.assert_array_equal(ObservedEntries(counts, missing_values=-1).read(rows), HERE[rows])
    with pytest.raises(TypeError, match="iterable of batches"):
        ObservedEntries(iter([X]))


# Bad input


def test_values_that_are_not_missing_must_be_numbers():
    mask = HERE.copy()
    mask[3, np.flatnonzero(HERE[3] == 0)[0]] = 1
    with pytest.raises(ValueError, match=f"nan at sample 3, feature {np.flatnonzero(HERE[3] == 0)[0]}"):
        mmf.fit(solver_for(partial_b=True), HOLES.astype(np.float32), mask=mask, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partial_b": False}, "mask needs partial_b=True"),
        ({"partial_b": False, "subset": 3}, "mask needs partial_b=True"),
    ],
)
def test_full_b_takes_no_mask(options, message):
    solver = solver_for(**options)
    state = solver.init(jax.random.key(0), samples=X.astype(np.float32))
    with pytest.raises(ValueError, match=message):
        solver.update(state, X[:4], mask=HERE[:4])
    with pytest.raises(ValueError, match=message):
        mmf.fit(solver, X, mask=HERE, key=jax.random.key(0))


def test_statistics_that_take_no_mask_are_named():
    solver = mmf.OnlineFactorization(n_components=K, partial_b=True, statistics=mmf.AveragedStatistics())
    with pytest.raises(ValueError, match="AveragedStatistics.*takes no mask; use MaskedStatistics"):
        mmf.fit(solver, X, mask=HERE, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (-HERE, "mask must hold finite weights >= 0, got -1.0"),
        (np.where(HERE == 0, np.nan, 1), "mask must hold finite weights >= 0, got nan"),
        (HERE[:, 1:], "mask must have shape"),
        (HERE[1:], "mask must have shape"),
        (np.ones(P - 1), "mask must have shape"),
    ],
)
def test_bad_masks_are_named(mask, message):
    solver, x = solver_for(partial_b=True), X.astype(np.float32)
    state = solver.init(jax.random.key(0), samples=x)
    with pytest.raises(ValueError, match=message):
        solver.update(state, x, mask=mask)
    with pytest.raises(ValueError, match=message):
        solver.init(jax.random.key(0), samples=x, mask=mask)
    with pytest.raises(ValueError, match=message):
        mmf.fit(solver, x, mask=mask, key=jax.random.key(0))


def test_masks_without_samples_to_go_with():
    solver, x = solver_for(partial_b=True), X.astype(np.float32)
    with pytest.raises(ValueError, match="mask needs a source with numbered samples.*iterable of batches"):
        mmf.fit(solver, [x[:40], x[40:]], mask=HERE, key=jax.random.key(0))
    with pytest.raises(TypeError, match="mask must be a matrix"):
        mmf.fit(solver, x, mask=iter([HERE]), key=jax.random.key(0))
    with pytest.raises(ValueError, match="mask applies to samples, and init got a dictionary"):
        solver.init(jax.random.key(0), dictionary=x[:K], mask=HERE[:K])


@pytest.mark.parametrize("function", ["fit", "encode"])
def test_mask_with_columns_in_another_order_is_refused(function):
    pandas = pytest.importorskip("pandas")
    names = [f"f{j}" for j in range(P)]
    x, mask = pandas.DataFrame(X, columns=names), pandas.DataFrame(HERE, columns=names)
    run = {
        "fit": lambda mask: mmf.fit(solver_for(partial_b=True), x, mask=mask, key=jax.random.key(0)).dictionary,
        "encode": lambda mask: mmf.encode(np.eye(K, P), x, mmf.Ridge(0.1), mask=mask),
    }[function]
    np.testing.assert_array_equal(run(mask), run(HERE))
    with pytest.raises(ValueError, match="mask must have the columns of"):
        run(mask[names[::-1]])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"sample_weight": np.zeros(len(X))}, "weights of the mini-batch are zero"),
        ({"mask": np.zeros(P)}, "entries of the mini-batch are missing"),
    ],
)
def test_warning_if_no_entry_counts(weights, message):
    with pytest.warns(UserWarning, match=message):
        mmf.fit(solver_for(partial_b=True), X, key=jax.random.key(0), **weights)
