"""Codes in parts: the same as of the whole batch, few programs, and one wherever something is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.codes import chunks as parts
from jax_mmf.codes import encoding as coding
from jax_mmf.codes import metrics
from jax_mmf.codes.chunks import Chunks, chunks_of, in_chunks

N, K, P = 331, 12, 20


@pytest.fixture
def cores(monkeypatch):
    """A function that sets how many there are, and forgets the threads of before."""

    def have(n):
        monkeypatch.setattr(parts, "n_cores", lambda: n)

    parts._pool.cache_clear()
    yield have
    parts._pool.cache_clear()


def problem(dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.standard_normal((K, P)).astype(dtype), rng.standard_normal((N, P)).astype(dtype)


def masks():
    rng = np.random.default_rng(1)
    return {"none": None, "shared": rng.uniform(size=P) > 0.3, "own": rng.uniform(size=(N, P)) > 0.3}


@pytest.mark.parametrize("n", [2, 64])
@pytest.mark.parametrize("mask", ["none", "shared", "own"])
def test_the_same_codes_on_any_number_of_cores(cores, n, mask):
    dictionary, x = problem()
    solve = lambda: mmf.encode(dictionary, x, mmf.Lasso(0.3), mask=masks()[mask])
    cores(1)
    alone = solve()
    cores(n)
    assert chunks_of(mmf.ActiveSet(), x).n_threads == min(n, 5)
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
        seen.append(chunks_of(mmf.ActiveSet(), x, dictionary))
        return mmf.encode(dictionary, x, mmf.Ridge(0.3)).sum()

    jax.jit(total)(x)
    jax.grad(total)(x)
    jax.vmap(total)(x[None])
    assert seen == [None] * 3
    assert chunks_of(mmf.ActiveSet(), x, dictionary) == (64, 4, True)


def test_derivatives_and_vmap_over_anything_a_code_depends_on(cores, monkeypatch):
    """Samples and dictionary are at hand then, and still there is nothing to hand to a thread."""
    dictionary, x = problem()
    weights, start = np.random.default_rng(1).uniform(0.5, 1, P).astype("float32"), np.zeros((N, K), "float32")
    encode = lambda alpha=0.3, tol=1e-6, **more: mmf.encode(
        dictionary, x, mmf.Lasso(alpha), solver=mmf.CoordinateDescent(tol), **more
    )
    of = {  # one by the solver that would go to threads, the others by one that compiles in a fifth of its time
        "threads": (lambda a: mmf.encode(dictionary, x, mmf.Lasso(a)).sum(), 0.3),
        "alpha": (lambda a: encode(a).sum(), 0.3),
        "mask": (lambda m: encode(mask=m).sum(), weights),
        "init": (lambda i: encode(init=i).sum(), start),
        "tol": (lambda t: encode(tol=t).sum(), 1e-6),
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
    ("solver", "n_samples", "n_features", "expected"),
    [
        (mmf.ActiveSet(), 1, 3, (1, 1)),
        (mmf.ActiveSet(), 3, 3, (4, 1)),
        (mmf.ActiveSet(), 127, 3, (128, 1)),
        (mmf.ActiveSet(), 128, 3, (64, 2)),
        (mmf.ActiveSet(), 200, 3, (64, 3)),
        (mmf.ActiveSet(), 1000, 3, (128, 4)),
        (mmf.ActiveSet(), 16_384, 3, (2048, 4)),
        (mmf.FISTA(), 130, 3, (256, 1)),
        (mmf.FISTA(), 4097, 3, (4096, 1)),
        (mmf.Cholesky(), 10_000, 3, (4096, 1)),
        (mmf.Cholesky(), 1000, 200_000, (64, 1)),
        (mmf.Cholesky(), 10, 20_000_000, (1, 1)),
    ],
)
def test_parts_are_powers_of_two_that_fit_the_cache(cores, solver, n_samples, n_features, expected):
    cores(4)
    x = np.broadcast_to(np.float32(0), (n_samples, n_features))
    assert chunks_of(solver, x, jnp.ones(3)) == (*expected, True)


@pytest.mark.filterwarnings("ignore::jax_mmf.ConvergenceWarning")
@pytest.mark.parametrize(
    ("solver", "mask"),
    [
        (mmf.Cholesky(), "none"), (mmf.Cholesky(), "own"), (mmf.CoordinateDescent(), "none"),
        (mmf.CoordinateDescent(), "own"), (mmf.FISTA(), "shared"), (mmf.ActiveSet(), "none"), (mmf.ActiveSet(), "own"),
    ],
)  # fmt: skip
def test_large_batches_are_solved_in_parts_that_fit_the_cache(cores, monkeypatch, solver, mask):
    dictionary, x = problem()
    penalty = mmf.Ridge(0.3) if isinstance(solver, mmf.Cholesky) else mmf.Lasso(0.3)
    cores(1)
    solve = lambda: mmf.encode_with_info(dictionary, x, penalty, mask=masks()[mask], solver=solver)
    whole, _ = solve()
    monkeypatch.setattr(parts, "_MOST", 100)
    codes, info = solve()
    assert chunks_of(solver, x) == (100, 1, True)
    assert codes.shape == (N, K)
    assert info.gap.shape == info.n_iter.shape == (N,)
    np.testing.assert_allclose(
        codes, whole, atol=1e-3 if isinstance(solver, mmf.FISTA | mmf.CoordinateDescent) else 1e-5
    )


def test_an_error_in_a_thread_is_that_of_the_caller(cores):
    cores(2)

    def fail(rows):
        raise ValueError(f"{rows[0]}, {len(rows)}")

    with pytest.raises(ValueError, match="0, 64"):
        in_chunks(fail, jnp.arange(100), Chunks(64, 2, on_host=True))


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(("n_samples", "size"), [(10, 4), (7, 1), (9, 4), (100, 100), (3, 2), (100, 64), (5, 8)])
def test_parts_are_put_together_in_order(cores, n_samples, size, n_threads, on_host):
    cores(n_threads)
    size = size if on_host else max(size, n_samples)
    rows = {"a": jnp.arange(n_samples), "b": jnp.arange(2.0 * n_samples).reshape(n_samples, 2), "c": None}
    seen = []

    def double(part):
        seen.append(part["a"].shape)
        return {"twice": 2 * part["a"], "same": part["b"]}

    together = in_chunks(double, rows, Chunks(size, n_threads, on_host))
    np.testing.assert_array_equal(together["twice"], 2 * np.arange(n_samples))
    np.testing.assert_array_equal(together["same"], rows["b"])
    assert set(seen) == {(size,)}


def test_results_do_not_share_memory_with_what_comes_in():
    """Host arrays are handed over without a copy: a later change of the caller's array must not show."""
    x = np.ones((64, 16), "float32")
    out = in_chunks(lambda rows: rows, x, Chunks(16, 1, on_host=True))
    x[:] = 2
    np.testing.assert_array_equal(out, 1)


