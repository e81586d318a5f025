"""The solver: feasibility, recovery, reproducibility, dead atoms, bad input, and degenerate data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import NMF, MiniBatchDictionaryLearning, sparse_encode

import jax_mmf as mmf
from jax_mmf.core import Stream, stream_key
from jax_mmf.datasets import make_sparse_codes
from jax_mmf.learning import default_batch_size


def make(**kwargs):
    options = {"n_components": 5, "penalty": mmf.Lasso(0.1), "constraint": mmf.L2Ball()} | kwargs
    if isinstance(options["penalty"], mmf.Lasso):  # a solver that compiles in a fifth of the time of the default one
        options.setdefault("code_solver", mmf.CoordinateDescent())
    return mmf.OnlineFactorization(**options)


def samples(n=60, p=40, seed=0):
    return np.random.default_rng(seed).standard_normal((n, p)).astype(np.float32)


def run(solver, x, steps, batch=20, state=None):
    state = solver.init(jax.random.key(0), samples=x) if state is None else state

    def body(state, i):
        rows = jax.random.permutation(jax.random.fold_in(jax.random.key(7), i), x.shape[0])[:batch]
        return solver.update(state, x[rows])

    return jax.jit(lambda s: jax.lax.scan(body, s, jnp.arange(steps)))(state)


# Right


@pytest.mark.parametrize("constraint", [mmf.L1Ball(), mmf.ElasticNetBall(0.5), mmf.L1Ball(nonneg=True), mmf.Simplex()])
def test_whole_atoms_stay_feasible(constraint):
    """10,000 float32 steps on a twelfth of the features: no negative budget by round-off, no atom outside."""
    x = jnp.asarray(samples(200, 240))
    solver = make(
        n_components=4, penalty=mmf.Ridge(0.1), constraint=constraint, subset=mmf.BlockSubset(12, 20), partial_b=True
    )
    state, info = run(solver, x, 10_000)
    gauge = np.asarray(jax.vmap(constraint.gauge)(state.dictionary), dtype=np.float64)
    assert bool(info.finite.all())
    assert np.isfinite(np.asarray(state.dictionary)).all()
    # A few thousand roundings of a number below 1 since the gauges were last computed afresh.
    assert gauge.max() <= 1 + 2e-6
    np.testing.assert_allclose(state.gauge, gauge, atol=5e-6)
    assert gauge.min() > 0.5


def test_gram_is_kept_up_to_date():
    x = jnp.asarray(samples(100, 120))
    solver = make(subset=mmf.UniformSubset(4), statistics=mmf.FullStatistics())
    state, _ = run(solver, x, 1000)
    np.testing.assert_allclose(state.gram, state.dictionary @ state.dictionary.T, atol=1e-5)


@pytest.mark.parametrize("reduction", [1, 4])
def test_planted_dictionary_is_recovered(reduction):
    planted = make_sparse_codes(jax.random.key(3), 6000, 100, 20, n_nonzero=2)
    subset = mmf.FullSubset() if reduction == 1 else mmf.BlockSubset(reduction, 16)
    solver = make(n_components=20, penalty=mmf.Lasso(0.2), subset=subset, initialization=mmf.KMeansPlusPlus())
    result = mmf.fit(solver, planted.x, key=jax.random.key(0), n_epochs=10, batch_size=50, revive_every=100)
    assert mmf.match_atoms(result.state.dictionary, planted.dictionary)[1].min() > 0.95


def image_patches():
    from sklearn.datasets import load_sample_image

    image = load_sample_image("china.jpg").mean(2)[::2, ::2] / 255
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8))[::3, ::3].reshape(-1, 64)
    return windows - windows.mean(1, keepdims=True)


@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize(("data", "alpha"), [("digits", 1.0), pytest.param("patches", 0.1, marks=pytest.mark.slow)])
def test_same_objective_as_scikit_learn(x64, data, alpha):
    """Full features, lasso codes and l2 atoms: the problem of MiniBatchDictionaryLearning, whose penalty counts twice
    against its squared error where ours counts once against half of it."""
    x = load_digits().data / 16 * 4 if data == "digits" else image_patches() * 4
    k, epochs = 24, 12
    theirs = MiniBatchDictionaryLearning(
        k,
        alpha=alpha,
        batch_size=64,
        max_iter=epochs,
        fit_algorithm="cd",
        random_state=0,
        tol=0,
        max_no_improvement=None,
    ).fit(x)
    solver = make(n_components=k, penalty=mmf.Lasso(alpha))
    ours = mmf.fit(solver, x, key=jax.random.key(0), n_epochs=epochs, batch_size=64)
    penalty = mmf.Lasso(alpha)
    mine = float(mmf.objective(ours.state.dictionary, x, penalty))
    reference = float(mmf.objective(theirs.components_, x, penalty))
    assert mine <= 1.01 * reference


def test_objective_is_that_of_scikit_learn_codes(x64):
    """The conventions agree: objective of our codes equals that of scikit-learn's on one dictionary."""
    x = load_digits().data[:50] / 16
    dictionary = np.random.default_rng(0).standard_normal((20, 64))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = sparse_encode(x, dictionary, algorithm="lasso_cd", alpha=0.1, max_iter=100_000)
    np.testing.assert_allclose(
        mmf.encode(dictionary, x, mmf.Lasso(0.1), solver=mmf.CoordinateDescent(1e-14)), codes, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_nmf_objective_of_scikit_learn(x64):
    """Non-negative codes without penalty, non-negative atoms in an l2 ball: NMF, whose scale the ball fixes."""
    x = load_digits().data / 16
    k = 16
    reference = NMF(k, init="nndsvda", max_iter=1000, tol=1e-6, random_state=0).fit(x)
    value = 0.5 * reference.reconstruction_err_**2 / len(x)
    solver = make(
        n_components=k, penalty=mmf.Ridge(0.0, nonneg=True), constraint=mmf.L2Ball(nonneg=True),
        initialization=mmf.RandomizedSVD(), forgetting=mmf.ConstantForgetting(1 / 500),
    )  # fmt: skip
    # The problem is not convex: runs end up to 2 % apart, and the best of a few is what a user would keep.
    runs = [mmf.fit(solver, x, key=jax.random.key(seed), n_epochs=100, batch_size=256) for seed in range(3)]
    assert min(float(mmf.objective(run.state.dictionary, x, solver.penalty)) for run in runs) <= 1.01 * value


def test_gradient_update_learns():
    """The optax alternative lowers the objective, on all features and on subsets, and stays feasible."""
    planted = make_sparse_codes(jax.random.key(3), 1000, 60, 10)
    for subset in (mmf.FullSubset(), mmf.UniformSubset(3)):
        solver = make(
            n_components=10,
            subset=subset,
            dictionary_update=mmf.GradientUpdate(optax.adam(0.02)),
            statistics=mmf.FullStatistics(),
        )
        start = solver.init(jax.random.key(0), samples=planted.x)
        state, _ = run(solver, planted.x, 300, state=start)
        before, after = (float(mmf.objective(s.dictionary, planted.x, solver.penalty)) for s in (start, state))
        assert after < 0.7 * before
        assert float(jnp.sum(state.dictionary**2, 1).max()) <= 1 + 1e-5


def test_gradient_update_is_projected_gradient(x64):
    """One step of plain SGD on all features, against the formula."""
    x = samples().astype(float)
    solver = make(penalty=mmf.Ridge(0.5), dictionary_update=mmf.GradientUpdate(optax.sgd(0.3)))
    state = solver.init(jax.random.key(0), samples=x)
    after, info = solver.update(state, x)
    codes, dictionary = np.asarray(info.codes), np.asarray(state.dictionary)
    moved = dictionary - 0.3 * (codes.T @ codes @ dictionary - codes.T @ x) / len(x)
    moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1)
    np.testing.assert_allclose(after.dictionary, moved, atol=1e-12)


