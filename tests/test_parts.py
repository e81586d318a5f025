"""Codes in parts: the same as of the whole batch, and one program wherever somebody traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf import parts
from jax_mmf.parts import Parts, in_parts, parts_of

N, K, P = 331, 12, 20


@pytest.fixture
def cores(monkeypatch):
    """A function that sets how many there are, and forgets the threads of before."""

    def have(n):
        monkeypatch.setattr(parts, "_n_cores", lambda: n)

    parts._pool.cache_clear()
    yield have
    parts._pool.cache_clear()


def problem(dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.standard_normal((K, P)).astype(dtype), rng.standard_normal((N, P)).astype(dtype)


def masks():
    rng = np.random.default_rng(1)
    return {"none": None, "shared": rng.uniform(size=P) > 0.3, "own": rng.uniform(size=(N, P)) > 0.3}


@pytest.mark.parametrize("n", [2, 3, 5, 64])
@pytest.mark.parametrize("mask", ["none", "shared", "own"])
def test_the_same_codes_on_any_number_of_cores(cores, n, mask):
    dictionary, x = problem()
    solve = lambda: mmf.encode(dictionary, x, mmf.Lasso(0.3), mask=masks()[mask])
    cores(1)
    alone = solve()
    cores(n)
    assert parts_of(mmf.ActiveSet(), N, jnp.asarray(x)) == (min(n, 5), min(n, 5))
    np.testing.assert_allclose(solve(), alone, atol=1e-5)


def test_codes_to_start_from_go_with_their_samples(cores):
    dictionary, x = problem()
    best = mmf.encode(dictionary, x, mmf.Lasso(0.3))
    cores(3)
    codes, info = mmf.encode_with_info(dictionary, x, mmf.Lasso(0.3), init=best)
    np.testing.assert_allclose(codes, best, atol=1e-5)
    np.testing.assert_array_equal(info.n_iter, (best != 0).sum(1))


def test_double_precision_of_the_caller_holds_in_the_threads(cores):
    cores(3)
    with jax.enable_x64(True):
        dictionary, x = problem("float64")
        codes, info = mmf.encode_with_info(dictionary, x, mmf.Lasso(0.3), solver=mmf.ActiveSet(1e-12))
        assert codes.dtype == info.gap.dtype == jnp.float64
        assert (info.gap < 1e-11).all()


def test_one_program_where_somebody_traces(cores):
    """Inside of transformations there are no numbers to hand to a thread."""
    cores(4)
    dictionary, x = map(jnp.asarray, problem())
    seen = []

    def total(x):
        seen.append(parts_of(mmf.ActiveSet(), N, dictionary, x))
        return mmf.encode(dictionary, x, mmf.Lasso(0.3)).sum()

    jax.jit(total)(x)
    jax.grad(total)(x)
    jax.vmap(total)(x[None])
    assert seen == [(1, 1)] * 3
    assert parts_of(mmf.ActiveSet(), N, dictionary, x) == (4, 4)


def test_derivatives_and_vmap_over_anything_a_code_depends_on(cores, monkeypatch):
    """Samples and dictionary are at hand then, and still there is nothing to hand to a thread."""
    dictionary, x = problem()
    weights, start = np.random.default_rng(1).uniform(0.5, 1, P).astype("float32"), np.zeros((N, K), "float32")
    of = {
        "alpha": (lambda a: mmf.encode(dictionary, x, mmf.Lasso(a)).sum(), 0.3),
        "mask": (lambda m: mmf.encode(dictionary, x, mmf.Lasso(0.3), mask=m).sum(), weights),
        "init": (lambda i: mmf.encode(dictionary, x, mmf.Lasso(0.3), init=i).sum(), start),
        "tol": (lambda t: mmf.encode(dictionary, x, mmf.Lasso(0.3), solver=mmf.ActiveSet(t)).sum(), 1e-6),
        "many": (lambda a: mmf.encode(dictionary, x, mmf.Lasso(a), solver=mmf.FISTA()).sum(), 0.3),
    }
    monkeypatch.setattr(parts, "_MOST", 200)

    def results():
        for function, at in of.values():
            yield jax.grad(function)(at)
            yield jax.vmap(function)(jnp.stack([jnp.asarray(at)] * 2))

    cores(4)
    found = list(results())
    monkeypatch.setattr(parts, "_MOST", N)
    cores(1)
    for ours, expected in zip(found, results(), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_codes_of_constants_are_a_constant_of_a_traced_function(cores):
    dictionary, x = map(jnp.asarray, problem())
    cores(4)
    total = lambda s: s * mmf.encode(dictionary, x, mmf.Lasso(0.3)).sum()
    np.testing.assert_allclose([jax.jit(total)(2.0), 2 * jax.grad(total)(2.0), jax.vmap(total)(jnp.full(1, 2.0))[0]],
                               total(2.0), rtol=1e-6)  # fmt: skip


@pytest.mark.parametrize(
    ("solver", "n_samples", "expected"),
    [
        (mmf.ActiveSet(), 1, (1, 1)),
        (mmf.ActiveSet(), 127, (1, 1)),
        (mmf.ActiveSet(), 128, (2, 2)),
        (mmf.ActiveSet(), 200, (3, 3)),
        (mmf.ActiveSet(), 16_384, (4, 4)),
        (mmf.ActiveSet(), 16_385, (8, 4)),
        (mmf.FISTA(), 4096, (1, 1)),
        (mmf.FISTA(), 4097, (2, 1)),
        (mmf.Cholesky(), 10_000, (3, 1)),
    ],
)
def test_parts_are_large_enough_for_a_thread_and_small_enough_for_the_cache(cores, solver, n_samples, expected):
    cores(4)
    assert parts_of(solver, n_samples, jnp.ones(3)) == expected


@pytest.mark.parametrize("solver", [mmf.Cholesky(), mmf.CoordinateDescent(), mmf.FISTA(), mmf.ActiveSet()])
@pytest.mark.parametrize("mask", ["none", "shared", "own"])
def test_large_batches_are_solved_in_parts_that_fit_the_cache(cores, monkeypatch, solver, mask):
    dictionary, x = problem()
    penalty = mmf.Ridge(0.3) if isinstance(solver, mmf.Cholesky) else mmf.Lasso(0.3)
    cores(1)
    solve = lambda: mmf.encode_with_info(dictionary, x, penalty, mask=masks()[mask], solver=solver)
    whole, _ = solve()
    monkeypatch.setattr(parts, "_MOST", 100)
    codes, info = solve()
    assert parts_of(solver, N, jnp.asarray(x)) == (4, 1)
    assert codes.shape == (N, K)
    assert info.gap.shape == info.n_iter.shape == (N,)
    np.testing.assert_allclose(
        codes, whole, atol=1e-3 if isinstance(solver, mmf.FISTA | mmf.CoordinateDescent) else 1e-5
    )


def test_an_error_in_a_thread_is_that_of_the_caller(cores):
    cores(2)

    def fail(first, size):
        raise ValueError(f"{first}, {size}")

    with pytest.raises(ValueError, match="0, 50"):
        in_parts(fail, 100, Parts(2, 2))


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(("n_samples", "n_parts"), [(10, 3), (7, 7), (9, 4), (100, 1), (3, 2), (100, 64)])
def test_parts_are_put_together_in_order(cores, n_samples, n_parts, n_threads):
    cores(n_threads)
    rows = jnp.arange(n_samples)
    together = in_parts(lambda first, size: rows[first : first + size], n_samples, Parts(n_parts, n_threads))
    np.testing.assert_array_equal(together, rows)
