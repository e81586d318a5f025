"""Everything public can be pickled and copied, and is the same afterwards."""

import copy
import inspect
import io
import pickle

import jax
import jax.numpy as jnp
import joblib
import numpy as np
import optax
import pytest
from sklearn.base import clone

import jax_mmf as mmf


def a_run():
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball())
    state = solver.init(jax.random.key(1), samples=x)
    return solver, *solver.update(state, x)


SOLVER, STATE, INFO = a_run()
RECORD = mmf.Record(1, 20, 1, 0.5, 480, 1.0, 0)
OBJECTS = {
    "ActiveSet": mmf.ActiveSet(),
    "AveragedStatistics": mmf.AveragedStatistics(0.8),
    "Best": mmf.Best(STATE, RECORD),
    "BlockCoordinateDescent": mmf.BlockCoordinateDescent("cyclic"),
    "BlockSubset": mmf.BlockSubset(2, 4),
    "Checkpoint": mmf.Checkpoint("model.h5", every=10),
    "Cholesky": mmf.Cholesky(),
    "ConstantForgetting": mmf.ConstantForgetting(0.1),
    "CoordinateDescent": mmf.CoordinateDescent(tol=1e-5),
    "EarlyStopping": mmf.EarlyStopping(3),
    "ElasticNet": mmf.ElasticNet(0.1, 0.3),
    "ElasticNetBall": mmf.ElasticNetBall(0.3, 2.0, nonneg=True),
    "FISTA": mmf.FISTA(),
    "FitResult": mmf.FitResult(STATE, [RECORD], None, SOLVER, "epochs"),
    "FullStatistics": mmf.FullStatistics(),
    "FullSubset": mmf.FullSubset(),
    "Info": INFO,
    "JSONLines": mmf.JSONLines("log.jsonl"),
    "KMeansPlusPlus": mmf.KMeansPlusPlus(),
    "L1Ball": mmf.L1Ball(2.0),
    "L2Ball": mmf.L2Ball(2.0),
    "Lasso": mmf.Lasso(0.1),
    "SimplexCodes": mmf.SimplexCodes(2.0),
    "MaskedStatistics": mmf.MaskedStatistics(),
    "SubsampledStatistics": mmf.SubsampledStatistics(mmf.UniformSubset(2.0)),
    "Memory": mmf.AveragedStatistics().init_memory(4, 3, jnp.dtype("float32")),
    "OnlineFactorization": SOLVER,
    "PowerForgetting": mmf.PowerForgetting(0.8),
    "ProjectedGradient": mmf.ProjectedGradient(2),
    "RandomSamples": mmf.RandomSamples(),
    "RandomizedSVD": mmf.RandomizedSVD(),
    "Record": RECORD,
    "RelativeAlpha": mmf.RelativeAlpha(0.2),
    "Ridge": mmf.Ridge(0.1, nonneg=True),
    "ScaledForgetting": mmf.ScaledForgetting(3.0),
    "Simplex": mmf.Simplex(2.0),
    "SolveInfo": mmf.encode_with_info(STATE.dictionary, np.ones((2, 6)), mmf.Ridge(0.1))[1],
    "Start": mmf.Start(SOLVER, 20, 6, np.dtype("float32"), 2, 0, None),
    "State": STATE,
    "Subset": mmf.BlockSubset(2, 2).draw(jax.random.key(0), jnp.int32(0), 13),
    "SubsetPerShare": mmf.SubsetPerShare(mmf.BlockSubset(2), 4),
    "UniformSubset": mmf.UniformSubset(2),
    "UnrolledFISTA": mmf.UnrolledFISTA(3),
}
NOT_ALONE = {
    "BadFileError",
    "ConvergenceWarning",
    "Event",
    "GradientUpdate",
    "ProgressBar",
}  # errors, and of a run under way; tested below


def through_joblib(value):
    buffer = io.BytesIO()
    joblib.dump(value, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "joblib": through_joblib,
    "sklearn.base.clone": lambda value: clone(value, safe=False),
}


def numbers_of(leaf):
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def test_the_table_is_complete():
    public = {name: getattr(mmf, name) for name in mmf.__all__}
    classes = {n for n, v in public.items() if inspect.isclass(v) and not getattr(v, "_is_protocol", False)}
    assert classes == set(OBJECTS) | NOT_ALONE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OBJECTS)
def test_what_comes_back_is_the_same(name, way):
    value = OBJECTS[name]
    again = WAYS[way](value)
    assert type(again) is type(value)
    if type(value) in (mmf.EarlyStopping, mmf.Checkpoint, mmf.JSONLines):
        assert vars(again) == vars(value)
        return
    assert jax.tree.structure(again) == jax.tree.structure(value)
    if isinstance(value, mmf.Start):  # of which not all is numbers
        assert again == value
        return
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(value), strict=True):
        np.testing.assert_array_equal(numbers_of(one), numbers_of(other))


def test_clone_of_scikit_learn_takes_solvers_without_being_told_to():
    """A solver is frozen: a clone is the solver itself."""
    assert clone(SOLVER) is SOLVER


def test_a_run_goes_on_from_a_pickled_state_bit_for_bit():
    solver, state = pickle.loads(pickle.dumps((SOLVER, STATE)))
    x = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    np.testing.assert_array_equal(solver.update(state, x)[0].dictionary, SOLVER.update(STATE, x)[0].dictionary)


def test_a_state_of_numpy_arrays_and_back():
    """As its docstring says."""
    arrays = jax.tree.map(np.asarray, STATE._replace(key=jax.random.key_data(STATE.key)))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(arrays))
    back = jax.tree.map(jnp.asarray, arrays)._replace(key=jax.random.wrap_key_data(arrays.key))
    x = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    np.testing.assert_array_equal(SOLVER.update(back, x)[0].dictionary, SOLVER.update(STATE, x)[0].dictionary)


def test_updates_by_optax_are_copied_and_go_through_cloudpickle():
    update = mmf.GradientUpdate(optax.adam(1e-2))
    assert copy.deepcopy(update) == update
    cloudpickle = pytest.importorskip("cloudpickle")
    again = pickle.loads(cloudpickle.dumps(update))
    dictionary = jnp.ones((2, 3))
    assert jax.tree.structure(again.init(dictionary)) == jax.tree.structure(update.init(dictionary))