def test_ragged_batches_weigh_their_true_size(x64):
    """With the plain average, C and B after batches of 20, 20 and 7 are means over the 47 samples."""
    x = samples(47).astype(float)
    solver = make(penalty=mmf.Ridge(0.5), forgetting=mmf.PowerForgetting(1.0))
    state = solver.init(jax.random.key(0), samples=x)
    codes = []
    for part in (x[:20], x[20:40], x[40:]):
        state, info = solver.update(state, part)
        codes.append(np.asarray(info.codes))
    codes = np.concatenate(codes)
    np.testing.assert_allclose(state.surrogate.c, codes.T @ codes / 47, atol=1e-12)
    np.testing.assert_allclose(state.surrogate.b, codes.T @ x / 47, atol=1e-12)
    assert int(state.n_samples) == 47


def test_dead_atoms_are_counted_and_revived():
    x = jnp.asarray(samples(30, 20))
    solver = make(n_components=4, penalty=mmf.Ridge(0.1))
    dictionary = jnp.asarray(samples(4, 20, seed=1) / 10).at[2].set(0)
    state = solver.init(jax.random.key(0), dictionary=dictionary)
    state, info = solver.update(state, x)
    assert int(info.n_dead) == 1
    assert not np.asarray(state.dictionary[2]).any()
    revived = solver.revive(jax.random.key(5), state, x)
    kept = np.array([0, 1, 3])
    np.testing.assert_array_equal(revived.dictionary[kept], state.dictionary[kept])
    cosine = np.asarray(x @ revived.dictionary[2]) / np.linalg.norm(x, axis=1) / np.linalg.norm(revived.dictionary[2])
    assert cosine.max() == pytest.approx(1, abs=1e-5)
    _, info = solver.update(revived, x)
    assert int(info.n_dead) == 0


