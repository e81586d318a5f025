"""Constraint sets of atoms, against sorting and bisection in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize

import jax_mmf as mmf

RATIOS = (0.0, 0.3, 1.0)
SIZES = (1, 7, 300)  # few, since each is compiled
RADII = (1.0, 0.05, 7.0)


def make(kind, radius=1.0, nonneg=False):
    """A constraint by name: "l2", "l1", "simplex", or the l1_ratio of an elastic-net ball."""
    if kind == "simplex":
        return mmf.Simplex(radius)
    if kind in ("l2", "l1"):
        return (mmf.L2Ball if kind == "l2" else mmf.L1Ball)(radius, nonneg)
    return mmf.ElasticNetBall(kind, radius, nonneg)


def ratio_of(kind):
    return {"l2": 0.0, "l1": 1.0, "simplex": 1.0}.get(kind, kind)


KINDS = ("l2", "l1", *RATIOS)
SETS = [(kind, nonneg) for kind in KINDS for nonneg in (False, True)] + [("simplex", True)]
every_set = pytest.mark.parametrize(("kind", "nonneg"), SETS)
more_sets = pytest.mark.parametrize(("kind", "nonneg"), [*SETS, (1e-3, False), (0.9, False), (0.999, True)])

project = jax.jit(lambda constraint, atom: constraint.project(atom))
scale = jax.jit(lambda constraint, atom: constraint.scale(atom))
gauge = jax.jit(lambda constraint, atom: constraint.gauge(atom))


@functools.cache
def derivative(transform, method="project"):
    """A function of constraint and atom: balls of all ratios and radii share a program."""
    return jax.jit(lambda constraint, atom: transform(getattr(constraint, method))(atom))


def oracle_gauge(kind, atom):
    mu = ratio_of(kind)
    return mu * np.abs(atom).sum() + (1 - mu) * (atom**2).sum()


def oracle_threshold(values, total):
    """The t with sum(max(values - t, 0)) = total, by sorting."""
    descending = np.sort(values)[::-1]
    candidates = (np.cumsum(descending) - total) / np.arange(1, len(values) + 1)
    return candidates[np.flatnonzero(descending > candidates)[-1]]


def oracle_project(kind, nonneg, atom, radius):
    """Nearest point, in double precision: sorting where there are only l1 terms, else bisection on the multiplier."""
    if kind == "simplex":
        return np.maximum(atom - oracle_threshold(atom, radius), 0)
    atom = np.maximum(atom, 0) if nonneg else atom
    if oracle_gauge(kind, atom) <= radius:
        return atom
    mu, size = ratio_of(kind), np.abs(atom)
    if mu == 1:
        return np.sign(atom) * np.maximum(size - oracle_threshold(size, radius), 0)
    shrunk = lambda t: np.maximum(size - t * mu, 0) / (1 + 2 * t * (1 - mu))
    low, high = 0.0, 1.0
    while oracle_gauge(kind, shrunk(high)) > radius:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if oracle_gauge(kind, shrunk(middle)) > radius else (low, middle)
    return np.sign(atom) * shrunk(high)


@st.composite
def atoms(draw):
    """Vectors of scales 1e-3 to 1e3, with ties, zeros, constants, all of one sign, sparse or feasible."""
    size, seed = draw(st.sampled_from(SIZES)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    atom = rng.standard_normal(size)
    match draw(st.sampled_from(["plain", "ties", "zeros", "constant", "positive", "negative", "spike", "all zero"])):
        case "ties":
            atom = np.round(2 * atom) / 2
        case "zeros":
            atom *= rng.random(size) < 0.3
        case "constant":
            atom = np.full(size, atom[0])
        case "positive":
            atom = np.abs(atom)
        case "negative":
            atom = -np.abs(atom)
        case "spike":
            atom = np.where(np.arange(size) == size // 2, 1e3 * atom, 1e-3 * atom)
        case "all zero":
            atom = np.zeros(size)
    return atom * 10.0 ** draw(st.integers(-3, 3))


@more_sets
@pytest.mark.usefixtures("x64")
@given(atom=atoms(), radius=st.sampled_from([*RADII, 1e-3, 1e3]))
@example(atom=np.array([0.5]), radius=0.5)
@example(atom=np.full(7, -1.0), radius=1.0)
def test_projection_is_that_of_the_oracle(kind, nonneg, atom, radius):
    """And feasible, and the projection of itself."""
    constraint = make(kind, radius, nonneg)
    found = np.asarray(project(constraint, atom))
    # Entries are differences with a multiplier as large as the data: some eps of the largest, or of the radius.
    atol = 1e-13 * (np.abs(atom).max() + radius)
    np.testing.assert_allclose(found, oracle_project(kind, nonneg, atom, radius), rtol=1e-11, atol=atol)
    # One such rounding in each entry that is left.
    bound = 1e-15 * (10 * radius + np.count_nonzero(found) * ratio_of(kind) * np.abs(atom).max())
    size = oracle_gauge(kind, found)
    assert size <= radius + bound
    assert kind != "simplex" or size >= radius - bound
    assert not nonneg or (found >= 0).all()
    np.testing.assert_allclose(project(constraint, found), found, rtol=1e-13, atol=atol)


@every_set
@pytest.mark.usefixtures("x64")
@given(atom=atoms(), seed=st.integers(0, 1000), radius=st.sampled_from(RADII))
def test_projection_is_not_expansive_and_nearest(kind, nonneg, atom, seed, radius):
    """The variational inequality (d - P d) . (z - P d) <= 0 for feasible z: a check without any solver."""
    rng = np.random.default_rng(seed)
    other = atom + rng.standard_normal(len(atom)) * rng.choice([1e-3, 1.0]) * (1 + np.abs(atom).max())
    constraint = make(kind, radius, nonneg)
    first, second = (np.asarray(project(constraint, v)) for v in (atom, other))
    size = np.abs(other).max() + radius
    assert np.linalg.norm(first - second) <= np.linalg.norm(atom - other) * (1 + 1e-12) + 1e-13 * size
    assert (atom - first) @ (second - first) <= 1e-13 * len(atom) * size**2


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kind", "nonneg"), [("l2", True), ("l1", False), (0.3, False), (0.9, True), ("simplex", True)]
)
def test_projection_is_that_of_a_generic_solver(kind, nonneg):
    """SLSQP knows nothing of gauges; l1 norms are sums of the positive and negative parts."""
    atom = np.random.default_rng(0).standard_normal(5) + 0.3
    mu, radius = ratio_of(kind), 0.8
    join = lambda parts: parts[:5] - parts[5:]
    slack = lambda parts: radius - mu * parts.sum() - (1 - mu) * (join(parts) ** 2).sum()
    result = minimize(
        lambda parts: ((join(parts) - atom) ** 2).sum() / 2,
        np.full(10, 0.05),
        bounds=[(0, None)] * 5 + [(0, 0 if nonneg else None)] * 5,
        constraints=[{"type": "eq" if kind == "simplex" else "ineq", "fun": slack}],
        options={"ftol": 1e-13, "maxiter": 500},
    )
    found = project(make(kind, radius, nonneg), atom)
    np.testing.assert_allclose(found, join(result.x), atol=1e-6)  # SLSQP's own accuracy


@every_set
@given(atom=atoms(), radius=st.sampled_from(RADII))
def test_feasible_in_single_precision(kind, nonneg, atom, radius):
    atom = atom.astype(np.float32)
    found = np.asarray(project(make(kind, radius, nonneg), atom))
    assert found.dtype == np.float32
    # Few eps of the radius, and for each entry that is left, of the multiplier that was taken off.
    eps, kept = np.finfo(np.float32).eps, np.count_nonzero(found)
    bound = 8 * eps * (radius + kept * ratio_of(kind) * np.abs(atom).max())
    size = oracle_gauge(kind, found.astype(float))
    assert size <= radius + bound
    assert kind != "simplex" or size >= radius - bound
    assert not nonneg or (found >= 0).all()
    expected = oracle_project(kind, nonneg, atom.astype(float), radius)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=32 * eps * (np.abs(atom).max() + radius))


@pytest.mark.parametrize(("kind", "nonneg"), [case for case in SETS if case[0] != "simplex"])  # which has no inside
def test_points_inside_stay_bit_for_bit(kind, nonneg):
    atom = jnp.abs(jax.random.normal(jax.random.key(0), (64,))) / 1e3
    assert (project(make(kind, 1.0, nonneg), atom) == atom).all()


@every_set
def test_radius_zero_gives_zeros(dtype, kind, nonneg):
    """Zeros, not NaN; nor may rounding below zero of the budget that other features leave over do harm."""
    project_on = jax.jit(make(kind, 1.0, nonneg).project)
    for atom in (np.array([1.0, -2.0, 0.0, 3.0]), np.zeros(4), np.full(4, 1e3), np.full(4, -1e-3)):
        for radius in (0.0, -1e-9):
            assert (project_on(jnp.asarray(atom, dtype), jnp.asarray(radius, dtype)) == 0).all()


@every_set
def test_derivative_at_radius_zero_is_finite(dtype, kind, nonneg):
    atom = jnp.asarray([1.0, -2.0, 0.5, 300.0], dtype)
    forward = jax.jit(jax.jacfwd(make(kind, 1.0, nonneg).project, argnums=(0, 1)))
    assert all(jnp.isfinite(part).all() for part in forward(atom, jnp.zeros((), dtype)))


@every_set
@pytest.mark.usefixtures("x64")
@given(atom=atoms(), seed=st.integers(0, 1000))
def test_gauge_adds_up(kind, nonneg, atom, seed):
    constraint, inside = make(kind, 1.0, nonneg), np.random.default_rng(seed).random(len(atom)) < 0.5
    whole, part, rest = (gauge(constraint, v) for v in (atom, atom * inside, atom * ~inside))
    np.testing.assert_allclose(part + rest, whole, rtol=1e-13)
    np.testing.assert_allclose(whole, oracle_gauge(kind, atom), rtol=1e-13)


@every_set
def test_gauge_of_many_atoms(kind, nonneg):
    many = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    values = make(kind, 1.0, nonneg).gauge(jnp.asarray(many))
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values[1, 2], oracle_gauge(kind, many[1, 2]), rtol=1e-6)


@every_set
@pytest.mark.usefixtures("x64")
@given(atom=atoms(), radius=st.sampled_from(RADII))
def test_scale_reaches_the_radius_in_the_same_direction(kind, nonneg, atom, radius):
    found = np.asarray(scale(make(kind, radius, nonneg), atom))
    wanted = np.maximum(atom, 0) if nonneg else atom
    if not wanted.any():
        expected = np.full(len(atom), radius / len(atom)) if kind == "simplex" else np.zeros(len(atom))
        np.testing.assert_allclose(found, expected, rtol=1e-14)
        return
    np.testing.assert_allclose(oracle_gauge(kind, found), radius, rtol=1e-13)
    largest = np.abs(wanted).argmax()
    np.testing.assert_allclose(found, wanted * (found[largest] / wanted[largest]), rtol=1e-13)
    assert found[largest] / wanted[largest] > 0


EXTREME = [("l2", 0.0), ("l1", 1.0), ("simplex", 1.0), *((ratio, ratio) for ratio in (0.0, 0.01, 0.5, 0.99, 1.0))]


def rounded(value, dtype):
    return np.longdouble(np.asarray(value, dtype))


def precise_project(kind, nonneg, atom, radius):
    """Nearest point by bisection, in long double, on logarithms of the multiplier: any size of entries."""
    atom, mu = np.asarray(atom, np.longdouble), np.longdouble(ratio_of(kind))
    atom = np.maximum(atom, 0) if nonneg and kind != "simplex" else atom
    if kind == "simplex":
        shrunk = lambda t: np.maximum(atom - atom.max() + t, 0)  # t is what is left of the largest entry
        low, high = np.longdouble(0), np.longdouble(radius)
        for _ in range(120):
            low, high = (low, (low + high) / 2) if shrunk((low + high) / 2).sum() > radius else ((low + high) / 2, high)
        return shrunk(low)
    measure = lambda size: mu * size.sum() + (1 - mu) * (size**2).sum()
    size = np.abs(atom)
    if measure(size) <= radius:
        return atom
    # By what is left of the largest entry: k = largest - t mu where mu > 0, else by the shrinkage.
    largest = size.max()

    def path(y):
        t = (largest - y) / (mu + 2 * (1 - mu) * y)  # the largest entry ends at y
        return np.maximum(y - (largest - size) / (1 + 2 * (1 - mu) * t), 0)

    low, high = np.longdouble(0), largest
    for _ in range(6000):
        middle = np.sqrt(low * high) if low > 0 and high / low > 4 else (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if measure(path(middle)) > radius else (middle, high)
    return np.sign(atom) * path(low)


@pytest.mark.parametrize(("kind", "ratio"), EXTREME)
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@given(
    exponent=st.floats(-1, 1), spread=st.sampled_from([0, 0.03, 1]), seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(), radius=st.sampled_from([1.0, 1e-4, 30.0]),
)  # fmt: skip
def test_atoms_of_any_size_are_projected(precision, kind, ratio, nonneg, exponent, spread, seed, ties, radius):
    """1e-30 to 1e30 in float32, 1e-150 to 1e150 in float64, within one atom too: feasible and nearest to rounding."""
    reach = 30 if precision == "float32" else 150
    rng = np.random.default_rng(seed)
    atom = rng.standard_normal(40)
    atom = np.sign(atom) if ties else atom
    exponents = np.clip(exponent + spread * rng.uniform(-1, 1, 40), -1, 1)
    atom = (atom * 10.0 ** (reach * exponents)).astype(precision)
    constraint = make(kind, radius, nonneg)
    with jax.enable_x64(precision == "float64"):
        found = np.asarray(project(constraint, atom))
        again = np.asarray(project(constraint, found))
    assert found.dtype == precision
    assert np.isfinite(found).all()
    eps = np.finfo(precision).eps
    size = oracle_gauge(kind, found.astype(np.longdouble))
    assert size <= radius * (1 + 20 * eps)  # a sum of 40, and a few roundings of each of its entries
    assert kind != "simplex" or size >= radius * (1 - 20 * eps)
    assert not constraint.nonneg or (found >= 0).all()
    # The largest entry of a feasible atom, to which all others are rounded.
    alone = float(2 * radius / (ratio + np.sqrt(ratio**2 + 4 * (1 - ratio) * radius)))
    expected = precise_project(kind, constraint.nonneg, atom, rounded(radius, precision))
    np.testing.assert_allclose(found, expected.astype(float), rtol=30 * eps, atol=40 * eps * alone)
    np.testing.assert_allclose(again, found, rtol=30 * eps, atol=40 * eps * alone)


@every_set
def test_derivatives_of_atoms_of_any_size(dtype, kind, nonneg):
    """Homogeneity: the derivative of `scale` at c d is that at d over c; of large atoms, on the ball too."""
    atom = np.array([1.0, 2.0, -0.5, 0.3], dtype)
    constraint, of_scale = make(kind, 3.0, nonneg), derivative(jax.jacrev, "scale")
    for size in (1e-36, 1e-30, 1e-20, 1e20, 1e30):
        found = np.asarray(of_scale(constraint, np.asarray(size, dtype) * atom))
        np.testing.assert_allclose(found * size, of_scale(constraint, atom), rtol=1e-4, atol=1e-5)
    for size in (1e-30, 1e30):
        assert np.isfinite(derivative(jax.jacrev)(constraint, size * atom)).all()


def test_derivative_of_entries_that_are_zero(dtype):
    """Inside of the ball the projection is the identity; on the l2 ball all entries shrink alike."""
    atom = jnp.asarray([0.0, 0.3, -0.2], dtype)
    for kind in ("l2", "l1", 0.0, 0.3, 1.0):
        np.testing.assert_allclose(derivative(jax.jacrev)(make(kind), atom), np.eye(3), atol=1e-6)
    for kind in ("l2", 0.0):
        found = derivative(jax.jacrev)(make(kind), 10 * atom)
        np.testing.assert_allclose(found[0], [1 / np.linalg.norm(10 * atom), 0, 0], atol=1e-6)


def test_gauge_on_the_l1_ball_does_not_square():
    """A square that overflows, times a share of zero, would be NaN."""
    np.testing.assert_allclose(mmf.ElasticNetBall(1.0).gauge(jnp.asarray([1e25, -1e25])), 2e25, rtol=1e-6)


@pytest.mark.parametrize("n", [100, 20_000])
@pytest.mark.parametrize("kind", ["l1", 0.5, "simplex"])
def test_equal_entries_share_the_radius(kind, n):
    """The difference of a large entry and a threshold nearly as large: no digits are lost in single precision."""
    for size in (1.0, 1e6, 1e20):
        found = project(make(kind), jnp.full(n, size))
        mu = ratio_of(kind)
        share = 2 / n / (mu + np.sqrt(mu**2 + 4 * (1 - mu) / n))
        np.testing.assert_allclose(found, share, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e30])
@every_set
def test_scale_of_extreme_data_in_single_precision(kind, nonneg, size):
    """Squares of such data vanish or overflow."""
    atom = np.float32(size) * np.array([1.0, 2.0, -0.5, 0.0], np.float32)
    found = np.asarray(scale(make(kind, 3.0, nonneg), atom), float)
    np.testing.assert_allclose(oracle_gauge(kind, found), 3.0, rtol=1e-6)


def finite_differences(function, value, step=1e-6):
    """Jacobian by central differences, its columns last."""
    value = np.asarray(value, float)
    columns = [
        (np.asarray(function(value + step * e)) - np.asarray(function(value - step * e))) / (2 * step)
        for e in np.eye(value.size).reshape(-1, *value.shape)
    ]
    return np.stack(columns, -1).reshape(*columns[0].shape, *value.shape)


INSIDE, OUTSIDE = 0.01, 1.0
forward_of_many = lambda function: jax.vmap(jax.jacfwd(function))
reverse_of_many = lambda function: jax.vmap(jax.jacrev(function))


@pytest.mark.parametrize("size", [INSIDE, OUTSIDE])
@every_set
def test_jacobian_of_the_projection(x64, kind, nonneg, size):
    """Forward and reverse, inside and outside of the set, under jit and vmap: finite differences."""
    constraint = make(kind, 0.7, nonneg)
    points = size * np.random.default_rng(1).standard_normal((2, 7))
    # Step 1e-6: errors of 1e-16/1e-6 from rounding, and of 1e-12 from curvature.
    expected = np.stack([finite_differences(lambda v: project(constraint, v), p) for p in points])
    for transform in (forward_of_many, reverse_of_many):
        found = derivative(transform)(constraint, points)
        np.testing.assert_allclose(found, expected, atol=1e-8)


@every_set
def test_derivative_in_the_radius(x64, kind, nonneg):
    atom = np.random.default_rng(2).standard_normal(7)
    function = jax.jit(lambda radii: make(kind, radii[0], nonneg).project(atom) + make(kind).project(atom, radii[1]))
    expected = finite_differences(function, [0.7, 0.4])
    for transform in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(transform(function))(jnp.array([0.7, 0.4])), expected, atol=1e-8)


@pytest.mark.parametrize("nonneg", [False, True])
def test_derivative_in_the_l1_ratio(x64, nonneg):
    atom = np.random.default_rng(2).standard_normal(7)
    function = jax.jit(lambda ratio: mmf.ElasticNetBall(ratio, 0.7, nonneg).project(atom))
    slopes = [jax.jit(transform(function)) for transform in (jax.jacfwd, jax.jacrev)]
    for ratio in (1e-3, 0.3, 0.9):
        for slope in slopes:
            np.testing.assert_allclose(slope(ratio), finite_differences(function, ratio), atol=1e-8)


def sum_of_cubes(constraint, atom, weights):
    return jnp.sum(weights * constraint.project(atom) ** 3)


gradient_of_cubes = jax.jit(jax.grad(sum_of_cubes, argnums=1))
hessian_of_cubes = jax.jit(jax.jacfwd(jax.grad(sum_of_cubes, argnums=1), argnums=1))


@every_set
def test_second_derivative_of_the_projection(x64, kind, nonneg):
    """Not promised anywhere but for codes; a wrong number without a warning would be worse than an error."""
    constraint = make(kind, 0.7, nonneg)
    atom, weights = np.random.default_rng(3).standard_normal((2, 7))
    expected = finite_differences(lambda v: gradient_of_cubes(constraint, v, weights), atom)
    np.testing.assert_allclose(hessian_of_cubes(constraint, atom, weights), expected, atol=1e-7)


@every_set
def test_derivative_of_scale(x64, kind, nonneg):
    constraint = make(kind, 0.7, nonneg)
    atom = np.random.default_rng(4).standard_normal(7)
    expected = finite_differences(lambda v: scale(constraint, v), atom)
    for transform in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(derivative(transform, "scale")(constraint, atom), expected, atol=1e-8)


@every_set
@pytest.mark.parametrize("method", ["project", "scale"])
def test_derivative_of_a_zero_atom_is_finite(dtype, kind, nonneg, method):
    """An atom that is not used must not make the derivatives of all the others NaN."""
    assert jnp.isfinite(derivative(jax.jacrev, method)(make(kind, 1.0, nonneg), jnp.zeros(7, dtype))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["project", "scale"])
def test_derivative_of_a_negative_atom_is_zero(dtype, kind, method):
    """All atoms near it are clipped to zeros as well."""
    assert (derivative(jax.jacrev, method)(make(kind, 1.0, nonneg=True), -jnp.ones(7, dtype)) == 0).all()


project_on = jax.jit(lambda constraint, atom, radius: constraint.project(atom, radius))
project_many = jax.jit(lambda constraint, atoms, radii: jax.vmap(constraint.project)(atoms, radii))


@every_set
def test_vmap_over_atoms_and_radii_is_a_loop(x64, kind, nonneg):
    constraint, many = make(kind, 1.0, nonneg), np.random.default_rng(5).standard_normal((5, 7))
    radii = np.array([0.0, 1e-3, 0.5, 2.0, 50.0])
    for found, atom, radius in zip(project_many(constraint, many, radii), many, radii, strict=True):
        np.testing.assert_allclose(found, project_on(constraint, atom, radius), atol=1e-14)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["l2", "l1", 0.5, "simplex"])
def test_a_bad_radius_is_named(kind, value):
    with pytest.raises(ValueError, match="radius"):
        make(kind, value)
    with pytest.raises(TypeError, match="radius"):
        make(kind, "1")


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_bad_l1_ratio_is_named(value):
    with pytest.raises(ValueError, match="l1_ratio"):
        mmf.ElasticNetBall(value)


@every_set
def test_sets_are_pytrees_of_their_numbers(kind, nonneg):
    constraint = make(kind, 2.0, nonneg)
    leaves, tree = jax.tree.flatten(constraint)
    assert leaves == ([kind, 2.0] if isinstance(kind, float) else [2.0])
    assert jax.tree.unflatten(tree, leaves) == constraint
    assert isinstance(constraint, mmf.Constraint)
    assert constraint.nonneg == nonneg


def test_kinds_have_different_structures():
    """jit finds compiled code by the structure of its arguments: equal ones run the code of each other."""
    assert jax.tree.structure(mmf.L2Ball()) != jax.tree.structure(mmf.L1Ball())


def test_large_atoms_are_projected_on_a_small_ball():
    """The ratio of the radius to the squared norm is below what float32 can hold."""
    atom = 1e17 * np.random.default_rng(0).standard_normal(50)
    found = np.asarray(mmf.L2Ball(1e-4).project(jnp.asarray(atom, jnp.float32)))
    np.testing.assert_allclose(found, 1e-2 * atom / np.linalg.norm(atom), rtol=1e-5)
