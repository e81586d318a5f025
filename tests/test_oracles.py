"""The whole step against a plain NumPy implementation that was written from the papers, not from this library."""

import itertools
import warnings

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ReferenceConfig, run

import jax_mmf as mmf
from jax_mmf.core import Stream, stream_key
from jax_mmf.core.linalg import _TILE
from jax_mmf.learning.surrogate import Surrogate, update_surrogate

K, P, BATCH, RAGGED, STEPS = 5, 62, 10, 7, 20

STATISTICS = {name: part for name, part in helpers.STATISTICS.items() if name not in ("own", "subsampled")}
PENALTIES = {
    "ridge": mmf.Ridge(0.3),
    "lasso": mmf.Lasso(0.2),
    "elastic-net": mmf.ElasticNet(0.3, 0.6),
    "nonneg": mmf.ElasticNet(0.2, 0.8, nonneg=True),
}
CONSTRAINTS = {
    "l2": mmf.L2Ball(),
    "l1": mmf.L1Ball(1.5),
    "elastic-net": mmf.ElasticNetBall(0.4, 1.2),
    "l2-nonneg": mmf.L2Ball(nonneg=True),
    "simplex": mmf.Simplex(),
}
SUBSETS = {1: mmf.FullSubset(), 3: mmf.UniformSubset(3), "blocks": mmf.BlockSubset(3, n_blocks=4)}
OWN = helpers.OwnStatistics(), helpers.OwnPenalty(0.2, 0.1), helpers.OwnBall(), helpers.OwnSubset()


_done = itertools.count(1)


@pytest.fixture(autouse=True)
def _free_compiled_programs():
    """A test leaves 600 memory maps; see the fixture of this name for modules, which comes too late here."""
    yield
    if next(_done) % 25 == 0:
        jax.clear_caches()


def data(seed=0):
    """Low rank plus noise, non-negative enough for every constraint to have something to do. The first atoms differ a
    lot: nearly equal ones make codes, and so the comparison, ill-conditioned."""
    rng = np.random.default_rng(seed)
    x = rng.gamma(1.0, 1.0, (200, K)) @ rng.gamma(0.5, 1.0, (K, P)) / K + 0.1 * rng.standard_normal((200, P))
    dictionary = rng.gamma(0.2, 1.0, (K, P))
    return x, dictionary / dictionary.sum(1, keepdims=True)


def numbers(weight):
    return float(np.asarray(weight))


def compare(statistics, partial_b, penalty, constraint, subset, forgetting="power", atol=1e-8):
    x, dictionary = data()
    rule = helpers.FORGETTINGS[forgetting]
    if statistics == "own":
        pair, code_penalty, atoms, drawn_by = OWN
    else:
        pair, code_penalty = STATISTICS[statistics], PENALTIES[penalty]
        atoms, drawn_by = CONSTRAINTS[constraint], SUBSETS[subset]
    # Without an l2 part codes converge slowly, and the steps amplify what is missing.
    tight = (
        None if penalty == "ridge" else mmf.CoordinateDescent(tol=0.0, max_iter=3000 if penalty == "lasso" else 1500)
    )
    # Averaged correlations of subsets need not be in the range of the full Gram matrix. Then nothing but the l1 part
    # bounds the codes: they grow to hundreds, and rounding with them. The first dozen of steps are exact.
    steps = 12 if (statistics, penalty) == ("full_gram_averaged", "lasso") else STEPS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few blocks with partial B: right numbers, poor results
        solver = mmf.OnlineFactorization(
            n_components=K,
            penalty=code_penalty,
            constraint=atoms,
            subset=drawn_by,
            statistics=pair,
            partial_b=partial_b,
            forgetting=rule,
            code_solver=tight,
        )
        state = solver.init(jax.random.key(1), dictionary=dictionary)
        memory = solver.init_memory(state, len(x))
        rng = np.random.default_rng(2)
        batches, ids, subsets, reductions, orders, ours = [], [], [], [], [], []
        for step in range(steps):
            rows = rng.permutation(len(x))[: RAGGED if step % 9 == 8 else BATCH]
            drawn = solver.draw_subset(state)
            valid = np.ones(drawn.size, bool) if drawn.valid is None else np.asarray(drawn.valid)
            key = stream_key(state.key, Stream.ATOM_ORDER, state.step)
            orders.append(np.asarray(solver.dictionary_update.atom_order(key, K)))
            batches.append(x[rows])
            ids.append(rows)
            subsets.append(np.asarray(drawn.indices)[valid])
            reductions.append(float(drawn.reduction))
            part = None if memory is None else jax.tree.map(lambda m, rows=rows: m[rows], memory)
            state, info = solver.update(state, x[rows], memory=part)
            if memory is not None:
                memory = jax.tree.map(lambda m, new, rows=rows: m.at[rows].set(new), memory, info.memory)
            of_features = state.surrogate.residual if partial_b else state.surrogate.b
            ours.append((state.dictionary, of_features, state.surrogate.c, info.codes))
    l1, l2 = numbers(code_penalty.l1), numbers(code_penalty.l2)
    config = ReferenceConfig(
        alpha=l1 + l2,
        l1_ratio=l1 / (l1 + l2),
        nonneg_codes=code_penalty.nonneg,
        mu={"l2": 0.0, "l1": 1.0, "elastic-net": 0.4, "l2-nonneg": 0.0, "simplex": 1.0, "own": 0.0}[constraint],
        radius=numbers(atoms.radius),
        nonneg_atoms=atoms.nonneg,
        simplex=constraint == "simplex",
        statistics="masked" if statistics == "own" else statistics,
        power=0.8,
        partial_b=partial_b,
        forgetting={
            "power": ("power", 0.8),
            "scaled": ("scaled", 5.0),
            "constant": ("constant", 0.02),
            "own": ("scaled", 1.0),
        }[forgetting],
    )
    start = np.asarray(solver.init(jax.random.key(1), dictionary=dictionary).dictionary)
    theirs = run(batches, start, config, subsets=subsets, reductions=reductions, orders=orders, sample_ids=ids)
    for step, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        for name, value in zip(("D", "R" if partial_b else "B", "C", "codes"), mine, strict=True):
            np.testing.assert_allclose(
                value, reference[name], rtol=0, atol=atol, err_msg=f"{name} after step {step + 1}"
            )
    # The run went somewhere: agreement of two runs that stand still would show nothing.
    assert np.abs(ours[-1][0] - start).max() > 1e-2


