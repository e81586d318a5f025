"""Model files: what is written comes back; damaged and foreign files are told; a failed write harms nothing."""

import dataclasses
import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_changes import changed, without_line

import jax_mmf as mmf

DATA = Path(__file__).parent / "data"
X = np.random.default_rng(0).standard_normal((12, 32)).astype("float32")


def make(**options):
    return mmf.OnlineFactorization(
        **{"n_components": 4, "penalty": mmf.Lasso(0.1), "constraint": mmf.L2Ball()} | options
    )


def stepped(solver, x=X, key=None):
    state = solver.init(jax.random.key(1) if key is None else key, samples=x)
    memory = solver.init_memory(state, x.shape[0])
    return solver.update(state, x, memory=memory)[0]


def assert_same_state(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        key = jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key)
        numbers = jax.random.key_data if key else np.asarray
        np.testing.assert_array_equal(numbers(left), numbers(right))


PARTS = {
    "penalty": [mmf.Ridge(0.3, nonneg=True), mmf.Lasso(0.25, nonneg=True), mmf.ElasticNet(0.2, 0.7)],
    "constraint": [mmf.L1Ball(2.0, nonneg=True), mmf.ElasticNetBall(0.3, 1.5), mmf.Simplex(0.5), mmf.L2Ball(3)],
    "subset": [mmf.UniformSubset(2), mmf.BlockSubset(1.5, n_blocks=4), mmf.FullSubset()],
    "forgetting": [mmf.PowerForgetting(0.7), mmf.ConstantForgetting(0.01), mmf.ScaledForgetting(3)],
    "statistics": [mmf.FullStatistics(), mmf.AveragedStatistics(0.9), mmf.AveragedStatistics(gram="averaged")],
    "partial_b": [True],
    "dictionary_update": [mmf.BlockCoordinateDescent("cyclic", n_sweeps=2)],
    "code_solver": [
        mmf.Cholesky(),
        mmf.CoordinateDescent(tol=1e-4),
        mmf.FISTA(max_iter=50),
        mmf.ActiveSet(),
        mmf.UnrolledFISTA(7),
    ],
    "initialization": [mmf.RandomizedSVD(), mmf.KMeansPlusPlus(), mmf.RandomSamples()],
}
CASES = [(field, value) for field, values in PARTS.items() for value in values]


@pytest.mark.filterwarnings("ignore:subset has n_blocks")
@pytest.mark.parametrize(("field", "value"), CASES, ids=lambda v: str(v).replace(" ", ""))
def test_every_part_of_a_solver_comes_back(field, value, tmp_path):
    penalty = mmf.Lasso(0.1) if field == "code_solver" and value != mmf.Cholesky() else mmf.Ridge(0.1)
    solver = make(**{"subset": mmf.UniformSubset(2), "penalty": penalty} | {field: value})
    # A step has to be compiled for each solver: only for parts on which the arrays of a state depend.
    of_state = field in ("statistics", "partial_b", "dictionary_update")
    state = stepped(solver) if of_state else solver.init(jax.random.key(0), samples=X)
    history = [{"step": 1, "objective": float("nan")}, {"step": 2, "objective": 0.1 + 0.2}]
    mmf.save_model(tmp_path / "m.h5", solver, state, history)
    model = mmf.load_model(str(tmp_path / "m.h5"))
    assert model.solver == solver
    assert type(getattr(model.solver, field)) is type(value)
    assert_same_state(model.state, state)
    assert [(r.step, r.held_out) for r in model.history] == [(1, False), (2, True)]
    assert model.history[1].objective == 0.1 + 0.2
    assert np.isnan(model.history[0].objective)
    assert list(tmp_path.iterdir()) == [tmp_path / "m.h5"]


