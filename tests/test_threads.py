"""Codes that threads share: the same bits as in one program, and one program wherever somebody traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf import threads

N, K, P = 331, 12, 20


@pytest.fixture
def cores(monkeypatch):
    """A function that sets how many there are, and forgets the threads of before."""

    def have(n):
        monkeypatch.setattr(threads, "_n_cores", lambda: n)

    threads._pool.cache_clear()
    yield have
    threads._pool.cache_clear()


def problem(dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.standard_normal((K, P)).astype(dtype), rng.standard_normal((N, P)).astype(dtype)


def masks():
    rng = np.random.default_rng(1)
    return {"none": None, "shared": rng.uniform(size=P) > 0.3, "own": rng.uniform(size=(N, P)) > 0.3}


def assert_same_bits(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("n", [2, 3, 5, 64])
@pytest.mark.parametrize("mask", ["none", "shared", "own"])
def test_the_same_bits_on_any_number_of_cores(cores, n, mask):
    dictionary, x = problem()
    solve = lambda: mmf.encode_with_info(dictionary, x, mmf.Lasso(0.3), mask=masks()[mask])
    cores(1)
    alone = solve()
    cores(n)
    assert threads.n_parts(mmf.ActiveSet(), N, jnp.asarray(x)) == min(n, 5)
    assert_same_bits(solve(), alone)


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

    def parts(x):
        seen.append(threads.n_parts(mmf.ActiveSet(), N, dictionary, x))
        return mmf.encode(dictionary, x, mmf.Lasso(0.3)).sum()

    jax.jit(parts)(x)
    jax.grad(parts)(x)
    jax.vmap(parts)(x[None])
    assert seen == [1, 1, 1]
    assert threads.n_parts(mmf.ActiveSet(), N, dictionary, x) == 4


@pytest.mark.parametrize("solver", [mmf.Cholesky(), mmf.CoordinateDescent(), mmf.FISTA()])
def test_solvers_that_use_all_cores_by_themselves_are_left_alone(cores, solver):
    cores(4)
    assert threads.n_parts(solver, 10_000, jnp.ones(3)) == 1


def test_few_samples_are_not_worth_a_thread(cores):
    cores(4)
    assert [threads.n_parts(mmf.ActiveSet(), n, jnp.ones(3)) for n in (1, 100, 128, 200, 10_000)] == [1, 1, 2, 3, 4]


def test_an_error_in_a_thread_is_that_of_the_caller(cores):
    cores(2)

    def fail(first, size):
        raise ValueError(f"{first}, {size}")

    with pytest.raises(ValueError, match="0, 50"):
        threads.in_parts(fail, 100, 2)


@pytest.mark.parametrize(("n_samples", "n_parts"), [(10, 3), (7, 7), (9, 4), (100, 1), (3, 2)])
def test_parts_are_put_together_in_order(cores, n_samples, n_parts):
    cores(n_parts)
    rows = jnp.arange(n_samples)
    together = threads.in_parts(lambda first, size: rows[first : first + size], n_samples, n_parts)
    np.testing.assert_array_equal(together, rows)