@pytest.mark.parametrize("mask", ["none", *(pytest.param(m, marks=pytest.mark.slow) for m in ("shared", "own"))])
def test_numbers_of_samples_share_two_programs(cores, mask):
    cores(1)
    dictionary, x = problem()
    jax.clear_caches()
    for n in (40, 57, 64, 65, 90, 99):
        weights = masks()[mask]
        mmf.encode(dictionary, x[:n], mmf.Lasso(0.3), mask=weights[:n] if mask == "own" else weights)
        mmf.objective(dictionary, x[:n], mmf.Lasso(0.3))
    # Objectives have no masks, and so programs for codes of their own.
    assert coding._encode._cache_size() == (2 if mask == "none" else 4)
    assert metrics._objectives._cache_size() == 2


@pytest.mark.parametrize("size", [1, 40, 331])
def test_objective_and_explained_variance_of_any_number_of_samples(size):
    dictionary, x = problem()
    x = x[:size].astype(float)
    codes = np.asarray(mmf.encode(dictionary, x, mmf.Lasso(0.3)), float)
    left = ((x - codes @ dictionary) ** 2).sum(1)
    expected = np.mean(0.5 * left + 0.3 * np.abs(codes).sum(1))
    np.testing.assert_allclose(mmf.objective(dictionary, x, mmf.Lasso(0.3)), expected, rtol=1e-5)
    share = 1 - left.sum() / (x**2).sum()
    np.testing.assert_allclose(mmf.explained_variance(dictionary, x, codes), share, rtol=1e-5)
    np.testing.assert_allclose(mmf.explained_variance(dictionary, x, mmf.Lasso(0.3)), share, rtol=1e-5)
