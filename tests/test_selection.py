"""Paths, choice of strength and number of atoms, stability: against closed forms and planted truth."""

import dataclasses

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import jax_mmf as mmf
from jax_mmf import plotting
from jax_mmf.selection import (
    Choice,
    alpha_grid,
    alpha_path,
    amari_distance,
    choose,
    hidden_errors,
    stability,
)
from jax_mmf.selection.choice import _chosen

KEY = jax.random.key(0)
RUN = {"batch_size": 128, "n_epochs": 2}


@pytest.fixture(scope="module")
def planted():
    """2,000 samples of 6 atoms, 2 of them in each, and held-out samples without and with noise."""
    made = mmf.datasets.make_sparse_codes(KEY, 2500, 30, 6, n_nonzero=2, noise=0.15)
    clean = np.asarray(mmf.decode(made.dictionary, made.codes))
    x = np.asarray(made.x)
    return x[:2000], x[2000:], clean[2000:], np.asarray(made.dictionary)


@pytest.fixture(scope="module")
def solver():
    return mmf.OnlineFactorization(n_components=6, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())


@pytest.fixture(scope="module")
def choice(planted, solver):
    train, test, _, _ = planted
    alphas = alpha_grid(solver, train, key=KEY, n_alphas=6)
    return choose(solver, train, test, key=KEY, alphas=alphas, n_components=[4, 6, 9], **RUN)


def test_amari_distance_of_permuted_and_scaled_atoms_is_zero():
    rng = np.random.default_rng(0)
    for shape in ((5, 8), (12, 7)):  # more atoms than features, too
        atoms = rng.standard_normal(shape)
        other = (rng.uniform(0.5, 2, len(atoms)) * rng.choice([-1, 1], len(atoms)))[:, None] * atoms
        assert amari_distance(atoms, other[rng.permutation(len(atoms))]) < 1e-6


def test_amari_distance_of_known_dictionaries():
    identity, slanted = np.eye(2), np.array([[1.0, 0.0], [3.0, 3.0]])
    assert amari_distance(np.eye(4)[:2], np.eye(4)[2:]) == 1
    assert amari_distance(identity, np.zeros((2, 2))) == 1
    np.testing.assert_allclose(amari_distance(identity, slanted), 1 - (1 + np.sqrt(0.5)) / 2, rtol=1e-6)
    np.testing.assert_allclose(amari_distance(slanted, identity), 1 - (1 + np.sqrt(0.5)) / 2, rtol=1e-6)
    # The one atom has an equal, one of the three has; the others are orthogonal to it.
    np.testing.assert_allclose(amari_distance(np.eye(3)[:1], np.eye(3)), 1 - (1 + 1 / 3) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="reference"):
        amari_distance(identity, np.eye(3))
    with pytest.raises(ValueError, match="must hold atoms"):
        amari_distance(identity, np.zeros((0, 2)))


def test_hidden_errors_are_those_of_ridge_in_closed_form():
    rng = np.random.default_rng(1)
    atoms, x, alpha = rng.standard_normal((3, 11)), rng.standard_normal((5, 11)), 0.7
    with jax.enable_x64(True):
        found = hidden_errors(atoms, x, mmf.Ridge(alpha), key=KEY, n_folds=4)
        fold = np.asarray(jax.random.permutation(KEY, jax.numpy.arange(11) % 4))
    expected = np.zeros(5)
    for number in range(4):
        hidden = fold == number
        weight, seen = 11 / (~hidden).sum(), atoms[:, ~hidden]
        codes = np.linalg.solve(weight * seen @ seen.T + alpha * np.eye(3), weight * seen @ x[:, ~hidden].T).T
        expected += ((x - codes @ atoms)[:, hidden] ** 2).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_atoms_of_one_feature_predict_nothing():
    x = np.random.default_rng(2).standard_normal((4, 6))
    found = hidden_errors(np.eye(6), x, mmf.Lasso(0.01), key=KEY, n_folds=6)
    np.testing.assert_allclose(found, (x**2).sum(1), rtol=1e-5)


@pytest.mark.parametrize(("n_folds", "message"), [(1, "at least 2"), (7, "at most the number of features, 6, got 7")])
def test_number_of_folds_out_of_range(n_folds, message):
    with pytest.raises(ValueError, match=message):
        hidden_errors(np.eye(6), np.ones((2, 6)), mmf.Lasso(0.1), key=KEY, n_folds=n_folds)


