"""Feature subsets, against plain indexing and the chi-square test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SUBSETS
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from scipy import stats

import jax_mmf as mmf
from jax_mmf.learning.subsampling import _random_order

SIZES = (24, 41)  # the second one a prime: no block but the narrowest divides it
every_subset = pytest.mark.parametrize("name", SUBSETS)
every_size = pytest.mark.parametrize("p", SIZES)
KEY = jax.random.key(0)


def valid_of(subset):
    return np.ones(subset.size, bool) if subset.valid is None else np.asarray(subset.valid)


@every_size
@every_subset
def test_every_feature_is_equally_likely(name, p):
    """Counts of features over steps, against reduction: chi-square with a fixed key, at one in ten thousand."""
    draw = jax.jit(jax.vmap(lambda step: SUBSETS[name].draw(KEY, step, p)))
    n = 3000
    subset = draw(jnp.arange(n))
    valid = np.ones(subset.indices.shape, bool) if subset.valid is None else np.asarray(subset.valid)
    counts = np.bincount(np.asarray(subset.indices)[valid], minlength=p)
    assert counts.shape == (p,)
    chance = 1 / float(np.unique(subset.reduction).item())
    if name == "full":
        assert (counts == n).all()
        return
    # Features of one block come together: each is a binomial of its own.
    scores = (counts - n * chance) / np.sqrt(n * chance * (1 - chance))
    assert np.abs(scores).max() < stats.norm.isf(1e-4 / p)
    width = subset.width
    blocks = counts[::width]
    expected = np.full(len(blocks), blocks.sum() / len(blocks))
    # Drawn without replacement, the counts vary less than those of a multinomial by 1 - chance.
    statistic = ((blocks - expected) ** 2 / expected).sum() / (1 - chance)
    assert stats.chi2.sf(statistic, len(blocks) - 1) > 1e-4


@every_size
@every_subset
def test_no_feature_twice_and_all_in_range(name, p):
    draw = jax.jit(lambda step: SUBSETS[name].draw(KEY, step, p))
    for step in range(20):
        subset = draw(step)
        indices, valid = np.asarray(subset.indices), valid_of(subset)
        assert subset.indices.dtype == jnp.int32
        assert len(np.unique(indices[valid])) == valid.sum()
        assert indices.min() >= 0
        assert indices.max() < p
        assert subset.size == len(indices)
        assert subset.n_features == p
        assert subset.is_full == (subset.size == p and name == "full")


@every_size
@every_subset
@pytest.mark.parametrize("lead", [(), (2, 3)])
@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_gather_and_scatter_are_indexing(name, p, lead, platform, monkeypatch):
    """On CPU, and as accelerators compute it."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, **functions: functions[platform](*args))
    draw = jax.jit(lambda step: SUBSETS[name].draw(KEY, step, p))  # a loop outside of jit compiles at each call
    gather, scatter = (jax.jit(lambda s, *a, n=n: getattr(s, n)(*a)) for n in ("gather", "scatter"))
    rng = np.random.default_rng(0)
    array = rng.standard_normal((*lead, p)).astype(np.float32)
    seen_overlap = False
    for step in range(8):
        subset = draw(step)
        indices, valid = np.asarray(subset.indices), valid_of(subset)
        seen_overlap |= not valid.all()
        gathered = np.where(valid, array[..., indices], 0)
        np.testing.assert_array_equal(gather(subset, array), gathered)
        np.testing.assert_array_equal(subset.drop_invalid(jnp.asarray(array[..., indices])), gathered)
        values = rng.standard_normal((*lead, subset.size)).astype(np.float32)
        expected = array.copy()
        expected[..., indices[valid]] = values[..., valid]
        np.testing.assert_array_equal(scatter(subset, array, values), expected)
        # Back and forth: what was taken is put back where it was.
        np.testing.assert_array_equal(scatter(subset, array, gather(subset, array)), array)
    if name in ("blocks", "one block") and p == 41:
        assert seen_overlap, "the last block never came: the test shows nothing"


@pytest.mark.parametrize("name", ["uniform", "blocks", "one block"])
@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.float16, bool])
def test_dtypes_are_kept(name, kind):
    """Masks and counts of samples are gathered as well."""
    subset = SUBSETS[name].draw(KEY, jnp.asarray(0), 41)
    array = jnp.asarray(np.arange(41) % 2, kind)
    gathered = subset.gather(array)
    assert gathered.dtype == kind
    scattered = subset.scatter(array, gathered)
    assert scattered.dtype == kind
    np.testing.assert_array_equal(scattered, array)