# The same


@pytest.mark.parametrize("partial_b", [False, True])
def test_same_seed_gives_the_same_bits(partial_b):
    x = samples()
    solver = make(subset=mmf.BlockSubset(2, 16), partial_b=partial_b)
    first, second = (run(solver, jnp.asarray(x), 30)[0] for _ in range(2))
    for a, b in zip(jax.tree.leaves(first._replace(key=0)), jax.tree.leaves(second._replace(key=0)), strict=True):
        np.testing.assert_array_equal(a, b)
    other = solver.init(jax.random.key(1), samples=x)
    assert not np.array_equal(other.dictionary, solver.init(jax.random.key(0), samples=x).dictionary)


def test_every_leaf_keeps_its_dtype(dtype):
    """Not one float64 in a float32 run, though hyperparameters are doubles; and the other way round."""
    x = samples().astype(dtype)
    solver = make(
        penalty=mmf.ElasticNet(np.float64(0.1), np.float64(0.5)),
        constraint=mmf.ElasticNetBall(np.float64(0.5)),
        subset=mmf.UniformSubset(2),
        statistics=mmf.AveragedStatistics(np.float64(0.8), gram="averaged"),
        forgetting=mmf.PowerForgetting(np.float64(0.8)),
        dictionary_update=mmf.GradientUpdate(optax.adam(0.1)),
        partial_b=True,
    )
    state = solver.init(jax.random.key(0), samples=x)
    after, info = solver.update(state, x, memory=solver.init_memory(state, len(x)))
    for before, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert before.dtype == leaf.dtype
    for leaf in jax.tree.leaves((after._replace(key=0), info)):
        kind = jnp.asarray(leaf).dtype
        assert not jnp.issubdtype(kind, jnp.floating) or kind == dtype


def test_integers_and_other_precisions_are_cast():
    x = (10 * samples()).astype(np.int16)
    state = make().init(jax.random.key(0), samples=x)
    assert state.dictionary.dtype == jnp.float32
    after, _ = make().update(state, x)
    expected, _ = make().update(state, x.astype(np.float32))
    np.testing.assert_array_equal(after.dictionary, expected.dictionary)


# Degenerate


@pytest.mark.parametrize("name", ["zeros", "constant feature", "duplicates", "one sample", "one atom", "one feature"])
@pytest.mark.parametrize("penalty", [mmf.Ridge(0.1), mmf.Lasso(0.1, nonneg=True), mmf.Ridge(0.0)])
def test_degenerate_data_give_finite_results(name, penalty):
    x, k = samples(8, 12), 4
    if name == "zeros":
        x = np.zeros_like(x)
    elif name == "constant feature":
        x[:, :6] = 3
    elif name == "duplicates":
        x[:] = x[0]
    elif name == "one sample":
        x, k = x[:1], 1
    elif name == "one atom":
        k = 1
    elif name == "one feature":
        x = x[:, :1]
    solver = make(n_components=k, penalty=penalty)
    state = solver.init(jax.random.key(0), samples=x)
    for _ in range(5):
        state, info = solver.update(state, x)
    assert bool(info.finite)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state._replace(key=0)))


