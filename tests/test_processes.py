"""Processes: what is closed over, forks, and threads, each tried in a process of its own that may die or hang."""

import os
import subprocess
import sys
import textwrap

import pytest


def run(code, *, timeout=300, flags=None):
    """Standard output of a program; its errors on failure. XLA compiles as it does for users unless told otherwise."""
    environment = os.environ | ({} if flags is None else {"XLA_FLAGS": flags})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=timeout, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


CONSTANTS = """
    import sys
    import jax, jax.numpy as jnp, numpy as np, optax
    import jax_mmf as mmf
    from jax_mmf.codes import CodeProblem, solve_codes

    def problem(n, k, p=20):
        rng = np.random.default_rng(0)
        return (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((k, p), (n, p)))

    names = ("gram", "beta", "sq_norm", "weights", "tol", "init")

    def solve(constants, n, k):
        d, x = problem(n, k)
        values = {
            "gram": d @ d.T, "beta": x @ d.T, "sq_norm": (x**2).sum(1), "weights": jnp.full(k, 0.3),
            "tol": jnp.float32(1e-4), "init": jnp.zeros((n, k)),
        }
        traced = {name: values[name] for name in names if name not in constants}

        @jax.jit
        def codes(traced):
            v = values | traced
            problem = CodeProblem(v["gram"], v["beta"], v["sq_norm"])
            return solve_codes(problem, mmf.Lasso(v["weights"]), solver=mmf.ActiveSet(v["tol"]), init=v["init"])[0]

        np.testing.assert_allclose(codes(traced), mmf.encode(d, x, mmf.Lasso(0.3)), atol=2e-3)
"""


def test_samples_and_atoms_that_a_traced_function_closes_over():
    """The plainest use of derivatives: data as constants, the strength of the penalty traced."""
    out = run(
        CONSTANTS
        + """
    d, x = problem(331, 12)
    value, slope = jax.jit(jax.value_and_grad(lambda a: mmf.objective(d, x, mmf.Lasso(a))))(0.3)
    step = 1e-2
    either = [mmf.objective(d, x, mmf.Lasso(0.3 + s), solver=mmf.ActiveSet(1e-7)) for s in (-step, step)]
    np.testing.assert_allclose(value, mmf.objective(d, x, mmf.Lasso(0.3)), rtol=1e-5)
    np.testing.assert_allclose(slope, (either[1] - either[0]) / (2 * step), rtol=1e-2)
    big, few = problem(3, 64, 80)
    np.testing.assert_allclose(jax.jit(lambda x: mmf.encode(big, x, mmf.Lasso(0.1)))(few),
                               mmf.encode(big, few, mmf.Lasso(0.1)), atol=1e-4)
    print("done")
    """,
        flags="",
    )
    assert out.strip() == "done"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(3, 64), (331, 12), (3000, 8)])
def test_any_part_of_a_problem_may_be_a_constant(n, k):
    """Each part alone, each other part alone traced, and all of them."""
    out = run(
        CONSTANTS
        + f"""
    tables = [(name,) for name in names] + [tuple(o for o in names if o != name) for name in names] + [names]
    for constants in tables:
        solve(constants, {n}, {k})
        print(*constants)
    """,
        flags="",
        timeout=900,
    )
    assert len(out.splitlines()) == 13


@pytest.mark.slow
def test_constants_of_every_kind_of_problem():
    """Everything that reaches the compiled loop, with data closed over and a number traced."""
    out = run(
        CONSTANTS
        + """
    from jax_mmf import completion
    d, x = problem(331, 12)
    mask, own = jnp.ones(20).at[3].set(0), jnp.ones(x.shape).at[:, 3].set(0)
    for name, f in {
        "nonneg": lambda a: mmf.encode(d, x, mmf.Lasso(a, nonneg=True)),
        "elastic net": lambda a: mmf.encode(d, x, mmf.ElasticNet(a, 0.5)),
        "mask": lambda a: mmf.encode(d, x, mmf.Lasso(a), mask=mask),
        "masks": lambda a: mmf.encode(d, x, mmf.Lasso(a), mask=own),
        "nmf": lambda a: mmf.encode(jnp.abs(d), jnp.abs(x), mmf.Ridge(a, nonneg=True)),
        "weights": lambda a: mmf.encode(d, x, mmf.Lasso(a * jnp.ones(12))),
        "init": lambda a: mmf.encode(d, x, mmf.Lasso(0.3), init=a * jnp.ones((331, 12))),
    }.items():
        found = jax.jit(f)(0.3)
        np.testing.assert_allclose(found, f(jnp.float32(0.3)), atol=2e-3)
        both = jax.vmap(jax.jit(f))(jnp.array([0.3, 0.3]))
        np.testing.assert_allclose(both[1], found, atol=2e-3)
        print(name)
    solver = mmf.OnlineFactorization(n_components=12)
    state = solver.init(jax.random.key(0), dictionary=d)
    many = problem(3000, 12)
    next(many)
    many = next(many)
    new, _ = jax.jit(lambda s: solver.update(s, many))(state)
    np.testing.assert_allclose(new.dictionary, solver.update(state, many)[0].dictionary, atol=1e-4)
    print("update")
    ratings = completion.make_ratings(jax.random.key(0), 60, 40, 900).ratings
    completion.fit(completion.ExplicitALS(2, nonneg=True), ratings, key=jax.random.key(0), n_epochs=2)
    print("als")
    """,
        flags="",
        timeout=900,
    )
    assert len(out.splitlines()) == 9


FORK = """
    import multiprocessing, sys
    import jax, numpy as np
    import jax_mmf as mmf

    x = np.random.default_rng(0).standard_normal((1000, 20)).astype("float32")

    def work(_):
        try:
            return mmf.encode(x[:12], x, mmf.Lasso(0.1)).shape
        except RuntimeError as error:
            return str(error)
"""


def test_a_fork_after_the_first_use_is_an_error_and_not_a_hang():
    out = run(
        FORK
        + """
    expected = mmf.encode(x[:12], x, mmf.Lasso(0.1)).shape
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.map_async(work, [0]).get(timeout=120)[0])
    """
    )
    assert "forked" in out
    assert '"spawn"' in out


def test_a_fork_before_the_first_use_works():
    out = run(
        FORK
        + """
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.map_async(work, [0]).get(timeout=120)[0])
    print(work(0))
    """
    )
    assert out.split("\n")[:2] == ["(1000, 12)"] * 2