def half_slow(*sides):
    """All combinations, every other one marked as slow."""
    for chosen in itertools.product(*map(enumerate, sides)):
        names = [name for _, name in chosen]
        yield pytest.param(*names, marks=[pytest.mark.slow] * (sum(place for place, _ in chosen) % 2))


@pytest.mark.parametrize(("penalty", "constraint"), list(half_slow(PENALTIES, CONSTRAINTS)))
def test_penalty_and_constraint(x64, penalty, constraint):
    """Every penalty with every constraint, on random subsets, masked statistics and partial B [ICML16]."""
    compare("masked", True, penalty, constraint, 3)


@pytest.mark.parametrize(("statistics", "partial_b", "subset"), list(half_slow(STATISTICS, [False, True], SUBSETS)))
def test_statistics_and_surrogate(x64, statistics, partial_b, subset):
    """Every pair of estimators with both variants of B, on all features, random ones, and blocks that overlap."""
    compare(statistics, partial_b, "elastic-net", "elastic-net", subset)


@pytest.mark.parametrize("forgetting", ["scaled", "constant"])
def test_forgetting(x64, forgetting):
    compare("masked", True, "lasso", "l2", 3, forgetting)


def test_parts_of_a_user(x64):
    compare("own", True, "own", "own", "own", "own")


GRID = [
    tuple(name for _, name in chosen)
    for chosen in itertools.product(*map(enumerate, (STATISTICS, [False, True], PENALTIES, CONSTRAINTS, [1, 3])))
    if sum(place for place, _ in chosen) % 4 == 0
]
"""A quarter of all combinations, in which any two settings meet."""


def test_any_two_settings_meet_in_the_grid():
    sides = STATISTICS, [False, True], PENALTIES, CONSTRAINTS, [1, 3]
    for one, other in itertools.combinations(range(len(sides)), 2):
        assert {(chosen[one], chosen[other]) for chosen in GRID} == set(itertools.product(sides[one], sides[other]))


@pytest.mark.slow
@pytest.mark.parametrize(("statistics", "partial_b", "penalty", "constraint", "subset"), GRID)
def test_grid(x64, statistics, partial_b, penalty, constraint, subset):
    compare(statistics, partial_b, penalty, constraint, subset)


@pytest.mark.parametrize("p", [1, _TILE - 1, _TILE, 2 * _TILE + 5])
def test_moments_are_added_a_tile_at_a_time(x64, p):
    rng = np.random.default_rng(0)
    b, codes, x = rng.standard_normal((K, p)), rng.standard_normal((3, K)), rng.standard_normal((3, p))
    subset = mmf.FullSubset().draw(jax.random.key(0), jnp.zeros((), jnp.int32), p)
    before, atoms = Surrogate(jnp.eye(K), jnp.asarray(b), None, None), jnp.zeros((K, p))
    after, on_subset, moments = update_surrogate(
        before, codes, x, x, atoms, subset, jnp.asarray(0.3), 3, jnp.asarray(9)
    )
    np.testing.assert_allclose(after.b, 0.7 * b + 0.3 * codes.T @ x / 3, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(on_subset, after.b)
    np.testing.assert_allclose(moments.b, codes.T @ x / 3, rtol=0, atol=1e-12)


def test_partial_update_is_update(x64):
    """`partial_update` on the columns of the subset gives the bits of `update` on whole samples."""
    x, dictionary = data()
    solver = mmf.OnlineFactorization(
        n_components=K, penalty=mmf.Lasso(0.2), constraint=mmf.L2Ball(), subset=mmf.UniformSubset(3), partial_b=True
    )
    whole = part = solver.init(jax.random.key(1), dictionary=dictionary)
    for step in range(20):
        batch = jnp.asarray(x[10 * step : 10 * step + 10])
        subset = solver.draw_subset(part)
        assert jnp.array_equal(
            subset.indices, solver.draw_subset(whole._replace(step=whole.step - step), ahead=step).indices
        )
        whole, _ = solver.update(whole, batch)
        part, _ = solver.partial_update(part, batch[:, subset.indices], subset)
    np.testing.assert_allclose(whole.dictionary, part.dictionary, rtol=0, atol=1e-12)
