"""The library under JAX's strict settings, in which users may run it: no promotion of dtypes or ranks is left to JAX.

Functions are traced, not compiled: promotions are found then. What is left to promotion: dtypes in the optimisers of
optax and in the kernel of `ActiveSet`; ranks there, in `FISTA`, the derivatives of codes, the value of a penalty with a
weight per atom, and the partial B.
"""

import contextlib

import helpers
import jax
import jax.numpy as jnp
import optax
import pytest

import jax_mmf as mmf

K, P, B = 4, 24, 6
KEY = jax.random.key(0)
DESCENT = mmf.CoordinateDescent()


@contextlib.contextmanager
def strict(*, ranks=True, dtypes=True):
    with contextlib.ExitStack() as stack:
        if ranks:
            stack.enter_context(jax.numpy_rank_promotion("raise"))
        if dtypes:
            stack.enter_context(jax.numpy_dtype_promotion("strict"))
        yield


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.result_type(float))


def make(**options):
    return mmf.OnlineFactorization(
        **{"n_components": K, "penalty": mmf.Ridge(0.1), "constraint": mmf.L2Ball()}
        | ({"code_solver": DESCENT} if "penalty" in options else {})
        | options
    )


def check_step(solver):
    state = jax.eval_shape(lambda x: solver.init(KEY, samples=x), array(9, P))
    memory = jax.eval_shape(lambda s: solver.init_memory(s, B), state)
    after, info = jax.eval_shape(lambda s, x, m: solver.update(s, x, memory=m), state, array(B, P), memory)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert info.codes.shape == (B, K)


def of_simplex(penalty):
    """Whether codes are those of `FISTA`, which leaves ranks to promotion."""
    return isinstance(penalty, mmf.SimplexCodes)


TABLES = {
    "penalty": helpers.PENALTIES,
    "constraint": helpers.CONSTRAINTS,
    "subset": helpers.SUBSETS,
    "forgetting": helpers.FORGETTINGS,
    "dictionary_update": helpers.DICTIONARY_UPDATES,
    "initialization": helpers.INITIALIZATIONS,
}


@pytest.mark.parametrize(("field", "name"), [(field, name) for field, parts in TABLES.items() for name in parts])
def test_steps_with_each_part(field, name):
    part = TABLES[field][name]
    with strict(ranks=not of_simplex(part)):
        check_step(make(**{field: part}, **({"code_solver": mmf.FISTA()} if of_simplex(part) else {})))


@pytest.mark.parametrize("name", helpers.STATISTICS)
def test_steps_with_each_pair_of_estimators(name):
    with strict():
        check_step(make(statistics=helpers.STATISTICS[name], subset=mmf.UniformSubset(2)))


@pytest.mark.parametrize("name", ["uniform", "many blocks", "own"])
def test_steps_with_partial_b(name):
    with strict(ranks=False):
        check_step(make(subset=helpers.SUBSETS[name], partial_b=True))


def test_steps_with_an_optimiser_of_optax():
    with strict(dtypes=False):
        check_step(make(dictionary_update=mmf.GradientUpdate(optax.adam(0.1)), subset=mmf.BlockSubset(2, 4)))


def test_steps_in_double_precision():
    with jax.enable_x64(True), strict():
        check_step(make(penalty=mmf.Lasso(0.1)))
        assert array().dtype == jnp.float64


MASKS = {"none": (), "shared": (P,), "own": (B, P)}
PER_ATOM = mmf.Lasso(jnp.full(K, 0.1))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("penalty", [*helpers.PENALTIES, "per atom"])
def test_codes(penalty, mask):
    penalty = PER_ATOM if penalty == "per atom" else helpers.PENALTIES[penalty]
    solver = mmf.FISTA() if of_simplex(penalty) else DESCENT
    solve = lambda d, x, penalty, mask: mmf.encode(d, x, penalty, mask=mask, solver=solver)
    with strict(ranks=penalty is not PER_ATOM and not of_simplex(penalty)):
        mask = array(*MASKS[mask]) if MASKS[mask] else None
        assert jax.eval_shape(solve, array(K, P), array(B, P), penalty, mask).shape == (B, K)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("solver", [DESCENT, mmf.FISTA(), mmf.UnrolledFISTA(3)], ids=lambda s: type(s).__name__)
def test_derivatives_of_codes(solver, mask):
    def loss(dictionary, x, penalty, mask):
        return jnp.sum(mmf.encode(dictionary, x, penalty, mask=mask, solver=solver))

    with strict(ranks=False):
        arguments = array(K, P), array(B, P), PER_ATOM, array(*MASKS[mask]) if MASKS[mask] else None
        gradient = jax.eval_shape(jax.grad(loss, argnums=(0, 1)), *arguments)
    assert [leaf.shape for leaf in gradient] == [(K, P), (B, P)]


@pytest.mark.parametrize("penalty", helpers.PENALTIES)
def test_measures(penalty):
    penalty, data, codes = helpers.PENALTIES[penalty], (array(K, P), array(B, P)), array(B, K)
    solver = mmf.FISTA() if of_simplex(penalty) else DESCENT
    with strict(ranks=not of_simplex(penalty)):
        assert jax.eval_shape(lambda d, x: mmf.objective(d, x, penalty, solver=solver), *data).shape == ()
        assert jax.eval_shape(mmf.explained_variance, *data, codes).shape == ()
        assert jax.eval_shape(mmf.alpha_max, *data).shape == ()
        assert jax.eval_shape(lambda c: mmf.penalty_prox(penalty, c, 0.5), codes).shape == (B, K)


@pytest.mark.parametrize("name", helpers.CONSTRAINTS)
def test_projections_and_their_derivatives(name):
    constraint = helpers.CONSTRAINTS[name]
    with strict():
        for function in (constraint.project, constraint.scale):
            assert jax.eval_shape(jax.jacrev(function), array(P)).shape == (P, P)
        assert jax.eval_shape(jax.vmap(constraint.project), array(K, P), array(K)).shape == (K, P)


@pytest.mark.slow
def test_no_tracer_is_left_behind():
    """Of a scan of steps, over several solvers at once."""

    def learned(alpha, state, x):
        solver = make(penalty=mmf.Ridge(alpha), subset=mmf.UniformSubset(2), code_solver=None)
        return jax.lax.scan(solver.update, state, x)[0].dictionary

    state = jax.eval_shape(lambda x: make().init(KEY, samples=x), array(9, P))
    with jax.checking_leaks():
        found = jax.eval_shape(jax.vmap(learned, (0, None, None)), array(3), state, array(2, B, P))
    assert found.shape == (3, K, P)