def test_more_atoms_than_features():
    x = samples(60, 10)
    solver = make(n_components=30)
    state, info = run(solver, jnp.asarray(x), 50)
    assert float(mmf.objective(state.dictionary, x, solver.penalty)) < 0.5 * float(0.5 * (x**2).sum(1).mean())
    assert bool(info.finite.all())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_are_reported(bad):
    x = samples()
    state = make().init(jax.random.key(0), samples=x)
    x[3, 5] = bad
    assert not bool(make().update(state, x)[1].finite)


# Refused


def test_what_cannot_work_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"n_blocks=1 with partial_b=True.*factorized separately"):
        make(subset=mmf.BlockSubset(4, n_blocks=1), partial_b=True)
    with pytest.warns(UserWarning, match="n_blocks=4"):
        make(subset=mmf.BlockSubset(4, n_blocks=4), partial_b=True)
    make(subset=mmf.BlockSubset(4, n_blocks=1), partial_b=False)
    with pytest.raises(ValueError, match=r"got 'masked'.*shrinks the atoms"):
        mmf.AveragedStatistics(gram="masked")
    solver = make(subset=mmf.UniformSubset(2))
    state = solver.init(jax.random.key(0), samples=samples())
    with pytest.raises(ValueError, match="partial_b=False needs all"):
        solver.partial_update(state, samples()[:, :20], solver.draw_subset(state))
    solver = make(subset=mmf.UniformSubset(2), partial_b=True, statistics=mmf.FullStatistics())
    state = solver.init(jax.random.key(0), samples=samples())
    with pytest.raises(ValueError, match=r"FullStatistics.*needs all"):
        solver.partial_update(state, samples()[:, :20], solver.draw_subset(state))


def test_bad_arguments_are_named():
    x = samples()
    solver = make()
    state = solver.init(jax.random.key(0), samples=x)
    with pytest.raises(ValueError, match="samples must be at least as many as n_components=5, got 4"):
        solver.init(jax.random.key(0), samples=x[:4])
    with pytest.raises(ValueError, match="one of samples and dictionary, got"):
        solver.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"dictionary must have shape .* = \(5, any\), got \(4, 40\)"):
        solver.init(jax.random.key(0), dictionary=x[:4])
    with pytest.raises(ValueError, match=r"x must have shape \(batch, n_features\) = \(any, 40\), got \(60, 39\)"):
        solver.update(state, x[:, :39])
    with pytest.raises(ValueError, match="x must hold at least one sample"):
        solver.update(state, x[:0])
    with pytest.raises(TypeError, match="x must hold real numbers; got dtype complex64"):
        solver.update(state, x.astype(np.complex64))
    with pytest.raises(TypeError, match="x must hold real numbers"):
        solver.update(state, np.array([["a"] * 40]))
    with pytest.raises(ValueError, match="reduction must be at most the number of features, got 50 for 40"):
        make(subset=mmf.BlockSubset(50)).draw_subset(state)
    with pytest.raises(ValueError, match="needs memory"):
        make(statistics=mmf.AveragedStatistics()).update(state, x)
    with pytest.raises(ValueError, match="keep no memory"):
        solver.update(state, x, memory=mmf.AveragedStatistics().init_memory(60, 5, jnp.float32))
    with pytest.raises(ValueError, match="n_components must be at least 1, got 0"):
        make(n_components=0)
    with pytest.raises(TypeError, match="n_components must be a whole number"):
        make(n_components=2.5)
    with pytest.raises(TypeError, match=r"constraint must be a constraint with .*got .* without gauge, project"):
        make(constraint="l2")
    with pytest.raises(TypeError, match=r"penalty must be a penalty.*the class itself; call it"):
        make(penalty=mmf.Lasso)


def test_subset_of_other_data_is_refused():
    solver = make(subset=mmf.UniformSubset(2), partial_b=True)
    state = solver.init(jax.random.key(0), samples=samples())
    other = solver.draw_subset(solver.init(jax.random.key(0), samples=samples(p=50)))
    with pytest.raises(ValueError, match="subset must be of 40 features, got one of 50"):
        solver.partial_update(state, samples()[:, :25], other)


# Partial B