@pytest.mark.parametrize("nonneg", [False, True])
def test_largest_strength_of_the_grid_is_where_codes_become_zero(planted, nonneg):
    train = planted[0][:200]
    penalty = mmf.ElasticNet(1.0, l1_ratio=0.5, nonneg=nonneg)
    own = mmf.OnlineFactorization(n_components=4, penalty=penalty, constraint=mmf.L2Ball())
    grid = alpha_grid(own, train, key=KEY, n_alphas=4, largest=1.0, smallest=0.125)
    np.testing.assert_allclose(np.divide(grid[:-1], grid[1:]), 2, rtol=1e-6)
    dictionary = own.init(KEY, samples=train).dictionary
    for factor, some in ((1.001, False), (0.99, True)):
        codes = mmf.encode(dictionary, train, dataclasses.replace(penalty, alpha=factor * grid[0]))
        assert bool((codes != 0).any()) == some


@mmf.register_configuration
@dataclasses.dataclass(frozen=True)
class Cubes:
    """Some penalty that is no weighted elastic net."""

    alpha: float = 1.0

    def value(self, code):
        return self.alpha * (abs(code) ** 3).sum()

    def prox(self, code, step):
        return code


def test_grid_that_does_not_exist(planted, solver):
    ridge = dataclasses.replace(solver, penalty=mmf.Ridge(0.1))
    with pytest.raises(ValueError, match="without an l1 part has no largest strength"):
        alpha_grid(ridge, planted[0], key=KEY)
    cubes = dataclasses.replace(solver, penalty=Cubes())
    with pytest.raises(TypeError, match="such as Lasso and ElasticNet, got Cubes"):
        alpha_grid(cubes, planted[0], key=KEY)
    with pytest.raises(ValueError, match="no sample has a code"):
        alpha_grid(solver, np.zeros((8, 5)), key=KEY)
    with pytest.raises(ValueError, match="smallest must be > 0 and <= 0.2"):
        alpha_grid(solver, planted[0], key=KEY, largest=0.2, smallest=0.5)


def test_path_without_warm_starts_is_single_runs(planted, solver):
    path = alpha_path(solver, planted[0], key=KEY, alphas=[0.2, 0.8, 0.4], warm_start=False, **RUN)
    assert [r.solver.penalty.alpha for r in path] == [0.8, 0.4, 0.2]
    for result in path:
        alone = mmf.fit(dataclasses.replace(solver, penalty=result.solver.penalty), planted[0], key=KEY, **RUN)
        np.testing.assert_array_equal(result.dictionary, alone.dictionary)


def test_warm_path_starts_with_the_dictionary_before_and_reaches_lower_objectives(planted, solver):
    train, test, _, _ = planted
    alphas = alpha_grid(solver, train, key=KEY, n_alphas=6)
    warm, cold = (alpha_path(solver, train, key=KEY, alphas=alphas, warm_start=w, **RUN) for w in (True, False))
    np.testing.assert_array_equal(warm[0].dictionary, cold[0].dictionary)
    state = warm[1].solver.init(KEY, dictionary=warm[0].dictionary)
    np.testing.assert_array_equal(warm[1].dictionary, mmf.fit(warm[1].solver, train, state=state, **RUN).dictionary)
    value = [float(mmf.objective(path[-1].dictionary, test, path[-1].solver.penalty)) for path in (warm, cold)]
    assert value[0] < value[1]


def test_path_that_does_not_exist(planted, solver):
    with pytest.raises(ValueError, match="alphas must hold at least one"):
        alpha_path(solver, planted[0], key=KEY, alphas=[])
    with pytest.raises(ValueError, match="alphas must be >= 0"):
        alpha_path(solver, planted[0], key=KEY, alphas=[0.1, -1.0])

    @mmf.register_configuration
    @dataclasses.dataclass(frozen=True)
    class Fixed:
        l1: float = 0.1
        l2: float = 0.0
        nonneg: bool = dataclasses.field(default=False, metadata={"static": True})

    with pytest.raises(TypeError, match="attribute alpha, such as Lasso"):
        alpha_path(dataclasses.replace(solver, penalty=Fixed()), planted[0], key=KEY, alphas=[0.1])