@every_size
@every_subset
def test_subsets_are_a_function_of_key_and_step(name, p):
    """Not of what was drawn before, whether it is compiled, or the type of the step."""
    draw = lambda key, step: SUBSETS[name].draw(key, step, p)
    first = draw(KEY, jnp.asarray(5))
    for other in (draw(KEY, jnp.asarray(5)), draw(KEY, 5), draw(KEY, jnp.uint32(5)), jax.jit(draw)(KEY, 5)):
        for part, wanted in zip(jax.tree.leaves(other), jax.tree.leaves(first), strict=True):
            np.testing.assert_allclose(part, wanted, rtol=1e-7)  # reduction is a Python number, or in float32
    if name != "full":
        later = [draw(KEY, jnp.asarray(step)).indices for step in range(6, 12)]
        assert any((first.indices != indices).any() for indices in later)
        others = [draw(jax.random.key(seed), jnp.asarray(5)).indices for seed in range(1, 7)]
        assert any((first.indices != indices).any() for indices in others)


@every_subset
def test_features_come_once_in_as_many_steps_as_there_are_parts(name):
    """And the parts of one order tell nothing of those of the next: the counts of pairs, for the first feature."""
    if name in ("full", "own"):
        return
    p = 24
    subset = jax.vmap(lambda step: SUBSETS[name].draw(KEY, step, p))(jnp.arange(4000))
    indices = np.asarray(subset.indices)
    valid = np.ones(indices.shape, bool) if subset.valid is None else np.asarray(subset.valid)
    seen = np.zeros((4000, p), bool)
    seen[np.arange(4000)[:, None], indices] |= valid
    n_units = -(-p // subset.width)
    n_parts = n_units // (indices.shape[1] // subset.width)
    rounds = seen[: 4000 // n_parts * n_parts].reshape(-1, n_parts, p).sum(1)
    assert rounds.max() == 1
    assert rounds.mean() == pytest.approx(n_parts * indices.shape[1] / p, rel=0.02)
    first = seen[: 4000 // n_parts * n_parts].reshape(-1, n_parts, p)[:, 0, 0]
    table = np.histogram2d(first[:-1], first[1:], bins=2)[0]
    assert stats.chi2_contingency(table, correction=False).pvalue > 1e-4


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 1000, 1025])
def test_random_orders_are_permutations_and_all_are_equally_likely(n):
    orders = np.asarray(jax.vmap(lambda key: _random_order(key, n))(jax.random.split(KEY, 300)))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(n), (300, 1)))
    if n == 3:
        counts = np.unique(orders, axis=0, return_counts=True)[1]
        assert stats.chisquare(counts).pvalue > 1e-4
        assert counts.size == 6
    if n == 1000:  # where a number stands is uniform
        places = np.argsort(orders, axis=1)[:, [0, 500, 999]] / n
        assert all(stats.kstest(place, "uniform").pvalue > 1e-4 for place in places.T)


def test_groups_of_features_stay_together():
    subset = mmf.UniformSubset(4, width=16).draw(KEY, 3, 16 * 40 - 5)
    groups = np.asarray(subset.indices).reshape(-1, 16)
    np.testing.assert_array_equal(np.diff(groups, axis=1), 1)
    assert (groups[:, 0] % 16 == 0)[:-1].all()
    assert subset.size == 160
    few = mmf.UniformSubset(1, width=16).draw(KEY, 0, 5)
    assert few.is_full


@given(p=st.integers(1, 5000), reduction=st.floats(1, 200), n_blocks=st.integers(1, 64))
def test_layout_covers_all_features_once(p, reduction, n_blocks):
    if reduction > p:
        with pytest.raises(ValueError, match="reduction"):
            mmf.BlockSubset(reduction, n_blocks).layout(p)
        return
    width, total, drawn = mmf.BlockSubset(reduction, n_blocks).layout(p)
    assert all(isinstance(v, int) for v in (width, total, drawn))
    assert (total - 1) * width < p <= total * width
    assert 1 <= width <= p
    assert 1 <= drawn <= total
    # Rounding, of the number of blocks that are drawn, by half a block.
    assert abs(drawn - total / reduction) <= 0.5 or drawn == 1
    assert drawn >= 1


@given(p=st.integers(200, 5000), reduction=st.floats(1, 12), n_blocks=st.integers(1, 64))
def test_about_one_feature_in_reduction_is_seen(p, reduction, n_blocks):
    width, _, drawn = mmf.BlockSubset(reduction, n_blocks).layout(p)
    # Half a block for rounding their number, and one for the overlap.
    assert abs(width * drawn - p / reduction) <= 1.5 * width


@pytest.mark.parametrize(("p", "reduction", "n_blocks"), [(2000, 10, 32), (100_000, 12, 32), (640, 4, 16), (50, 5, 32)])
def test_number_of_blocks_is_about_that_asked_for(p, reduction, n_blocks):
    """Where features are few, they are blocks of their own."""
    width, _, drawn = mmf.BlockSubset(reduction, n_blocks).layout(p)
    expected = min(n_blocks, p / reduction)
    assert 0.7 * expected <= drawn <= 1.5 * expected
    assert width == 1 or drawn >= 0.7 * n_blocks