def test_partial_b_with_all_features_is_full_b(x64):
    """Nothing is missing, so averaged residuals and averaged products say the same."""
    x = samples(60).astype(np.float64)
    full, partial = (make(partial_b=partial_b) for partial_b in (False, True))
    a = b = full.init(jax.random.key(0), samples=x)
    b = partial.init(jax.random.key(0), samples=x)
    for first in range(0, 60, 20):
        a, _ = full.update(a, x[first : first + 20])
        b, _ = partial.update(b, x[first : first + 20])
    np.testing.assert_allclose(b.dictionary, a.dictionary, rtol=0, atol=1e-12)
    np.testing.assert_allclose(b.surrogate.residual, a.surrogate.b - a.surrogate.c @ a.dictionary, rtol=0, atol=1e-12)


@pytest.mark.parametrize("subset", [mmf.UniformSubset(4), mmf.BlockSubset(2, 16)], ids=["uniform", "blocks"])
def test_data_without_noise_leave_a_right_dictionary_where_it_is(x64, subset):
    """Features that were seen in different samples agree: with the B of [ICML16], atoms would move by a tenth."""
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((4, 40)) / np.sqrt(40)
    x = rng.standard_normal((200, 4)) @ dictionary
    solver = make(
        n_components=4,
        penalty=mmf.Ridge(1e-12),
        constraint=mmf.L2Ball(100.0),
        subset=subset,
        partial_b=True,
        forgetting=mmf.ScaledForgetting(4),
    )
    state = solver.init(jax.random.key(0), dictionary=dictionary)
    for first in range(0, 200, 10):
        state, _ = solver.update(state, x[first : first + 10])
    np.testing.assert_allclose(state.dictionary, dictionary, rtol=0, atol=1e-8)


# Defaults


def test_defaults_by_storage():
    arguments = (4, mmf.Ridge(0.1), mmf.L1Ball())
    plain = mmf.OnlineFactorization(n_components=4, penalty=mmf.Ridge(0.1), constraint=mmf.L1Ball())
    assert mmf.default_solver(*arguments) == plain == mmf.default_solver(*arguments, storage="disk")
    slow = mmf.default_solver(*arguments, storage="slow")
    assert not slow.needs_whole_samples
    assert slow.subset == mmf.BlockSubset(8)
    own = mmf.default_solver(*arguments, storage="slow", subset=mmf.UniformSubset(3), forgetting=mmf.PowerForgetting())
    assert own.subset == mmf.UniformSubset(3)
    assert own.partial_b
    with pytest.raises(ValueError, match="storage"):
        mmf.default_solver(*arguments, storage="tape")


def test_defaults_by_problem_and_platform():
    arguments = (4, mmf.Ridge(0.1), mmf.L1Ball())
    assert mmf.default_solver(*arguments, platform="cpu") == mmf.default_solver(*arguments)
    assert mmf.default_solver(*arguments, platform="gpu").dictionary_update == mmf.ProjectedGradient(4)
    own = mmf.default_solver(*arguments, platform="tpu", dictionary_update=mmf.BlockCoordinateDescent())
    assert own == mmf.default_solver(*arguments)


@pytest.mark.parametrize(
    ("penalty", "partial_b", "scale"),
    [
        (mmf.Ridge(0.1), False, 4),
        (mmf.Ridge(0.1), True, 8),
        (mmf.Ridge(0.1, nonneg=True), False, 32),
        (mmf.Lasso(0.1), False, 8),
        (mmf.Lasso(0.1, nonneg=True), False, 8),
        (mmf.ElasticNet(0.1), True, 8),
    ],
)
def test_default_forgetting_by_penalty(penalty, partial_b, scale):
    options = {"subset": mmf.BlockSubset(2)} if partial_b else {}
    solver = make(penalty=penalty, partial_b=partial_b, **options)
    assert solver.step_forgetting == mmf.ScaledForgetting(scale)
    copied = jax.tree.map(lambda leaf: leaf, solver)
    assert copied == solver
    assert make(penalty=penalty, forgetting=mmf.PowerForgetting()).step_forgetting == mmf.PowerForgetting()


# Codes from a subset of their own


