"""Codes, objective and explained variance of sources are those of the array, read a batch at a time."""

import threading
import warnings
from types import SimpleNamespace

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf import codes as of_arrays
from jax_mmf.codes import encoding as coding
from jax_mmf.io import HDF5Source, as_source
from jax_mmf.training.batches import Batches, _default_size, is_source

N, P, K, BATCH = 50, 12, 5, 16
KEY = jax.random.key(0)
PENALTY = mmf.Lasso(0.3)


def data(dtype="float32"):
    rng = np.random.default_rng(0)
    dictionary = rng.standard_normal((K, P))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return dictionary.astype(dtype), (rng.standard_normal((N, P)) * 2).astype(dtype)


D, X = data()


class Rows:
    """An array of a library that nobody has heard of."""

    def __init__(self, x):
        self._x, self.shape, self.chunks = x, x.shape, (7, P)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._x[rows]


class Own:
    """A source of a user's own, which notes what is read."""

    permutation, rows_per_read, bytes_read = None, 1, 0

    def __init__(self, x):
        self._x, self.n_samples, self.n_features, self.dtype = x, *x.shape, x.dtype
        self.reads, self.threads = [], set()

    def read(self, rows, columns=None):
        self.reads.append(rows.size)
        self.threads.add(threading.current_thread())
        return self._x[rows] if columns is None else self._x[np.ix_(rows, columns)]


def memory_map(folder, x, name="x.raw"):
    x.tofile(folder / name)
    return np.memmap(folder / name, x.dtype, "r", shape=x.shape)


def saved(folder, x):
    np.save(folder / "x.npy", x)
    return mmf.open_source(folder / "x.npy")


def archived(folder, x):
    np.savez(folder / "x.npz", x=x)
    return mmf.open_source(folder / "x.npz")


def data_set(folder, x, name="X", **options):
    with h5py.File(folder / "x.h5", "a") as file:
        file.create_dataset(name, data=x, **options)
    return h5py.File(folder / "x.h5")[name]


def permuted(folder, x, name="permuted.h5"):
    mmf.write_permuted(folder / name, x, key=KEY, block_width=4, rows_per_chunk=8)
    source = mmf.open_source(folder / name)
    assert (source.permutation != np.arange(P)).any()
    return source


def sparse(name):
    return lambda folder, x: getattr(pytest.importorskip("scipy.sparse"), name)(x)


def frames(folder, x):
    return (pytest.importorskip("pandas").DataFrame(part) for part in np.split(x, [20, 21]))


KINDS = {
    "npy": saved,
    "npy in Fortran order": lambda folder, x: saved(folder, np.asfortranarray(x)),
    "npz": archived,
    "memory map": memory_map,
    "memory map, big-endian": lambda folder, x: memory_map(folder, x.astype(x.dtype.newbyteorder(">"))),
    "h5": lambda folder, x: HDF5Source(data_set(folder, x)),
    "h5py": data_set,
    "h5py, chunks": lambda folder, x: data_set(folder, x, chunks=(6, 5), compression="gzip"),
    "permuted": permuted,
    "csr": sparse("csr_array"),
    "coo": sparse("coo_matrix"),
    "sliced": lambda folder, x: Rows(x),
    "own": lambda folder, x: Own(x),
    "list of batches": lambda folder, x: np.split(x, [20, 21]),
    "iterator": lambda folder, x: iter(np.split(x, [20, 21])),
    "frames": frames,
    "batches of sparse matrices": lambda folder, x: [sparse("csr_array")(folder, part) for part in np.split(x, 2)],
}