def test_the_layout_that_divides():
    assert mmf.BlockSubset(4.0, n_blocks=2).layout(64) == (8, 8, 2)
    subset = mmf.BlockSubset(4.0, n_blocks=2).draw(KEY, jnp.asarray(0), 64)
    assert subset.valid is None
    assert subset.reduction == 4.0
    assert (jnp.diff(subset.starts) > 0).all()
    assert (subset.starts % 8 == 0).all()


def test_number_of_uniform_features_is_rounded():
    for p, reduction in ((24, 5.0), (41, 3.0), (7, 7.0), (10, 1.04)):
        subset = mmf.UniformSubset(reduction).draw(KEY, jnp.asarray(0), p)
        assert subset.size == round(p / reduction)
        np.testing.assert_allclose(subset.reduction, p / subset.size)


@pytest.mark.parametrize("kind", [mmf.UniformSubset, mmf.BlockSubset])
def test_no_reduction_is_everything_in_order(kind):
    subset = kind(1.0).draw(KEY, jnp.asarray(3), 41)
    assert subset.is_full
    assert subset.reduction == 1.0
    np.testing.assert_array_equal(subset.indices, np.arange(41))


@pytest.mark.parametrize("kind", [mmf.UniformSubset, mmf.BlockSubset])
def test_bad_reductions_are_named(kind):
    for bad in (0.5, 0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="reduction"):
            kind(bad)
    with pytest.raises(TypeError, match="reduction"):
        kind("3")
    with pytest.raises(ValueError, match="reduction"):
        kind(42.0).draw(KEY, jnp.asarray(0), 41)
    assert kind(41.0).draw(KEY, jnp.asarray(0), 41).size == 1


def test_bad_numbers_of_blocks_are_named():
    with pytest.raises(ValueError, match="n_blocks"):
        mmf.BlockSubset(2.0, n_blocks=0)
    for bad in (1.5, "2", True):
        with pytest.raises(TypeError, match="n_blocks"):
            mmf.BlockSubset(2.0, n_blocks=bad)


@every_subset
def test_settings_are_static(name):
    assert jax.tree.leaves(SUBSETS[name]) == []
    assert hash(SUBSETS[name]) == hash(SUBSETS[name])
    assert isinstance(SUBSETS[name], mmf.FeatureSubset)


@pytest.mark.parametrize("name", ["uniform", "one block", "blocks"])
def test_sums_over_the_subset_are_unbiased(name):
    """What reduction and valid are for: the mean over steps of scaled sums is the sum over all features."""
    p, n = 41, 4000
    values = jnp.asarray(np.random.default_rng(0).gamma(1.0, 1.0, p), jnp.float32)

    def estimate(step):
        subset = SUBSETS[name].draw(KEY, step, p)
        return subset.reduction * subset.gather(values).sum()

    estimates = np.asarray(jax.vmap(estimate)(jnp.arange(n)))
    error = estimates.mean() - values.sum()
    assert abs(error) < 4 * estimates.std() / np.sqrt(n)
    assert estimates.std() > 0


@pytest.mark.parametrize("name", ["uniform", "one block"])
def test_gather_and_scatter_have_derivatives(x64, name):
    """Each is the transpose of an insertion: gradients land on the features of the subset, and on these alone."""
    p = 41
    subset = next(
        s
        for s in (SUBSETS[name].draw(KEY, jnp.asarray(i), p) for i in range(30))
        if name != "one block" or not valid_of(s).all()
    )
    indices, valid = np.asarray(subset.indices), valid_of(subset)
    weights = np.random.default_rng(0).standard_normal(subset.size)
    expected = np.zeros(p)
    expected[indices[valid]] = weights[valid]
    np.testing.assert_allclose(jax.grad(lambda a: jnp.vdot(weights, subset.gather(a)))(jnp.ones(p)), expected)
    full = np.random.default_rng(1).standard_normal(p)
    by_array, by_values = jax.grad(lambda a, v: jnp.vdot(full, subset.scatter(a, v)), argnums=(0, 1))(
        jnp.ones(p), jnp.ones(subset.size)
    )
    inside = np.isin(np.arange(p), indices[valid])
    np.testing.assert_allclose(by_array, np.where(inside, 0, full))
    np.testing.assert_allclose(by_values, np.where(valid, full[indices], 0))


def test_gpus_copy_all_blocks_at_once():
    """A loop over the blocks takes tens of milliseconds there, where a step takes two."""
    subset = mmf.UniformSubset(4, width=16).draw(KEY, 0, 1000)

    def both(x):
        return subset.scatter(x, subset.gather(x) + 1)

    x = jax.ShapeDtypeStruct((3, 1000), jnp.float32)
    assert "while" not in jax.export.export(jax.jit(both), platforms=["cuda"])(x).mlir_module()