def test_planted_number_of_atoms_and_strength_are_chosen(planted, choice):
    _, test, clean, atoms = planted
    assert choice.chosen.n_components == 6
    assert mmf.match_atoms(choice.chosen.result.dictionary, atoms)[1].min() > 0.98
    # The strength that was chosen from noisy data is, to a step of the grid, that which denoises best.
    own = [c for c in choice.candidates if c.n_components == 6]
    denoised = [mmf.decode(c.result.dictionary, c.result.encode(test)) for c in own]
    errors = [float(((np.asarray(d) - clean) ** 2).sum()) for d in denoised]
    assert abs(own.index(choice.chosen) - int(np.argmin(errors))) <= 1
    assert 0 < own.index(choice.chosen) < len(own) - 1


def test_table_has_the_measures_of_the_library(planted, choice):
    test = planted[1]
    assert [(c.n_components, round(c.alpha, 6)) for c in choice.candidates] == [
        (k, round(a, 6)) for k in (4, 6, 9) for a in sorted({c.alpha for c in choice.candidates[:6]}, reverse=True)
    ]
    for c in choice.candidates[::5]:
        dictionary, penalty = c.result.dictionary, c.result.solver.penalty
        np.testing.assert_allclose(c.objective, mmf.objective(dictionary, test, penalty), rtol=1e-4)
        np.testing.assert_allclose(c.explained_variance, mmf.explained_variance(dictionary, test, penalty), rtol=1e-4)
        errors = hidden_errors(dictionary, test, penalty, key=jax.random.split(KEY)[1])
        np.testing.assert_allclose(1 - errors.sum() / (test**2).sum(), c.hidden_explained_variance, rtol=1e-4)
        assert 0 <= c.density <= 1
    lines = str(choice).splitlines()
    assert len(lines) == 19
    assert [line.endswith("<- chosen") for line in lines[1:]] == [c is choice.chosen for c in choice.candidates]


def test_standard_errors_are_paired(planted, choice):
    test = planted[1]
    best = max(choice.candidates, key=lambda c: c.hidden_explained_variance)
    assert best.standard_error == 0
    other = next(c for c in choice.candidates if c is not best)
    errors = [
        hidden_errors(c.result.dictionary, test, c.result.solver.penalty, key=jax.random.split(KEY)[1])
        for c in (best, other)
    ]
    spread = np.std(errors[1] - errors[0]) * np.sqrt(len(test)) / (test**2).sum()
    np.testing.assert_allclose(other.standard_error, spread, rtol=1e-3)


@pytest.mark.parametrize(("rule", "expected"), [("best", (9, 0.1)), ("one_standard_error", (6, 0.2))])
def test_rules(choice, rule, expected):
    rows = [(4, 0.2, 0.5, 0.1), (6, 0.4, 0.7, 0.15), (6, 0.2, 0.85, 0.1), (6, 0.1, 0.88, 0.1), (9, 0.1, 0.9, 0.0)]
    made = [
        choice.chosen._replace(n_components=k, alpha=a, hidden_explained_variance=v, standard_error=s)
        for k, a, v, s in rows
    ]
    chosen = _chosen(made, made[-1], rule)
    assert (chosen.n_components, chosen.alpha) == expected


def test_choices_that_do_not_exist(planted, solver):
    train, test, _, _ = planted
    with pytest.raises(ValueError, match="rule must be one of"):
        choose(solver, train, test, key=KEY, alphas=[0.1], rule="worst")
    with pytest.raises(ValueError, match="held_out must hold samples that are not all zero"):
        choose(solver, train, np.zeros((3, 30)), key=KEY, alphas=[0.1])
    with pytest.raises(ValueError, match="n_components must hold at least one"):
        choose(solver, train, test, key=KEY, alphas=[0.1], n_components=[])