@pytest.mark.parametrize("partial_b", [False, True])
def test_arrays_of_every_dtype_come_back(partial_b, dtype, tmp_path):
    """At p = k, where the Gram matrix and the dictionary have one shape; k = 1 in one precision."""
    k = 1 if partial_b and dtype == "float32" else 4
    statistics = mmf.MaskedStatistics() if partial_b else mmf.FullStatistics()
    solver = make(n_components=k, penalty=mmf.Ridge(0.1), statistics=statistics, partial_b=partial_b)
    state = stepped(solver, X[:, :k].astype(dtype))
    mmf.save_model(tmp_path / "m.h5", solver, state)
    model = mmf.load_model(tmp_path / "m.h5")
    assert_same_state(model.state, state)
    assert model.state.dictionary.dtype == dtype
    assert model.history == []


@pytest.mark.parametrize("name", ["full", "partial"])
def test_files_of_version_1_are_read(name):
    """Written by the first commit of 0.1.0, whose partial B was B itself; the numbers beside are those it had."""
    want = json.loads((DATA / "model_version_1.json").read_text())[name]
    solver, state, history, run = mmf.load_model(DATA / f"model_version_1_{name}_b.h5")
    assert solver == mmf.OnlineFactorization(
        n_components=3,
        penalty=mmf.Lasso(0.1),
        constraint=mmf.L2Ball(),
        subset=mmf.UniformSubset(2.0),
        forgetting=mmf.ScaledForgetting(8.0),
        partial_b=name == "partial",
        dictionary_update=mmf.BlockCoordinateDescent(block_size=16),
    )
    assert jax.random.key_data(state.key).tolist() == jax.random.key_data(jax.random.key(1)).tolist()
    assert (int(state.step), int(state.n_samples)) == (want["step"], want["n"]) == (3, 12)
    for array, of in ((state.dictionary, "dictionary"), (state.gauge, "gauge"), (state.surrogate.c, "c")):
        np.testing.assert_array_equal(array, np.float32(want[of]))
    c, b, dictionary = (np.float64(want[of]) for of in ("c", "b", "dictionary"))
    if name == "full":
        np.testing.assert_array_equal(state.surrogate.b, np.float32(b))
        assert state.surrogate.partial is False
    else:
        np.testing.assert_allclose(state.surrogate.residual, b - c @ dictionary, atol=1e-6)
        np.testing.assert_array_equal(state.surrogate.feature_counts, want["counts"])
    assert run == {}
    assert history[1] == mmf.Record(3, 12, 1, 0.75, 384, 1.5, 1, held_out=True)
    assert history[0].held_out is False  # whose objective is NaN
    assert np.isfinite(solver.update(state, X[:4, :8])[0].dictionary).all()


@pytest.mark.parametrize(
    "key",
    [jax.random.key(7), jax.random.key(7, impl="rbg"), jax.random.PRNGKey(7), jax.random.key(2**31 + 5)],
    ids=["typed", "rbg", "raw", "large"],
)
def test_keys_come_back(key, tmp_path):
    state = stepped(make(), key=key)
    mmf.save_model(tmp_path / "m.h5", make(), state)
    loaded = mmf.load_model(tmp_path / "m.h5").state
    assert loaded.key.dtype == key.dtype
    assert_same_state(make().update(loaded, X)[0], make().update(state, X)[0])


@pytest.mark.parametrize(
    "solver",
    [
        make(n_components=np.int64(4)),
        make(subset=mmf.BlockSubset(np.float64(2), n_blocks=np.int32(20))),
        make(penalty=mmf.Lasso(np.float32(0.1)), constraint=mmf.L2Ball(nonneg=np.bool_(True))),
        make(penalty=mmf.Lasso(jnp.asarray(0.1))),
        make(code_solver=mmf.CoordinateDescent(max_iter=np.int64(50))),
        make(penalty=mmf.Lasso(np.array([0.1, 0.2, 0.3, 0.4]))),
        make(dictionary_update=mmf.BlockCoordinateDescent(n_sweeps=np.int64(2))),
    ],
    ids=["n_components", "subset", "scalars", "device", "max_iter", "array", "n_sweeps"],
)
def test_numbers_of_numpy_and_jax_in_the_configuration(solver, tmp_path):
    state = stepped(solver)
    mmf.save_model(tmp_path / "m.h5", solver, state)
    model = mmf.load_model(tmp_path / "m.h5")
    assert_same_state(model.solver.update(model.state, X)[0], solver.update(state, X)[0])
    for name in ("penalty", "constraint", "subset", "code_solver", "n_components", "dictionary_update"):
        got, want = (jax.tree.leaves(getattr(s, name)) for s in (model.solver, solver))
        for left, right in zip(got, want, strict=True):
            np.testing.assert_array_equal(np.asarray(left, "float32"), np.asarray(right, "float32"))
            assert np.issubdtype(np.asarray(left).dtype, np.integer) == np.issubdtype(
                np.asarray(right).dtype, np.integer
            )