def close(got, want, dtype):
    """Equal up to rounding: XLA adds up a product in another order if a batch has another number of rows."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_what_the_array_gives(kind, dtype, tmp_path):
    d, x = data(dtype)
    source = lambda: KINDS[kind](folder, x)
    calls = {
        "encode": lambda v, **o: mmf.encode(d, v, PENALTY, solver=mmf.ActiveSet(1e-14), **o),
        "info": lambda v, **o: mmf.encode_with_info(d, v, PENALTY, solver=mmf.ActiveSet(1e-14), **o)[0],
        "objective": lambda v, **o: mmf.objective(d, v, PENALTY, **o),
        "share": lambda v, **o: mmf.explained_variance(d, v, PENALTY, **o),
        "share of codes": lambda v, **o: mmf.explained_variance(d, v, np.ones((N, K), dtype), **o),
    }
    for name, call in calls.items():
        folder = tmp_path / name
        folder.mkdir()
        want, got = call(x), call(source(), batch_size=BATCH)
        assert isinstance(got, np.ndarray if name in ("encode", "info") else jax.Array)
        assert (got.dtype, got.shape) == (dtype, want.shape)
        close(got, want, dtype)


@pytest.mark.parametrize("kind", ["memory map", "own", "csr"])
def test_one_batch_gives_the_bits_of_the_array(kind, tmp_path):
    source = KINDS[kind](tmp_path, X)
    want, info = of_arrays.encode_with_info(D, X, PENALTY)
    got = mmf.encode_with_info(D, source, PENALTY)
    jax.tree.map(np.testing.assert_array_equal, got, (want, info))
    assert isinstance(got[1], mmf.SolveInfo)
    assert mmf.objective(D, source, PENALTY) == of_arrays.objective(D, X, PENALTY)
    assert mmf.explained_variance(D, source, PENALTY) == of_arrays.explained_variance(D, X, PENALTY)


@pytest.mark.parametrize(("n", "batch_size"), [(1, None), (1, 16), (N, N + 1), (N, 1), (33, 16)])
def test_any_number_of_samples_and_any_size_of_batches(n, batch_size):
    x, source = X[:n], Own(X[:n])
    close(mmf.encode(D, source, PENALTY, batch_size=batch_size), mmf.encode(D, x, PENALTY), "float32")
    close(mmf.objective(D, source, PENALTY, batch_size=batch_size), mmf.objective(D, x, PENALTY), "float32")
    close(
        mmf.explained_variance(D, source, PENALTY, batch_size=batch_size),
        mmf.explained_variance(D, x, PENALTY),
        "float32",
    )
    assert source.reads[0] == min(batch_size or n, n)


@pytest.mark.parametrize("penalty", [mmf.Ridge(0.2), mmf.Lasso(np.linspace(0.1, 0.5, K, dtype="float32"), nonneg=True)])
def test_penalties_and_solvers(penalty):
    solver = mmf.FISTA(1e-12) if isinstance(penalty, mmf.Lasso) else None
    options = {"solver": solver} if solver else {}
    for call in (mmf.encode, mmf.objective, mmf.explained_variance):
        got, want = call(D, Own(X), penalty, batch_size=BATCH, **options), call(D, X, penalty, **options)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["own", "permuted", "iterator"])
def test_codes_start_where_the_user_says(kind, tmp_path):
    start = np.random.default_rng(3).standard_normal((N, K)).astype("float32")
    solver = mmf.UnrolledFISTA(1)  # whose codes are still near the start
    want = mmf.encode(D, X, PENALTY, init=start, solver=solver)
    for number, init in enumerate((start, jnp.asarray(start), Own(start))):
        (tmp_path / str(number)).mkdir()
        x = KINDS[kind](tmp_path / str(number), X)
        close(mmf.encode(D, x, PENALTY, init=init, solver=solver, batch_size=BATCH), want, "float32")


# Where codes are written


def places(folder):
    file = h5py.File(folder / "codes.h5", "w")
    return [
        np.empty((N, K), "float32"),
        np.empty((N, K), "float64"),
        np.empty((K, N), "float16").T,
        np.memmap(folder / "codes.raw", "float32", "w+", shape=(N, K)),
        file.create_dataset("codes", (N, K), "float32", chunks=(3, 2)),
    ]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("kind", ["own", "iterator", "array", "jax"])
def test_codes_are_written_where_the_user_says(kind, which, tmp_path):
    x = {"array": lambda: X, "jax": lambda: jnp.asarray(X)}.get(kind, lambda: KINDS[kind](tmp_path, X))()
    out = places(tmp_path)[which]
    assert mmf.encode(D, x, PENALTY, out=out, batch_size=BATCH) is out
    np.testing.assert_allclose(out[...], mmf.encode(D, X, PENALTY), atol=2e-3 if which == 2 else 1e-5)
    if kind == "own" and which == 0:
        same, info = mmf.encode_with_info(D, x, PENALTY, out=out)
        assert same is out
        assert info.gap.shape == (N,)


def test_codes_and_samples_may_be_in_one_file(tmp_path):
    """One thread reads while another one writes."""
    with h5py.File(tmp_path / "both.h5", "w") as file:
        x, codes = file.create_dataset("X", data=X), file.create_dataset("codes", (N, K), "float32")
        mmf.encode(D, x, PENALTY, out=codes, batch_size=2)
        close(codes[...], mmf.encode(D, X, PENALTY), "float32")
        want = mmf.explained_variance(D, X, PENALTY)
        close(mmf.explained_variance(D, x, codes, batch_size=7), want, "float32")


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (
            np.empty((N + 1, K)),
            ValueError,
            r"out must have shape \(n_samples, n_components\) = \(50, 5\), got \(51, 5\)",
        ),
        (np.empty((N, P)), ValueError, r"\(50, 5\), got \(50, 12\)"),
        (np.empty((N, K, 1)), ValueError, r"\(50, 5\), got \(50, 5, 1\)"),
        (np.empty((N, K), int), TypeError, "out must have a floating dtype.*int64"),
        (jnp.empty((N, K)), TypeError, "out must be an array that can be written to"),
        ([], TypeError, "out must be an array that can be written to.*list"),
        ("codes.h5", TypeError, "out must be an array that can be written to.*str"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str | type) else "",
)
def test_places_that_codes_do_not_fit_in(out, error, words):
    source = Own(X)
    with pytest.raises(error, match=words):
        mmf.encode(D, source, PENALTY, out=out)
    assert source.reads == []


@pytest.mark.parametrize("rows", [N - 1, N + 1])
def test_places_for_a_number_of_samples_that_only_the_end_tells(rows):
    with pytest.raises(ValueError, match=f"out must have.*{rows}"):
        mmf.encode(D, iter(np.split(X, 2)), PENALTY, out=np.empty((rows, K)))


# Masks


def own_mask(dtype=bool):
    return (np.random.default_rng(2).random((N, P)) < 0.7).astype(dtype)


MASKS = {
    "shared": lambda folder: np.arange(P) % 3 > 0,
    "shared weights": lambda folder: np.linspace(0, 1, P),
    "array": lambda folder: own_mask(),
    "list": lambda folder: own_mask(int).tolist(),
    "memory map": lambda folder: memory_map(folder, own_mask("uint8"), "mask.raw"),
    "h5py": lambda folder: data_set(folder, own_mask(), "mask"),
    "permuted": lambda folder: permuted(folder, own_mask("float32"), "mask.h5"),
}


@pytest.mark.parametrize("kind", ["own", "permuted", "iterator"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_hide_what_is_missing(mask, kind, tmp_path):
    weights = MASKS["array" if mask in ("list", "memory map", "h5py", "permuted") else mask](tmp_path)
    x = np.where(weights == 0, np.float32(np.nan), X)
    want = mmf.encode(D, X, mmf.Ridge(0.2), mask=weights)
    given = MASKS[mask](tmp_path)
    if mask == "permuted" and kind == "permuted":  # in another order than the samples
        mmf.write_permuted(tmp_path / "mask.h5", own_mask("float32"), key=jax.random.key(7))
        given = mmf.open_source(tmp_path / "mask.h5")
    got = mmf.encode(D, KINDS[kind](tmp_path, x), mmf.Ridge(0.2), mask=given, batch_size=BATCH)
    close(got, want, "float32")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mask": np.ones(P + 1)}, ValueError, "mask must have shape"),
        ({"mask": np.ones((N, P + 1))}, ValueError, "mask must have shape"),
        ({"mask": np.ones((1, P))}, ValueError, "mask must have|mask must have a row"),
        ({"mask": np.ones((N + 1, P))}, ValueError, "mask must have"),
        ({"mask": -np.ones((N, P))}, ValueError, "mask must hold weights >= 0"),
        ({"mask": -np.ones(P)}, ValueError, "mask must hold weights >= 0"),
        ({"mask": iter([np.ones((N, P))])}, TypeError, "mask must be a matrix"),
        ({"mask": "all"}, TypeError, "mask must be"),
        ({"init": np.ones((N, K + 1))}, ValueError, "init must have shape"),
        ({"init": np.ones((N - 1, K))}, ValueError, "init must have"),
        ({"init": np.ones((N + 1, K))}, ValueError, "init must have"),
        ({"init": np.full((N, K), np.nan)}, ValueError, "init holds nan"),
        ({"init": np.ones(K)}, ValueError, "init must"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ({"solver": "lars"}, TypeError, "solver must be"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
@pytest.mark.parametrize("kind", ["own", "iterator"])
def test_arguments_that_do_not_fit(kind, options, error, words):
    with pytest.raises(error, match=words):
        mmf.encode(D, KINDS[kind](None, X), PENALTY, **options)


# Errors in the data


@pytest.mark.parametrize("kind", ["npy", "h5py", "permuted", "list of batches", "iterator", "frames", "own"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_numbers_are_named(kind, value, tmp_path):
    x = X.copy()
    x[43, 7] = value
    for number, call in enumerate((mmf.encode, mmf.objective, mmf.explained_variance)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ValueError, match=f"holds {value} at sample 43, feature 7;"):
            call(D, KINDS[kind](folder, x), PENALTY, batch_size=BATCH)


def test_bad_numbers_beside_a_mask_are_named(tmp_path):
    x, mask = X.copy(), np.ones((N, P))
    x[10, 2] = x[43, 7] = np.nan
    mask[10, 2] = 0
    with pytest.raises(ValueError, match="holds nan at sample 43, feature 7;"):
        mmf.encode(D, permuted(tmp_path, x), PENALTY, mask=mask, batch_size=BATCH)


def test_numbers_that_the_dtype_does_not_hold():
    with pytest.raises(ValueError, match="1e\\+300, too large for float32, at sample 0, feature 0"):
        mmf.encode(D, Own(np.full((N, P), 1e300)), PENALTY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [mmf.encode, mmf.objective, mmf.explained_variance])
def test_another_width_is_an_error(call, kind, tmp_path):
    with pytest.raises(ValueError, match=r"x must have shape \(n_samples, n_features\) = \(any, 11\), got \(.*12\)"):
        call(D[:, 1:], KINDS[kind](tmp_path, X), PENALTY)


def test_batches_that_change_are_errors():
    with pytest.raises(ValueError, match=r"x must have shape .*, got \(20, 11\)"):
        mmf.encode(D, [X, X[:20, 1:]], PENALTY)
    frame = pytest.importorskip("pandas").DataFrame(X, columns=list("abcdefghijkl"))
    with pytest.raises(ValueError, match="batch 1 of x must have the columns"):
        mmf.encode(D, [frame, frame[list("bacdefghijkl")]], PENALTY)


def test_batches_are_iterated_over_as_fit_does():
    batches = iter(np.split(X, 2))
    mmf.encode(D, batches, PENALTY)
    for call in (mmf.encode, mmf.objective, mmf.explained_variance):
        with pytest.raises(ValueError, match="x must give at least one batch"):
            call(D, batches, PENALTY)

    def broken():
        yield X
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        mmf.encode(D, broken(), PENALTY)
    assert caught.value.__notes__ == ["x raised this error at batch 1."]


def test_buffers_may_be_filled_again():
    """Reading ahead does not change the batch that is computed with."""
    buffer = np.empty((2, P), "float32")

    def batches():
        for part in np.split(X, N // 2):
            buffer[:] = part
            yield buffer

    class Reused(Own):
        def read(self, rows, columns=None):
            buffer[:] = self._x[rows]
            return buffer

    want = mmf.encode(D, X, PENALTY)
    for x in (batches(), Reused(X)):
        close(mmf.encode(D, x, PENALTY, batch_size=2), want, "float32")
    close(mmf.encode(D, X, PENALTY, mask=Reused(np.ones_like(X)), batch_size=2), want, "float32")


def test_warnings_point_at_the_caller(tmp_path):
    with pytest.warns(UserWarning, match="x gives one sample at a time") as caught:
        close(mmf.encode(D, iter(X), PENALTY), mmf.encode(D, X, PENALTY), "float32")
    assert caught[0].filename == __file__


def test_generators_are_closed_and_threads_end():
    closed = []

    class Endless:
        def __iter__(self):
            try:
                while True:
                    yield X
            finally:
                closed.append(True)

    before = threading.active_count()
    with pytest.raises(ValueError, match="out must have a row for each sample of x; it has 120 rows, and x has more"):
        mmf.encode(D, Endless(), PENALTY, out=np.empty((120, K)))
    assert closed == [True]
    assert threading.active_count() == before


def test_sources_that_break_their_promises():
    source = Own(X)
    source.read = lambda rows, columns=None: X[:3]
    with pytest.raises(
        ValueError, match=r"x.read must give an array of shape \(50, 12\) for these rows and columns, got \(3, 12\)"
    ):
        mmf.encode(D, source, PENALTY)
    source.read = lambda rows, columns=None: np.full((rows.size, P), "a")
    with pytest.raises(TypeError, match=r"x.read\(rows\) must hold real numbers; got dtype <U1"):
        mmf.encode(D, source, PENALTY)
    source = Own(X)
    source.permutation = np.arange(P - 1)
    with pytest.raises(ValueError, match=r"permutation of x must have shape .*12.*11"):
        mmf.encode(D, source, PENALTY)
    source.permutation = np.zeros(P, int)
    with pytest.raises(ValueError, match="each of 0 to p - 1 once"):
        mmf.encode(D, source, PENALTY)


def test_closed_files_are_errors(tmp_path):
    source = saved(tmp_path, X)
    source.close()
    with pytest.raises(ValueError, match="was closed"):
        mmf.encode(D, source, PENALTY)
    rows = data_set(tmp_path, X)
    rows.file.close()
    with pytest.raises(ValueError, match="was closed"):
        mmf.encode(D, rows, PENALTY)


@pytest.mark.parametrize("codes", [np.ones((N, K + 1)), np.ones((N - 1, K)), np.ones((N + 1, K))])
@pytest.mark.parametrize("kind", ["own", "iterator"])
def test_codes_must_fit(kind, codes):
    with pytest.raises(ValueError, match="codes must have"):
        mmf.explained_variance(D, KINDS[kind](None, X), codes, batch_size=BATCH)
    for nothing in (None, "lasso"):
        with pytest.raises(TypeError, match="codes must be an array"):
            mmf.explained_variance(D, KINDS[kind](None, X), nothing)
    with pytest.raises(TypeError, match="codes must be a matrix"):
        mmf.explained_variance(D, KINDS[kind](None, X), iter([codes]))


# Which data are streamed


def test_arrays_go_through_bit_for_bit(monkeypatch):
    """Nothing is read in batches, whatever the array is."""
    monkeypatch.setattr(Batches, "__init__", lambda *args, **options: pytest.fail("streamed"))
    pandas = pytest.importorskip("pandas")
    for x in (X, jnp.asarray(X), X.tolist(), list(X), X[0], list(X[0]), pandas.DataFrame(X), X.astype(">f8"), X[:0]):
        want, info = of_arrays.encode_with_info(D, x, PENALTY)
        got = mmf.encode(D, x, PENALTY)
        assert isinstance(got, jax.Array)
        np.testing.assert_array_equal(got, want)
        jax.tree.map(np.testing.assert_array_equal, mmf.encode_with_info(D, x, PENALTY)[1], info)
    assert mmf.objective(D, X, PENALTY) == of_arrays.objective(D, X, PENALTY)
    assert mmf.explained_variance(D, X, PENALTY) == of_arrays.explained_variance(D, X, PENALTY)


def test_kinds_of_data_that_are_streamed(tmp_path):
    for kind, make in KINDS.items():
        folder = tmp_path / kind
        folder.mkdir()
        assert is_source(make(folder, X)), kind
        assert is_source(as_source(make(folder, X) if kind not in ("h5", "h5py", "h5py, chunks") else X)), kind
    mapped = memory_map(tmp_path, X)
    assert is_source(mapped[:10])
    arrays = (X, jnp.asarray(X), mapped[0], mapped[[1, 2]], np.asarray(mapped), X.tolist(), list(X), memoryview(X))
    for x in (
        *arrays,
        [],
        range(3),
        3.0,
        np.float32(3),
        b"x",
        None,
        {"x": X},
        {1.0},
        np.ndarray,
        np.ma.array(X),
    ):
        assert not is_source(x), type(x)
    np.testing.assert_array_equal(mmf.encode(D, mapped[0], PENALTY), mmf.encode(D, X[0], PENALTY))
    np.testing.assert_array_equal(mmf.encode(D, data_set(tmp_path, X[0]), PENALTY), mmf.encode(D, X[0], PENALTY))


def test_paths_are_to_be_opened(tmp_path):
    for path in (tmp_path / "x.npy", "x.npy"):
        with pytest.raises(TypeError, match="x must be .*; got a path; open it with jax_mmf.open_source"):
            mmf.encode(D, path, PENALTY)


def test_no_samples_have_no_codes(tmp_path):
    for x in (data_set(tmp_path, X[:0]), sparse("csr_array")(tmp_path, X[:0])):
        assert mmf.encode(D, x, PENALTY).shape == (0, K)
        for call in (mmf.objective, mmf.explained_variance):
            with pytest.raises(ValueError, match="x must hold at least one sample"):
                call(D, x, PENALTY)


def test_data_of_more_axes_are_refused_before_they_are_read(tmp_path):
    cubes = np.zeros((4, 3, P), "float32")
    for x in (memory_map(tmp_path, cubes), data_set(tmp_path, cubes)):
        with pytest.raises(ValueError, match=r"must be 2-D.*\(4, 3, 12\)"):
            mmf.encode(D, x, PENALTY)


def test_memory_maps_are_loaded_for_derivatives(tmp_path):
    ridge = mmf.Ridge(0.2)
    for x in (memory_map(tmp_path, X), data_set(tmp_path, X)):
        slope = jax.grad(lambda d, x=x: mmf.objective(d, x, ridge))(jnp.asarray(D))
        close(slope, jax.grad(lambda d: mmf.objective(d, X, ridge))(jnp.asarray(D)), "float32")
        shares = jax.vmap(lambda a, x=x: mmf.explained_variance(D, x, mmf.Ridge(a)))(jnp.array([0.1, 0.2]))
        close(shares[1], mmf.explained_variance(D, X, ridge), "float32")
        codes = jax.jit(lambda d, x=x: mmf.encode(d, x, ridge))(D)
        close(codes, mmf.encode(D, X, ridge), "float32")


@pytest.mark.parametrize("kind", ["npy", "own", "iterator", "list of batches"])
@pytest.mark.parametrize("call", [mmf.encode, mmf.objective, mmf.explained_variance])
def test_sources_are_refused_inside_of_transformations(call, kind, tmp_path):
    source = KINDS[kind](tmp_path, X)
    for function in (
        lambda: jax.jit(lambda d: call(d, source, PENALTY))(D),
        lambda: jax.vmap(lambda a: call(D, source, mmf.Lasso(a)))(jnp.ones(2)),
        lambda: jax.jit(lambda _: call(D, source, PENALTY))(D),
    ):
        with pytest.raises(TypeError, match="x must be an array inside of jit, grad, vmap"):
            function()


def test_places_are_refused_inside_of_transformations():
    with pytest.raises(TypeError, match="out and batch_size must be None inside of jit"):
        jax.jit(lambda x: mmf.encode(D, x, PENALTY, out=np.empty((N, K)), batch_size=3))(X)
    with pytest.raises(TypeError, match="batch_size must be None inside of jit"):
        jax.grad(lambda d: mmf.objective(d, X, PENALTY, batch_size=3))(jnp.asarray(D))


# How much is read at a time


def test_a_large_source_is_not_loaded():
    """200 MB of samples, which exist a batch at a time; at most three batches at once are read and not yet encoded."""
    n, p = 100_000, 500

    class Large(Own):
        def __init__(self):
            self.n_samples, self.n_features, self.dtype = n, p, np.dtype("float32")
            self.reads, self.threads = [], set()

        def read(self, rows, columns=None):
            self.reads.append(rows.size)
            self.threads.add(threading.current_thread())
            return np.broadcast_to(rows[:, None] % 7, (rows.size, p)).astype("float32")

    source, ahead = Large(), []

    class Place:
        shape = (n, 2)
        total = 0.0

        def __setitem__(self, rows, codes):
            ahead.append(len(source.reads) - len(ahead))
            self.total += float(codes.sum(dtype=float))

    out = mmf.encode(np.eye(2, p, dtype="float32"), source, mmf.Ridge(1.0), out=Place())
    assert max(source.reads) == 4096
    assert sum(source.reads) == n
    assert max(ahead) <= 3
    assert threading.main_thread() not in source.threads
    assert out.total == pytest.approx(2 * (np.arange(n) % 7).sum() / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("row_bytes", "rows_per_read", "size"),
    [
        (4, 1, 4096),
        (4, 16, 4096),
        (400, 100, 4000),  # whole chunks
        (400, 10_000, 10_000),  # a chunk that fits
        (64_000, 1, 1024),  # which the code solvers do not fill up
        (64_000, 100, 1000),
        (2**20, 1, 64),
        (2**20, 48, 48),
        (2**20, 100, 64),  # a chunk that does not
        (2**28, 16, 1),
    ],
)
def test_batches_have_a_size_for_memory_and_for_chunks(row_bytes, rows_per_read, size):
    assert _default_size(row_bytes, rows_per_read) == size


def test_one_program_serves_all_batches():
    jax.clear_caches()
    mmf.encode(D, Own(X), PENALTY, batch_size=BATCH)
    mmf.explained_variance(D, Own(X), PENALTY, batch_size=BATCH)
    mmf.objective(D, Own(X), PENALTY, batch_size=BATCH)
    assert coding._encode._cache_size() == 1


def test_chunks_that_are_read_again_and_again_warn(tmp_path):
    x = np.zeros((4096, 600), "float32")
    rows = data_set(tmp_path, x, chunks=(4096, 600), compression="gzip")
    with pytest.warns(UserWarning, match=r"stored in chunks of \(4096, 600\)") as caught:
        mmf.objective(np.eye(2, 600, dtype="float32"), rows, mmf.Ridge(1.0), batch_size=512)
    assert caught[0].filename == __file__
    mmf.objective(np.eye(2, 600, dtype="float32"), rows, mmf.Ridge(1.0))  # the default is a whole chunk


# Numbers


def test_padding_does_not_count():
    """Not even if a sample of zeros has an objective of its own."""

    class Shifted:
        """The squared norm, and one."""

        def value(self, codes):
            return 1 + 0.5 * (codes**2).sum(-1)

        def prox(self, codes, step):
            return codes / (1 + step)

    jax.tree_util.register_static(Shifted)
    close(mmf.objective(D, Own(X), Shifted(), batch_size=BATCH), mmf.objective(D, X, Shifted()), "float32")
    shift = mmf.objective(D, Own(X), Shifted(), batch_size=BATCH) - mmf.objective(D, X, mmf.Ridge(1.0))
    assert float(shift) == pytest.approx(1, abs=1e-4)


def test_sums_are_added_up_in_float64():
    """A float32 sum of these has a relative error of 1e-4."""
    n = 30_000
    x = np.full((n, 2), 0.1, "float32")
    x[0] = 1e3
    d = np.eye(1, 2, dtype="float32")
    exact = x.astype(float)
    code = exact[:, :1] / 2
    want = (0.5 * ((exact[:, :1] - code) ** 2 + exact[:, 1:] ** 2 + code**2)).mean()
    assert float(mmf.objective(d, Own(x), mmf.Ridge(1.0), batch_size=512)) == pytest.approx(want, rel=3e-7)
    want = 1 - ((exact[:, :1] - code) ** 2 + exact[:, 1:] ** 2).sum() / (exact**2).sum()
    assert float(mmf.explained_variance(d, Own(x), mmf.Ridge(1.0), batch_size=512)) == pytest.approx(want, rel=3e-7)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_samples_of_any_scale(scale):
    x, penalty = (X * scale).astype("float32"), mmf.Lasso(0.3 * scale)
    close(mmf.encode(D, Own(x), penalty, batch_size=BATCH) / scale, mmf.encode(D, x, penalty) / scale, "float32")
    want = mmf.explained_variance(D, x, penalty)
    close(mmf.explained_variance(D, Own(x), penalty, batch_size=BATCH), want, "float32")
    assert mmf.objective(D, Own(x), penalty, batch_size=BATCH) == mmf.objective(D, x, penalty)  # zero, or infinity


def test_explained_variance_of_zeros_is_nan():
    assert np.isnan(mmf.explained_variance(D, Own(0 * X), PENALTY, batch_size=BATCH))


def test_integers_are_samples(tmp_path):
    x = np.random.default_rng(1).integers(0, 60_000, (N, P)).astype("uint16")
    want = mmf.encode(D, x, PENALTY)
    got = mmf.encode(D, memory_map(tmp_path, x), PENALTY, batch_size=BATCH)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=0.05)


def test_codes_that_are_not_solved_are_told_once(tmp_path):
    options = {"solver": mmf.FISTA(max_iter=1), "batch_size": 7}
    for call in (mmf.encode, mmf.encode_with_info, mmf.objective, mmf.explained_variance):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(D, Own(X), mmf.Lasso(1e-3), **options)
        assert [(w.category, w.filename) for w in caught] == [(mmf.ConvergenceWarning, __file__)]
        if call is not mmf.objective:
            assert "of 50 samples are not within the tolerance" in str(caught[0].message)


def test_settings_of_the_caller_reach_the_reader():
    """A source may compute with JAX, in the precision of the caller."""
    seen = []

    class Computed(Own):
        def read(self, rows, columns=None):
            x = jnp.asarray(self._x[rows])
            seen.append(x.dtype)
            return x

    with jax.enable_x64(True):
        d, x = data("float64")
        ridge = mmf.Ridge(0.2)
        close(mmf.encode(d, Computed(x), ridge, batch_size=BATCH), mmf.encode(d, x, ridge), "float64")
    assert set(seen) == {np.dtype("float64")}


def test_fit_and_encode_of_one_file(tmp_path):
    source = permuted(tmp_path, X)
    solver = mmf.OnlineFactorization(n_components=K, penalty=PENALTY, constraint=mmf.L2Ball())
    result = mmf.fit(solver, source, key=KEY, batch_size=BATCH)
    close(mmf.encode(result.dictionary, source, solver.penalty), result.encode(X), "float32")


def test_anything_with_a_shape_and_slices_may_be_written_to():
    written = {}
    place = SimpleNamespace(shape=(N, K))
    with pytest.raises(TypeError, match="out must be an array that can be written to"):
        mmf.encode(D, Own(X), PENALTY, out=place)

    class Place:
        shape = (N, K)

        def __setitem__(self, rows, codes):
            written[rows.start] = codes

    mmf.encode(D, Own(X), PENALTY, out=Place(), batch_size=BATCH)
    assert list(written) == [0, 16, 32, 48]
    close(np.concatenate(list(written.values())), mmf.encode(D, X, PENALTY), "float32")