@pytest.mark.parametrize(
    ("error", "message", "changed"),
    [
        (TypeError, r"alphas must be a list, got 0.1; write \[0.1\]", {"alphas": 0.1}),
        (TypeError, "alphas must be numbers, got RelativeAlpha", {"alphas": [mmf.RelativeAlpha(0.1)]}),
        (TypeError, "n_components must be a list, got 3", {"n_components": 3}),
        (TypeError, "can't be an iterator", {"source": iter([np.ones((9, 4))])}),
        (ValueError, "at least two samples", {"held_out": np.ones((1, 4))}),
        (ValueError, "squares fit into float32", {"held_out": np.full((2, 4), 1e25)}),
        (ValueError, "n_folds must be at most the number of features, 4", {}),
    ],
)
def test_choices_are_checked_before_anything_is_learned(error, message, changed, monkeypatch):
    monkeypatch.setattr("jax_mmf.selection.path.fit", None)
    given = {"source": np.ones((9, 4)), "held_out": np.ones((2, 4)), "alphas": [0.1], "n_folds": 4 if changed else 5}
    solver = mmf.OnlineFactorization(n_components=2, penalty=mmf.Lasso(0.1))
    with pytest.raises(error, match=message):
        choose(solver, key=KEY, **given | changed)


def test_strengths_may_be_an_iterator(planted, solver):
    train, test, _, _ = planted
    found = choose(solver, train, test, key=KEY, alphas=iter([0.2, 0.1]), n_components=iter([4, 6]), **RUN)
    assert [(c.n_components, c.alpha) for c in found.candidates] == [(4, 0.2), (4, 0.1), (6, 0.2), (6, 0.1)]


@pytest.fixture(scope="module")
def stabilities(planted, solver, choice):
    alphas = [c.alpha for c in choice.candidates[:6] if c.alpha >= choice.chosen.alpha]
    return stability(solver, planted[0], key=KEY, n_components=[4, 6, 9], n_seeds=3, alphas=alphas, **RUN)


def test_seeds_agree_best_on_the_planted_number_of_atoms(stabilities):
    fewer, right, more = stabilities
    assert right.cosines.min() > 0.99 > max(fewer.cosines.mean(), more.cosines.mean())
    assert right.distances.max() < 0.01 < min(fewer.distances.mean(), more.distances.mean())


def test_stability_is_that_of_its_dictionaries(stabilities):
    for found in stabilities:
        assert found.dictionaries.shape == (3, found.n_components, 30)
        first, second, third = found.dictionaries
        for number, (a, b) in enumerate([(first, second), (first, third), (second, third)]):
            np.testing.assert_allclose(found.cosines[number], mmf.match_atoms(a, b)[1].mean())
            np.testing.assert_allclose(found.distances[number], amari_distance(a, b))


def test_stability_without_a_path_is_single_runs(planted, solver):
    (found,) = stability(solver, planted[0], key=KEY, n_components=[6], n_seeds=2, **RUN)
    for key, dictionary in zip(jax.random.split(KEY, 2), found.dictionaries, strict=True):
        np.testing.assert_array_equal(dictionary, mmf.fit(solver, planted[0], key=key, **RUN).dictionary)
    with pytest.raises(ValueError, match="n_seeds must be at least 2"):
        stability(solver, planted[0], key=KEY, n_components=[6], n_seeds=1)
    with pytest.raises(ValueError, match="n_components must hold at least one"):
        stability(solver, planted[0], key=KEY, n_components=[])


def test_figures_show_the_table(choice, stabilities):
    ax = Figure().subplots()
    assert plotting.plot_path(choice.candidates, ax=ax) is ax
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    own = sorted((c for c in choice.candidates if c.n_components == 9), key=lambda c: c.alpha)
    np.testing.assert_allclose(lines["explained, k = 9"], [(c.alpha, c.explained_variance) for c in own])
    np.testing.assert_allclose(lines["non-zero codes, k = 9"], [(c.alpha, c.density) for c in own])
    assert len(lines) == 6

    ax = Figure().subplots()
    assert plotting.plot_choice(choice, ax=ax) is ax
    (marked,) = [line for line in ax.lines if line.get_label().startswith("chosen: k = 6")]
    np.testing.assert_allclose(marked.get_xydata(), [(choice.chosen.alpha, choice.chosen.hidden_explained_variance)])
    assert len(ax.containers) == 3

    ax = Figure().subplots()
    assert plotting.plot_stability(stabilities[::-1], ax=ax) is ax
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(s.n_components, s.cosines.mean()) for s in stabilities])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [1 - s.distances.mean() for s in stabilities])


def test_figures_make_their_own_axes(choice):
    from matplotlib import pyplot

    ax = plotting.plot_choice(Choice(choice.candidates[:1], choice.candidates[0]))
    assert ax.get_xlabel() == "alpha"
    pyplot.close(ax.figure)