def test_optimiser_state_comes_back_with_the_optimiser(tmp_path):
    solver = make(dictionary_update=mmf.GradientUpdate(optax.adam(1e-2)))
    state = stepped(solver)
    mmf.save_model(tmp_path / "m.h5", solver, state)
    assert_same_state(mmf.load_model(tmp_path / "m.h5", solver=solver).state, state)
    with pytest.raises(ValueError, match="solver="):
        mmf.load_model(tmp_path / "m.h5")


def test_optimiser_that_does_not_fit_the_file_is_refused(tmp_path):
    mmf.save_model(tmp_path / "m.h5", make(), stepped(make()))
    with pytest.raises(ValueError, match=r"m\.h5"):
        mmf.load_model(tmp_path / "m.h5", solver=make(dictionary_update=mmf.GradientUpdate(optax.adam(1e-2))))


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_double_precision_is_not_cut_silently(tmp_path):
    with jax.enable_x64(True):
        state = stepped(make(), X.astype("float64"))
        mmf.save_model(tmp_path / "m.h5", make(), state)
    with jax.enable_x64(False):
        try:
            dictionary = mmf.load_model(tmp_path / "m.h5").state.dictionary
        except (ValueError, TypeError, UserWarning) as error:
            dictionary = error
    told = isinstance(dictionary, Exception) and "float64" in str(dictionary)
    assert told or dictionary.dtype == "float64"


# Files that are no models


def written(path):
    mmf.save_model(path, make(), stepped(make()))
    return path


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        mmf.load_model(tmp_path / "none.h5")