def test_codes_of_subsampled_statistics_are_ridge_codes_of_their_subset(x64):
    """And B and the dictionary see all features: the closed form, in NumPy, for some steps."""
    rng = np.random.default_rng(0)
    x, alpha, k = rng.standard_normal((9, 40)), 0.3, 3
    statistics = mmf.SubsampledStatistics(mmf.UniformSubset(4, width=2))
    solver = mmf.OnlineFactorization(
        n_components=k, penalty=mmf.Ridge(alpha), statistics=statistics, forgetting=mmf.ConstantForgetting(0.1)
    )
    state = solver.init(jax.random.key(0), samples=x)
    seen = set()
    for _ in range(5):
        d = np.asarray(state.dictionary)
        drawn = statistics.subset.draw(stream_key(state.key, Stream.STATISTICS), state.step, 40)
        columns, r = np.asarray(drawn.indices), float(drawn.reduction)
        seen |= set(columns.tolist())
        codes = np.linalg.solve(
            r * d[:, columns] @ d[:, columns].T + alpha * np.eye(k), r * d[:, columns] @ x[:, columns].T
        ).T
        before, (state, info) = state, solver.update(state, x)
        np.testing.assert_allclose(info.codes, codes, atol=1e-9)
        weight = float(info.weight)
        b = (1 - weight) * np.asarray(before.surrogate.b) + weight * codes.T @ x / 9
        np.testing.assert_allclose(state.surrogate.b, b, atol=1e-9)
        moved = np.asarray(state.dictionary) != d
        assert moved.any(0).all()
    assert len(seen) > 10


def test_subsampled_statistics_of_all_features_are_masked_ones():
    x = np.random.default_rng(0).standard_normal((9, 40)).astype("float32")
    make = lambda statistics: mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1), statistics=statistics)
    solvers = make(mmf.SubsampledStatistics(mmf.UniformSubset(1))), make(mmf.MaskedStatistics())
    one, other = (solver.update(solver.init(jax.random.key(0), samples=x), x)[0].dictionary for solver in solvers)
    np.testing.assert_array_equal(one, other)
    with pytest.raises(TypeError, match="subset"):
        mmf.SubsampledStatistics(4.0)
    with pytest.raises(ValueError, match="UniformSubset"):
        mmf.SubsampledStatistics(mmf.BlockSubset(4))


def test_default_solver_subsamples_ridge_codes_of_many_features():
    ridge = mmf.Ridge(0.1)
    default = lambda k, p, penalty=ridge, **options: mmf.default_solver(
        k, penalty, mmf.L2Ball(), n_features=p, **options
    )
    solver = default(70, 201_840)
    assert solver.statistics == mmf.SubsampledStatistics(mmf.UniformSubset(12.0, width=16))
    assert default_batch_size(solver) == 256
    assert default(70, 50_000).statistics == mmf.SubsampledStatistics(mmf.UniformSubset(50_000 / 7000))
    for other in (
        default(70, 20_000),
        default(70, 201_840, mmf.Lasso(0.1)),
        default(70, 201_840, mmf.Ridge(0.1, nonneg=True)),
        mmf.default_solver(70, mmf.Ridge(0.1), mmf.L2Ball()),
    ):
        assert other.statistics == mmf.MaskedStatistics()
        assert default_batch_size(other) == 128
    assert default(70, 201_840, subset=mmf.UniformSubset(12)).statistics == mmf.MaskedStatistics()
    slow = default(70, 201_840, storage="slow")
    assert slow.partial_b
    assert slow.statistics == mmf.MaskedStatistics()
    assert default_batch_size(mmf.OnlineFactorization(n_components=2, subset=mmf.UniformSubset(4))) == 50


def test_subsampled_codes_learn_planted_atoms():
    x = mmf.datasets.make_sparse_codes(jax.random.key(0), n_samples=1500, n_features=600, n_components=4).x
    solver = mmf.OnlineFactorization(
        n_components=4, penalty=mmf.Ridge(1e-3), statistics=mmf.SubsampledStatistics(mmf.UniformSubset(5))
    )
    result = mmf.fit(solver, x, key=jax.random.key(1), n_epochs=3, held_out=100, batch_size=50)
    full = mmf.fit(
        mmf.OnlineFactorization(n_components=4, penalty=mmf.Ridge(1e-3)),
        x, key=jax.random.key(1), n_epochs=3, held_out=100, batch_size=50,
    )  # fmt: skip
    assert result.objective < 1.05 * full.objective
