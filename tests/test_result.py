"""What a run gives: the best state, the objective without held-out samples, short texts, figures, warnings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.core.pytrees import short

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((60, 16)).astype("float32")


def make(**options):
    options = {"n_components": 3, "penalty": mmf.Ridge(0.1)} | options
    if not isinstance(options["penalty"], mmf.Ridge):  # a solver that compiles sooner than the default
        options |= {"code_solver": mmf.CoordinateDescent()}
    return mmf.OnlineFactorization(**options)


SOLVER = make()
BLOCKS = make(subset=mmf.BlockSubset(2, 4))
PARTIAL = make(subset=mmf.UniformSubset(2), partial_b=True)


def fit(solver=SOLVER, x=X, **options):
    start = {} if "state" in options else {"key": KEY}
    return mmf.fit(solver, x, **({"batch_size": 20} | start | options))


# The best state


@pytest.mark.parametrize("solver", [SOLVER, BLOCKS])
def test_best_is_the_state_of_the_lowest_held_out_objective(solver):
    dictionaries = {}

    def keep(event):
        dictionaries[event.step] = np.array(event.state.dictionary)

    result = fit(solver, held_out=20, evaluate_every=2, n_epochs=15, callbacks=[keep])
    values = [r.objective for r in result.history]
    best = result.history[int(np.argmin(values))]
    assert best.step < result.history[-1].step  # else this tests nothing
    assert result.best.record == best
    np.testing.assert_array_equal(result.best.dictionary, dictionaries[best.step])
    assert result.best.state.step == best.step
    np.testing.assert_array_equal(result.dictionary, dictionaries[result.history[-1].step])
    assert result.objective == values[-1]


def test_without_held_out_samples_there_is_no_best():
    assert fit().best is None


def test_best_state_can_be_gone_on_from():
    options = {"held_out": 20, "evaluate_every": 2, "n_epochs": 15}
    result = fit(**options)
    again = fit(state=result.best.state, **options)
    np.testing.assert_array_equal(again.dictionary, result.dictionary)


# The result


def test_result_has_the_solver_and_encodes():
    result = fit()
    assert result.solver == SOLVER
    want = np.linalg.solve(result.dictionary @ result.dictionary.T + 0.1 * np.eye(3), result.dictionary @ X.T).T
    np.testing.assert_allclose(result.encode(X), want, atol=1e-5)


def test_objective_without_records_is_nan():
    result = fit()
    assert np.isnan(fit(state=result.state).objective)


def test_arguments_in_place_of_others_are_named():
    with pytest.raises(TypeError, match=r"solver must be an OnlineFactorization, got Lasso"):
        fit(mmf.Lasso(0.1))
    with pytest.raises(TypeError, match=r"state must be a State, such as result\.state; got FitResult"):
        fit(state=fit())


# The objective without held-out samples


@pytest.mark.parametrize("solver", [SOLVER, BLOCKS, PARTIAL], ids=["full", "blocks", "partial"])
@pytest.mark.parametrize("batch_size", [20, 25], ids=["whole", "short"])
def test_without_held_out_samples_the_objective_is_that_of_the_last_mini_batch(solver, batch_size):
    seen = []

    def keep(event):
        seen.append((np.array(event.state.dictionary), np.array(event.info.codes)))

    history = fit(solver, batch_size=batch_size, shuffle=False, evaluate_every=1, callbacks=[keep]).history
    assert not any(r.held_out for r in history)
    for step, (record, (dictionary, codes)) in enumerate(zip(history, seen, strict=True)):
        residual = X[step * batch_size : (step + 1) * batch_size] - codes @ dictionary
        scale = 1
        if solver is PARTIAL:
            state = solver.init(KEY, samples=X)._replace(step=jnp.asarray(step))
            residual, scale = residual[:, solver.draw_subset(state).indices], 2
        want = (0.5 * scale * (residual**2).sum(1) + 0.05 * (codes**2).sum(1)).mean()
        assert record.objective == pytest.approx(want, rel=1e-4)


def test_records_of_old_files_are_held_out():
    record = mmf.Record(step=1, n_samples=2, epoch=1, seconds=0.1, bytes_read=3, objective=0.5, n_dead=0)
    assert record.held_out


# Texts


@pytest.mark.parametrize("solver", [SOLVER, BLOCKS, PARTIAL])
def test_texts_are_short_and_hold_no_arrays(solver):
    events = []
    result = fit(solver, np.tile(X, (1, 8)), held_out=20, callbacks=[lambda e: events.append(repr(e))])
    memory = dataclasses.replace(solver, statistics=mmf.AveragedStatistics(gram="averaged")).init_memory(
        result.state, 60
    )
    info = solver.update(result.state, np.tile(X, (1, 8)))[1]
    for value in (result, result.best, result.state, info, info._replace(memory=memory), result.solver):
        assert len(repr(value)) <= 400
        assert "\n\n" not in repr(value)
        assert "[[" not in repr(value)
    assert max(map(len, events)) <= 600
    assert "dictionary=float32[3, 128]" in repr(result)
    assert "stopped_by=epochs" in repr(result)
    assert f"objective={result.objective:.6g}" in repr(result)
    assert f"step={int(result.state.step)}" in repr(result.state)


def test_text_of_a_solver_has_what_is_not_the_default():
    assert repr(mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.5), partial_b=True)) == (
        "OnlineFactorization(n_components=3, penalty=Lasso(alpha=0.5, nonneg=False), "
        "constraint=L2Ball(radius=1.0, nonneg=False), partial_b=True)"
    )
    assert "forgetting=ScaledForgetting(scale=16.0)" in repr(make(forgetting=mmf.ScaledForgetting(16.0)))


def test_texts_of_traced_and_of_deleted_arrays():
    state = SOLVER.init(KEY, samples=X)
    texts = []
    jax.jit(lambda s: texts.append(repr(s)))(state)
    assert "step=int32[]" in texts[0]
    jax.jit(lambda s: s._replace(step=s.step + 1), donate_argnums=0)(state)
    assert "dictionary=float32[3, 16]" in repr(state)
    assert short((np.float32(0.5), np.ones((2, 3)), None, "a")) == "(0.5, float64[2, 3], None, 'a')"


# Figures


def test_result_is_plotted_on_axes_given_or_new():
    figure = pytest.importorskip("matplotlib.figure")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    result = fit(held_out=20, n_epochs=3)
    axes = figure.Figure().subplots()
    assert result.plot(axes, against="bytes_read") is axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [r.bytes_read / 1e9 for r in result.history])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [r.objective for r in result.history])
    assert axes.get_ylabel() == "held-out objective"
    assert pyplot.get_fignums() == []
    new = fit().plot()
    assert pyplot.get_fignums() == [new.figure.number]
    assert new.get_ylabel() == "objective of mini-batches"
    assert new.get_xlabel() == "samples seen"
    pyplot.close(new.figure)


# Nothing learned

TOO_LARGE = make(penalty=mmf.Lasso(1e3))


def test_alpha_too_large_is_named_with_alpha_max():
    with pytest.warns(UserWarning, match="learned nothing") as caught:
        result = fit(TOO_LARGE, shuffle=False, batch_size=60)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    want = np.abs(X @ np.asarray(result.dictionary).T).max()
    assert f"alpha=1e+03 is above alpha_max={want:.3g} " in str(caught[0].message)
    assert "RelativeAlpha(0.1)" in str(caught[0].message)
    learned = fit(make(penalty=mmf.Lasso(float(want) / 10)), shuffle=False, batch_size=60)
    assert learned.history[-1].n_dead < 3


@pytest.mark.filterwarnings("ignore:the largest of the first samples")  # the data times 1e-25
@pytest.mark.parametrize(
    ("solver", "x", "reason"),
    [
        (make(penalty=mmf.Lasso(0.1, nonneg=True), constraint=mmf.L2Ball(nonneg=True)), -np.abs(X), "nonneg"),
        (make(penalty=mmf.Ridge(0.0, nonneg=True), constraint=mmf.Simplex()), -np.abs(X), "nonneg"),
        (make(penalty=mmf.ElasticNet(0.1, 0.0, nonneg=True), constraint=mmf.Simplex()), -np.abs(X), "nonneg"),
        (SOLVER, np.zeros_like(X), "data are zero"),
        (SOLVER, X * np.float32(1e-25), "scale the data"),
        (make(penalty=mmf.ElasticNet(1e3, 0.5)), X, "alpha_max"),
        (make(penalty=mmf.Lasso(1e3), subset=mmf.UniformSubset(2), partial_b=True), X, "alpha_max"),
    ],
)
def test_run_that_learns_nothing_warns_with_the_reason(solver, x, reason):
    with pytest.warns(UserWarning, match=f"learned nothing.*{reason}"):
        fit(solver, x, n_epochs=2, evaluate_every=2)


def test_warning_comes_once_and_not_where_something_is_learned():
    with pytest.warns(UserWarning, match="learned nothing") as caught:
        fit(TOO_LARGE, n_epochs=4, evaluate_every=1)
    assert len(caught) == 1
    fit(make(penalty=mmf.Lasso(0.1)), np.where(np.arange(60)[:, None] % 20 < 19, 0, X), n_epochs=2, evaluate_every=1)


# Strengths by the scale of the data


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("l1_ratio", [None, 0.5])
def test_relative_alpha_is_a_share_of_alpha_max(scale, nonneg, l1_ratio):
    alpha, x = mmf.RelativeAlpha(0.25), X * np.float32(scale)
    penalty = mmf.Lasso(alpha, nonneg) if l1_ratio is None else mmf.ElasticNet(alpha, l1_ratio, nonneg)
    result = fit(make(penalty=penalty), x, shuffle=False)
    first = np.asarray(SOLVER.init(KEY, samples=x[:12]).dictionary)
    products = x[:12] @ first.T
    largest = products.max() if nonneg else np.abs(products).max()
    assert isinstance(result.solver.penalty.alpha, float)
    assert result.solver.penalty.alpha == pytest.approx(0.25 * largest / (l1_ratio or 1), rel=1e-5)
    assert result.solver.penalty.nonneg == nonneg
    resolved = mmf.resolve_alpha(penalty, first, x[:12])
    assert resolved.alpha == pytest.approx(result.solver.penalty.alpha, rel=1e-6)
    same = fit(make(penalty=resolved), x, shuffle=False)
    np.testing.assert_allclose(same.dictionary, result.dictionary, atol=1e-5)


def test_relative_alpha_in_the_order_of_the_features_of_a_run():
    penalty = mmf.Lasso(mmf.RelativeAlpha(0.1))
    solver = make(penalty=penalty, subset=mmf.BlockSubset(2, 4))
    first = np.asarray(SOLVER.init(KEY, samples=X[:12]).dictionary)
    alpha = fit(solver, shuffle=False).solver.penalty.alpha
    assert alpha == pytest.approx(0.1 * np.abs(X[:12] @ first.T).max(), rel=1e-5)


def test_run_with_relative_alpha_goes_on_with_its_solver():
    solver = make(penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)))
    half = fit(solver)
    rest = fit(half.solver, state=half.state, n_epochs=2)
    np.testing.assert_array_equal(rest.dictionary, fit(solver, n_epochs=2).dictionary)
    with pytest.raises(ValueError, match=r"result\.solver"):
        fit(solver, state=half.state, n_epochs=2)


def test_relative_alpha_without_a_number_is_refused_with_advice():
    solver = make(penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)))
    state = solver.init(KEY, samples=X)
    for use in (
        lambda: solver.update(state, X),
        lambda: solver.encode(state.dictionary, X),
        lambda: mmf.objective(state.dictionary, X, solver.penalty),
        lambda: mmf.penalty_value(mmf.ElasticNet(mmf.RelativeAlpha(0.1), 0.5), np.ones(3)),
    ):
        with pytest.raises(TypeError, match="resolve_alpha"):
            use()


@pytest.mark.parametrize("share", [0, -0.1, 1, 1.5, float("nan")])
def test_share_out_of_range(share):
    with pytest.raises(ValueError, match="share"):
        mmf.RelativeAlpha(share)


def test_ridge_takes_no_relative_alpha():
    with pytest.raises(TypeError, match="ridge"):
        mmf.Ridge(mmf.RelativeAlpha(0.1))
    with pytest.raises(ValueError, match="ridge"):
        mmf.ElasticNet(mmf.RelativeAlpha(0.1), 0.0)


def test_resolving_is_differentiable_in_the_share():
    first = jnp.asarray(X[:3])
    largest = float(mmf.alpha_max(first, X))
    strength = lambda share: mmf.resolve_alpha(mmf.Lasso(mmf.RelativeAlpha(share)), first, X).alpha
    assert float(jax.grad(strength)(0.1)) == pytest.approx(largest, rel=1e-6)
    assert mmf.resolve_alpha(mmf.Ridge(0.1), first, X) == mmf.Ridge(0.1)