@pytest.mark.parametrize("content", [b"", b"a text\n", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_files_of_other_kinds(content, tmp_path):
    (tmp_path / "m.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.h5 is not a model file"):
        mmf.load_model(tmp_path / "m.h5")


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_truncated_models(share, tmp_path):
    path = written(tmp_path / "m.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(mmf.BadFileError, match=r"m\.h5.*truncated"):
        mmf.load_model(path)


def test_hdf5_file_of_something_else(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["X"] = X
    with pytest.raises(ValueError, match=r"m\.h5 .* not a model"):
        mmf.load_model(tmp_path / "m.h5")


def drop(name):
    return lambda file: file.__delitem__(name)


def put(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def replace(name, value):
    def change(file):
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = value
        file[name].attrs.update(attributes)

    return change


DAMAGE = {
    "no dictionary": drop("dictionary"),
    "no key": drop("key"),
    "no step": drop("step"),
    "no statistics": drop("surrogate"),
    "no solver": lambda file: file.attrs.__delitem__("solver"),
    "no version": lambda file: file.attrs.__delitem__("format_version"),
    "newer version": put("format_version", 99),
    "solver is text": put("solver", "a text"),
    "history is text": put("history", "a text"),
    "solver is a number": put("solver", 3),
    "solver is of another class": put("solver", json.dumps({"class": "Lasso", "alpha": 0.1})),
    "solver has an unknown part": put("solver", json.dumps({"class": "os.system"})),
    "solver lacks a part": put("solver", json.dumps({"class": "OnlineFactorization", "n_components": 4})),
    "solver has an unknown option": put("solver", json.dumps({"class": "Lasso", "beta": 0.1})),
    "format is an array": put("format", ["a", "b"]),
    "version of before the first": put("format_version", -1),
    "many atoms": lambda file: file.attrs.__setitem__(
        "solver", file.attrs["solver"].replace("4,", "1000000000000,", 1)
    ),
    "history is a number": put("history", "3"),
    "run is a list": put("run", "[]"),
    "dictionary is a number": replace("dictionary", 1.0),
    "dictionary is 1-D": replace("dictionary", np.ones(32, "float32")),
    "dictionary is complex": replace("dictionary", np.ones((4, 32), "complex64")),
    "dictionary is of integers": replace("dictionary", np.ones((4, 32), "int32")),
    "dictionary is of text": replace("dictionary", "a text"),
    "dictionary holds NaN": replace("dictionary", np.full((4, 32), np.nan, "float32")),
    "dictionary has another k": replace("dictionary", np.ones((5, 32), "float32")),
    "b is narrower": replace("surrogate/b", np.ones((4, 31), "float32")),
    "b is of float16": replace("surrogate/b", np.ones((4, 32), "float16")),
    "c is not square": replace("surrogate/c", np.ones((4, 5), "float32")),
    "c holds infinity": replace("surrogate/c", np.full((4, 4), np.inf, "float32")),
    "gauge is longer": replace("gauge", np.ones(5, "float32")),
    "step is negative": replace("step", np.int32(-1)),
    "step is an array": replace("step", np.ones(2, "int32")),
    "n_samples is negative": replace("n_samples", np.int32(-1)),
    "key is too long": replace("key", np.ones(7, "uint32")),
    "key is a float": replace("key", np.ones(2, "float32")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_models_are_told_by_name(damage, tmp_path):
    path = written(tmp_path / "m.h5")
    with changed(path) as file:
        DAMAGE[damage](file)
    with pytest.raises(ValueError, match=r"m\.h5"):
        mmf.load_model(path)


@pytest.mark.parametrize(
    ("name", "value", "partial_b"),
    [("surrogate/residual", np.ones((4, 1), "float32"), True), ("surrogate/feature_counts", np.ones(3, "int32"), True)],
)
def test_damaged_statistics_of_partial_b(name, value, partial_b, tmp_path):
    solver = make(partial_b=partial_b)
    mmf.save_model(tmp_path / "m.h5", solver, stepped(solver))
    with changed(tmp_path / "m.h5") as file:
        replace(name, value)(file)
    with pytest.raises(ValueError, match=f"{name} must be"):
        mmf.load_model(tmp_path / "m.h5")


def test_damaged_gram_and_optimiser_state(tmp_path):
    solver = make(statistics=mmf.AveragedStatistics(0.9), dictionary_update=mmf.GradientUpdate(optax.adam(1e-2)))
    mmf.save_model(tmp_path / "m.h5", solver, stepped(solver))
    with changed(tmp_path / "m.h5") as file:
        gram, moments = file["gram"][...], file["update_state/1"][...]
        assert moments.shape == (4, 32)
        replace("gram", gram[1:])(file)
    with pytest.raises(ValueError, match="gram must be"):
        mmf.load_model(tmp_path / "m.h5", solver=solver)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        replace("gram", gram)(file)
        replace("update_state/1", moments[:, 1:])(file)
    with pytest.raises(ValueError, match="update_state/1 must be"):
        mmf.load_model(tmp_path / "m.h5", solver=solver)


def test_bfloat16_that_hdf5_does_not_know_is_named(tmp_path):
    path = written(tmp_path / "m.h5")
    with changed(path) as file:
        replace("dictionary", np.asarray(jnp.ones((4, 32), "bfloat16")))(file)
    with pytest.raises(ValueError, match=r"dictionary must hold .*bfloat16.*float32"):
        mmf.load_model(path)


# The history and the arguments of the run


def test_the_history_of_a_run_comes_back_as_it_was(tmp_path):
    result = mmf.fit(make(), X, key=jax.random.key(0), batch_size=3, held_out=3, evaluate_every=1)
    mmf.save_model(tmp_path / "m.h5", make(), result.state, result.history)
    assert mmf.load_model(tmp_path / "m.h5").history == result.history
    assert len(result.history) == 3


@pytest.mark.parametrize("line", [{"loss": 1.0}, (1, 2.0), "a text"])
def test_a_history_of_something_else_is_refused(line, tmp_path):
    with pytest.raises(TypeError, match="history must hold Records, or dictionaries with some of step, n_samples"):
        mmf.save_model(tmp_path / "m.h5", make(), stepped(make()), [line])
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_the_run_come_back_and_the_run_goes_on_with_them(tmp_path):
    run = {"batch_size": 3, "held_out": 0.25, "shuffle": False}
    half = mmf.fit(make(), X, key=jax.random.key(0), **run)
    mmf.save_model(tmp_path / "m.h5", make(), half.state, run=run | {"held_out": np.float64(0.25)})
    model = mmf.load_model(tmp_path / "m.h5")
    assert model.run == run
    got = mmf.fit(model.solver, X, state=model.state, n_epochs=2, **model.run)
    want = mmf.fit(make(), X, key=jax.random.key(0), n_epochs=2, **run)
    np.testing.assert_array_equal(got.state.dictionary, want.state.dictionary)
    assert got.history[-1].objective == want.history[-1].objective


def test_checkpoints_keep_the_arguments_of_the_run(tmp_path):
    run = {"batch_size": 6, "held_out": None}
    mmf.fit(make(), X, key=jax.random.key(0), callbacks=[mmf.Checkpoint(tmp_path / "m.h5", every=2, run=run)], **run)
    assert mmf.load_model(tmp_path / "m.h5").run == {"revive_every": None, "shuffle": True} | run


def test_files_of_before_have_no_arguments_of_the_run(tmp_path):
    path = written(tmp_path / "m.h5")
    with changed(path) as file:
        del file.attrs["run"]
    assert mmf.load_model(path).run == {}


def test_arrays_are_no_arguments_that_a_file_can_keep(tmp_path):
    with pytest.raises(TypeError, match="held_out"):
        mmf.save_model(tmp_path / "m.h5", make(), stepped(make()), run={"held_out": X})
    assert list(tmp_path.iterdir()) == []


# Names of other formats


@pytest.mark.parametrize("name", ["m.npz", "m.npy", "m.pkl", "m", "m.h5.bak"])
@pytest.mark.parametrize("what", ["model", "permuted"])
def test_names_of_other_formats_are_refused(what, name, tmp_path):
    write = {
        "model": lambda path: mmf.save_model(path, make(), stepped(make())),
        "permuted": lambda path: mmf.write_permuted(path, [X], key=jax.random.key(0)),
    }[what]
    with pytest.raises(ValueError, match=r"must end in \.h5 or \.hdf5.*call it m.*\.h5"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.hdf5", "m.H5"])
def test_other_names_of_hdf5_are_taken(name, tmp_path):
    assert mmf.load_model(written(tmp_path / name)).solver == make()


# Writing that fails


def assert_intact(path, content):
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fails_at", ["dictionary", "surrogate/b", "close"])
def test_full_disk_leaves_the_old_model(fails_at, tmp_path, monkeypatch):
    path = written(tmp_path / "m.h5")
    content = path.read_bytes()
    state = stepped(make(), X + 1)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    put_item, close = h5py.File.__setitem__, h5py.File.__exit__

    def failing_put(self, name, value):
        if name == fails_at:
            raise error
        put_item(self, name, value)

    def failing_close(self, *args):
        close(self, *args)
        if fails_at == "close":
            raise error

    monkeypatch.setattr(h5py.File, "__setitem__", failing_put)
    monkeypatch.setattr(h5py.File, "__exit__", failing_close)
    with pytest.raises(OSError, match="No space left"):
        mmf.save_model(path, make(), state)
    assert_intact(path, content)


def test_rename_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    path = written(tmp_path / "m.h5")
    content = path.read_bytes()

    def fail(self, target):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        mmf.save_model(path, make(), stepped(make(), X + 1))
    assert_intact(path, content)


LIMITED = """
import resource, sys
import jax, jax_mmf as mmf
solver = mmf.OnlineFactorization(n_components=4, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
state = solver.init(jax.random.key(0), dictionary=jax.numpy.ones((4, 100_000)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    mmf.save_model(sys.argv[1], solver, state)
except OSError as error:
    sys.exit(17)
"""


def test_file_that_really_can_not_grow_is_an_os_error_and_leaves_the_old_model(tmp_path):
    """A limit on the size of files stands in for a full disk; HDF5 meets it inside of the library."""
    path = written(tmp_path / "m.h5")
    content = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 17, done.stderr
    assert_intact(path, content)


@pytest.mark.parametrize(
    "make_path", [lambda t: t / "none" / "m.h5", lambda t: t / "file" / "m.h5", lambda t: t / "folder"]
)
def test_places_that_can_not_be_written(make_path, tmp_path):
    (tmp_path / "file").write_text("a text")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    path = make_path(tmp_path)
    with pytest.raises(OSError, match=path.name):
        mmf.save_model(path, make(), stepped(make()))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_folder_without_the_right_to_write(tmp_path):
    path = written(tmp_path / "m.h5")
    content = path.read_bytes()
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"m\.h5"):
        mmf.save_model(path, make(), stepped(make()))
    tmp_path.chmod(0o700)
    assert_intact(path, content)


def test_new_files_have_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    assert written(tmp_path / "m.h5").stat().st_mode == (tmp_path / "other").stat().st_mode


# Classes of the user's own

OWN = """
import dataclasses
import jax, jax.numpy as jnp
import jax_mmf as mmf


@mmf.register_configuration(name="own.GroupRidge")
@dataclasses.dataclass(frozen=True)
class GroupRidge:
    alpha: jax.Array  # one per group
    groups: tuple = dataclasses.field(metadata={"static": True})  # of the atoms
    total: float = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "total", 2.0)

    l1, nonneg = 0.0, False

    @property
    def l2(self):
        return jnp.asarray(self.alpha)[jnp.asarray(self.groups)]


@mmf.register_configuration(name="own.Ball")
@dataclasses.dataclass(frozen=True)
class Ball(mmf.L2Ball):
    label: str = dataclasses.field(default="b", metadata={"static": True})


@mmf.register_configuration(name="own.Halves", static=True)
@dataclasses.dataclass(frozen=True)
class Halves:
    share: float = 0.5

    def weight(self, n_before, batch_size):
        return jnp.where(n_before > 0, self.share, 1.0)
"""
AGAIN = """
import sys
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "import":
    import own_parts
import numpy as np
import jax_mmf as mmf
model = mmf.load_model(sys.argv[1] + "/m.h5")
print(model.solver)
np.save(sys.argv[1] + "/d.npy", model.solver.update(model.state, np.load(sys.argv[1] + "/x.npy"))[0].dictionary)
"""


def test_registered_classes_of_the_users_own_come_back_here_and_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_parts")
    penalty = own.GroupRidge(jnp.array([0.1, 0.5]), (0, 0, 1, 1))
    solver = make(penalty=penalty, constraint=own.Ball(2.0, label="é"), forgetting=own.Halves(0.25))
    state = stepped(solver)
    mmf.save_model(tmp_path / "m.h5", solver, state)
    model = mmf.load_model(tmp_path / "m.h5")
    np.testing.assert_array_equal(np.float32(model.solver.penalty.alpha), penalty.alpha)
    assert model.solver.penalty.groups == penalty.groups
    assert model.solver.constraint == solver.constraint
    assert model.solver.forgetting == solver.forgetting
    assert [type(getattr(model.solver, n)) for n in ("penalty", "constraint", "forgetting")] == [
        own.GroupRidge,
        own.Ball,
        own.Halves,
    ]
    want = solver.update(state, X)[0].dictionary
    np.testing.assert_array_equal(model.solver.update(model.state, X)[0].dictionary, want)

    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-c", AGAIN, str(tmp_path)]
    done = subprocess.run([*command, "import"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "GroupRidge(" in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), want)
    unknown = subprocess.run([*command, "no import"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 1
    assert "'own.GroupRidge', and no class is registered under this name: import the module" in unknown.stderr


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lasso(mmf.Lasso):
    """Of the same name as that of the library."""


@mmf.register_configuration
@dataclasses.dataclass(frozen=True)
class Nameless(mmf.PowerForgetting):
    """Registered, but without a name in files."""


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"penalty": Lasso(0.1)}, "Lasso"),
        ({"forgetting": Nameless()}, "Nameless"),
    ],
)
def test_classes_without_a_name_are_refused_with_what_to_do(options, name, tmp_path):
    path = written(tmp_path / "m.h5")
    content = path.read_bytes()
    with pytest.raises(
        TypeError, match=rf'model file can\'t hold {name}.*register_configuration\(name="mylab.{name}"\)'
    ):
        mmf.save_model(path, make(**options), stepped(make()))
    assert_intact(path, content)


def test_a_relative_alpha_is_not_saved_before_it_is_a_number(tmp_path):
    solver = make(penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)))
    result = mmf.fit(solver, X, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"result\.solver"):
        mmf.save_model(tmp_path / "m.h5", solver, result.state)
    mmf.save_model(tmp_path / "m.h5", result.solver, result.state)
    np.testing.assert_allclose(mmf.load_model(tmp_path / "m.h5").solver.penalty.alpha, result.solver.penalty.alpha)


# Checksums


def test_a_changed_file_is_told_by_its_checksum(tmp_path):
    path = written(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file["dictionary"][0, 0] += 1
    with pytest.raises(mmf.BadFileError, match=r"m\.h5 is damaged .*checksum"):
        mmf.load_model(path)


def test_a_file_without_its_checksum_is_refused_and_one_of_before_is_read(tmp_path):
    path = written(tmp_path / "m.h5")
    want = mmf.load_model(path).state
    content = path.read_bytes()
    without_line(path)
    with pytest.raises(mmf.BadFileError, match=r"m\.h5 is damaged: its checksum is missing"):
        mmf.load_model(path)
    path.write_bytes(content)
    with changed(path):
        pass
    assert_same_state(mmf.load_model(path).state, want)


def test_other_programs_read_a_file_with_a_checksum(tmp_path):
    path = written(tmp_path / "m.h5")
    assert path.read_bytes().split(b"\n")[0].startswith(b"jax-mmf file, blake2b of the bytes after the first 512: ")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["dictionary"], mmf.load_model(path).state.dictionary)
        assert "solver" in file.attrs


@pytest.mark.parametrize("kind", ["external link", "soft link loop", "external storage", "gzip bomb", "virtual"])
def test_arrays_that_are_not_what_they_seem(kind, tmp_path):
    path = written(tmp_path / "m.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["X"] = np.ones((4, 32), "float32")
    with changed(path) as file:
        del file["dictionary"]
        if kind == "external link":
            file["dictionary"] = h5py.ExternalLink("other.h5", "/X")
        elif kind == "soft link loop":
            file["a"], file["dictionary"] = h5py.SoftLink("/dictionary"), h5py.SoftLink("/a")
        elif kind == "external storage":
            (tmp_path / "raw").write_bytes(bytes(512))
            file.create_dataset("dictionary", (4, 32), "float32", external=[("raw", 0, 512)])
        elif kind == "gzip bomb":
            data = file.create_dataset("dictionary", (4, 2**24), "float32", chunks=(4, 2**24), compression="gzip")
            data[:, :1] = 1
        else:
            layout = h5py.VirtualLayout((4, 32), "float32")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "X", (4, 32))
            file.create_virtual_dataset("dictionary", layout)
    words = {
        "external link": "link to another file",
        "soft link loop": "leads to itself",
        "gzip bomb": "promises 268,435,456 bytes",
    }
    with pytest.raises(mmf.BadFileError, match=rf"m\.h5 .*{words.get(kind, 'refers to other files')}"):
        mmf.load_model(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("history", "[" * 100_000),
        ("history", json.dumps([{"step": "one"}])),
        ("history", json.dumps([3])),
        ("run", json.dumps({"batch_size": [1]})),
        ("solver", '{"class": "tuple", "items": ' * 5000 + "1" + "}" * 5000),
    ],
)
def test_strange_texts(name, value, tmp_path):
    path = written(tmp_path / "m.h5")
    with changed(path) as file:
        del file.attrs[name]
        file.attrs.create(name, value, dtype=h5py.string_dtype())
    with pytest.raises(mmf.BadFileError, match=r"m\.h5"):
        mmf.load_model(path)
