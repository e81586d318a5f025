"""Data of other libraries mean in every entry point what the plain array means, and what can't be data is refused."""

import datetime
import decimal

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse as jax_sparse

import jax_mmf as mmf
from jax_mmf.core.foreign import as_array
from jax_mmf.core.validation import as_real_array
from jax_mmf.io import ArraySource, JoinedSource, SlicedSource, SparseSource, as_source
from jax_mmf.training.feed import Feed

KEY = jax.random.key(0)
N, P, K = 40, 6, 3
NAMES = ("a", "b", "c", "d", "e", "f")


def make_data():
    generator = np.random.default_rng(0)
    return (generator.standard_normal((N, P)) * (generator.random((N, P)) < 0.6)).astype("float32")


X = make_data()
DICTIONARY = np.random.default_rng(1).standard_normal((K, P)).astype("float32")
SOLVER = mmf.OnlineFactorization(n_components=K, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball())


def fit(source, **options):
    return mmf.fit(SOLVER, source, key=KEY, **({"batch_size": 16} | options)).state.dictionary


class Rows:
    """An array of a library that nobody has heard of: a shape and slices, and nothing else that NumPy knows."""

    shape, dtype, chunks = (N, P), "real", (5, P)

    def __init__(self, x=X):
        self.x, self.n_read, self.closed = x, 0, False

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.n_read += rows.stop - (rows.start or 0)
        return self.x[rows].tolist()

    def close(self):
        self.closed = True


def polars():
    return pytest.importorskip("polars")


def pandas():
    return pytest.importorskip("pandas")


def arrow():
    return pytest.importorskip("pyarrow")


def sparse():
    return pytest.importorskip("scipy.sparse")


# Kind of data: how it is made of an array, and the names of its columns.
KINDS = {
    "pandas": (lambda x: pandas().DataFrame(x, columns=NAMES), NAMES),
    "pandas without names": (lambda x: pandas().DataFrame(x), None),
    "polars": (lambda x: polars().DataFrame(x, schema=list(NAMES)), NAMES),
    "arrow table": (lambda x: arrow().table(dict(zip(NAMES, x.T, strict=True))), NAMES),
    "arrow batch": (lambda x: arrow().record_batch(dict(zip(NAMES, x.T, strict=True))), NAMES),
    "xarray": (
        lambda x: pytest.importorskip("xarray").DataArray(x, dims=("n", "p"), coords={"p": list(NAMES)}),
        NAMES,
    ),
    "torch": (lambda x: pytest.importorskip("torch").tensor(x, requires_grad=True), None),
    "zarr": (lambda x: pytest.importorskip("zarr").array(x, chunks=(7, P)), None),
    "dask": (lambda x: pytest.importorskip("dask.array").from_array(x, chunks=(7, 3)), None),
    "rows as lists": (lambda x: x.tolist(), None),
    "rows as arrays": (list, None),
    "rows in a tuple": (tuple, None),
    "matrix": (lambda x: x.view(np.matrix), None),
    "masked, with nothing masked": (np.ma.masked_array, None),
    "big-endian": (lambda x: x.astype(">f4"), None),
    "csr": (lambda x: sparse().csr_array(x), None),
    "coo": (lambda x: sparse().coo_matrix(x), None),
    "dok": (lambda x: sparse().dok_array(x), None),
    "bcoo": (jax_sparse.BCOO.fromdense, None),
    "joined": (lambda x: JoinedSource([x[:7], sparse().csr_array(x[7:20]), x[20:].astype(">f4")]), None),
    "joined frames": (
        lambda x: JoinedSource([pandas().DataFrame(part, columns=NAMES) for part in (x[:9], x[9:])]),
        NAMES,
    ),
    "long double": (lambda x: x.astype(np.longdouble), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fit_learns_the_values_in_batches_of_its_batch_size(kind):
    make, names = KINDS[kind]
    data = make(X)
    feed = Feed(data, SOLVER, KEY, n_epochs=1, batch_size=16, held_out=None, shuffle=False, dtype=None)
    assert (feed.n_samples, feed.n_features, feed.n_steps, feed.dtype) == (N, P, 3, np.float32)
    assert feed.feature_names == names
    np.testing.assert_array_equal(fit(data, shuffle=False), fit(X, shuffle=False))


@pytest.mark.parametrize("kind", KINDS)
def test_sources_give_rows_and_columns_of_any_kind(kind):
    source = as_source(KINDS[kind][0](X))
    rows, columns = np.random.default_rng(2).permutation(N)[:9], np.array([4, 0, 5])
    np.testing.assert_array_equal(source.read(rows), X[rows])
    np.testing.assert_array_equal(source.read(rows, columns), X[np.ix_(rows, columns)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("zarr", "dask") and "joined" not in kind])
def test_every_function_takes_the_values(kind):
    make = KINDS[kind][0]
    codes = mmf.encode(DICTIONARY, X, mmf.Ridge(0.1))
    np.testing.assert_array_equal(mmf.encode(make(DICTIONARY), make(X), mmf.Ridge(0.1)), codes)
    assert mmf.objective(make(DICTIONARY), make(X), mmf.Ridge(0.1)) == mmf.objective(DICTIONARY, X, mmf.Ridge(0.1))
    state = SOLVER.init(KEY, dictionary=make(DICTIONARY))
    np.testing.assert_array_equal(state.dictionary, SOLVER.init(KEY, dictionary=DICTIONARY).dictionary)
    np.testing.assert_array_equal(SOLVER.init(KEY, samples=make(X)).dictionary, SOLVER.init(KEY, samples=X).dictionary)
    np.testing.assert_array_equal(SOLVER.update(state, make(X))[1].codes, SOLVER.update(state, X)[1].codes)


def test_held_out_samples_may_be_a_frame_with_the_columns_of_the_source():
    frame = pandas().DataFrame(X, columns=NAMES)
    record = lambda source, held_out: mmf.fit(SOLVER, source, key=KEY, held_out=held_out).history[-1]
    assert record(frame, frame[:5]).objective == record(X, X[:5]).objective
    with pytest.raises(ValueError, match=r"held_out must have the columns of source.*'b', 'a'"):
        record(frame, frame[:5][["b", "a", *NAMES[2:]]])


def test_frames_of_several_dtypes_and_missing_values():
    frame = pandas().DataFrame(
        {"flag": [True, False], "count": pandas().array([1, None], dtype="Int64"), "value": [0.5, 2.0]}
    )
    np.testing.assert_array_equal(as_array("x", frame), [[1, 1, 0.5], [0, np.nan, 2]])
    table = {"flag": [True, None], "count": [1, None], "money": [decimal.Decimal("0.5"), None]}
    want = [[1, 1, 0.5], [np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(as_array("x", polars().DataFrame(table)), want)
    np.testing.assert_array_equal(as_array("x", arrow().table(table)), want)


def test_missing_value_of_a_frame_is_named_by_sample_and_feature():
    frame = polars().DataFrame({"a": [1, None, 3, 4], "b": [1.0, 2.0, 3.0, 5.0]})
    with pytest.raises(ValueError, match="sample 1, feature 0"):
        fit(frame)


TEXT = {"a": [1, 2], "label": ["x", "y"], "other": ["z", "z"]}


@pytest.mark.parametrize(
    "make",
    [lambda: pandas().DataFrame(TEXT), lambda: polars().DataFrame(TEXT), lambda: arrow().table(TEXT)],
    ids=["pandas", "polars", "arrow"],
)
def test_column_of_text_is_named(make):
    for function in (fit, lambda x: mmf.encode(DICTIONARY, x, mmf.Ridge(0.1))):
        with pytest.raises(TypeError, match="column 'label' and 1 others"):
            function(make())


@pytest.mark.parametrize(
    "column",
    [
        np.array([1.0, 2.0], object),
        [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 2)],
        [datetime.timedelta(1), datetime.timedelta(2)],
    ],
)
def test_columns_that_are_no_numbers(column):
    with pytest.raises(TypeError, match="column 'b' holds"):
        fit(pandas().DataFrame({"a": [1, 2], "b": column}))


def test_lazy_frames_are_to_be_collected():
    for function in (fit, lambda x: mmf.encode(DICTIONARY, x, mmf.Ridge(0.1))):
        with pytest.raises(TypeError, match="LazyFrame; call .collect"):
            function(polars().DataFrame(X).lazy())


def test_batches_may_be_frames_and_sparse_matrices():
    parts = [X[:16], X[16:32], X[32:]]
    want = fit(parts)
    np.testing.assert_array_equal(fit(pandas().DataFrame(part, columns=NAMES) for part in parts), want)
    np.testing.assert_array_equal(fit([sparse().csr_array(part) for part in parts]), want)
    np.testing.assert_array_equal(fit([part.tolist() for part in parts]), want)


def test_batches_whose_columns_change_their_order_are_refused():
    frame = pandas().DataFrame(X, columns=NAMES)
    with pytest.raises(ValueError, match="batch 1 of source must have the columns"):
        fit([frame, frame[[*NAMES[1:], "a"]]])


# Arrays that are read as they are needed


def test_arrays_with_slices_are_read_in_pieces():
    data = Rows()
    source = as_source(data)
    assert isinstance(source, SlicedSource)
    assert (source.n_samples, source.n_features, source.dtype, source.rows_per_read) == (N, P, np.float64, 5)
    before = data.n_read
    np.testing.assert_array_equal(source.read(np.array([7, 8, 3])), X[[7, 8, 3]])
    assert data.n_read - before == 3
    source.close()
    assert data.closed
    with pytest.raises(ValueError, match="was closed"):
        source.read(np.array([0]))


def test_sparse_matrix_becomes_dense_a_batch_at_a_time():
    rows, columns = np.arange(0, 10**6, 10**5), np.arange(0, 10**7, 10**6)
    matrix = sparse().coo_array((np.ones(10), (rows, columns)), (10**6, 10**7))
    source = as_source(matrix)
    assert isinstance(source, SparseSource)
    np.testing.assert_array_equal(source.read(np.array([10**5, 3]), np.array([0, 10**6])), [[0, 1], [0, 0]])
    with pytest.raises(ValueError, match="x is sparse.*80000 GB.*rows at a time"):
        as_real_array("x", matrix, ndim=(2,))


def test_sparse_samples_are_differentiable_data():
    dense = jnp.asarray(X[:4])
    value = lambda d, x: mmf.objective(d, x, mmf.Ridge(0.1))
    got = jax.grad(value)(jnp.asarray(DICTIONARY), jax_sparse.BCOO.fromdense(dense))
    np.testing.assert_allclose(got, jax.grad(value)(jnp.asarray(DICTIONARY), dense), rtol=1e-6)


def test_sources_in_a_list_are_to_be_joined():
    with pytest.raises(TypeError, match="source is a list of sources; join them.*JoinedSource"):
        fit([as_source(X[:20]), as_source(X[20:])])


# Masked entries


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: iter([X, x])])
def test_masked_entries_are_no_data(wrap):
    masked = np.ma.masked_array(X, X[3, 4] == X)
    with pytest.raises(ValueError, match="1 masked entries.*fill.*mask=~x.mask.*completion"):
        fit(wrap(masked))


@pytest.mark.parametrize(
    "function",
    [
        lambda m: mmf.encode(DICTIONARY, m, mmf.Ridge(0.1)),
        lambda m: mmf.encode(DICTIONARY, list(m), mmf.Ridge(0.1)),
        lambda m: mmf.objective(DICTIONARY, m, mmf.Ridge(0.1)),
        lambda m: mmf.encode(m, X, mmf.Ridge(0.1)),
        lambda m: SOLVER.init(KEY, samples=m),
        lambda m: SOLVER.update(SOLVER.init(KEY, dictionary=DICTIONARY), m),
        lambda m: fit(X, held_out=m),
        lambda m: mmf.write_permuted("never.h5", m, key=KEY),
    ],
)
def test_masked_entries_are_refused_everywhere(function):
    with pytest.raises(ValueError, match="masked entries"):
        function(np.ma.masked_array(X, X[3, 4] == X))


def test_codes_of_data_and_mask_leave_masked_entries_out():
    masked = np.ma.masked_array(X, np.random.default_rng(4).random(X.shape) < 0.2)
    got = mmf.encode(DICTIONARY, masked.data, mmf.Ridge(0.1), mask=~masked.mask)
    seen = ~masked.mask[0]
    d = DICTIONARY[:, seen]
    want = np.linalg.solve(d @ d.T + 0.1 * np.eye(K), d @ X[0, seen])
    np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=1e-5)


# Byte order and precision


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">f2"])
def test_byte_order_changes_nothing(dtype, tmp_path):
    x = np.round(X * 8).astype(dtype)
    native = x.astype("float32")
    want = fit(native)
    np.testing.assert_array_equal(fit(x), want)
    np.testing.assert_array_equal(fit([x]), fit([native]))
    np.testing.assert_array_equal(
        mmf.encode(DICTIONARY, x, mmf.Ridge(0.1)), mmf.encode(DICTIONARY, native, mmf.Ridge(0.1))
    )
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(x))
    for name in ("x.npy", "fortran.npy"):
        np.testing.assert_array_equal(fit(mmf.open_source(tmp_path / name), shuffle=False), fit(x, shuffle=False))
    mmf.write_permuted(tmp_path / "x.h5", x, key=KEY)
    with mmf.open_source(tmp_path / "x.h5") as source:
        np.testing.assert_array_equal(source.read(np.arange(N)), native[:, source.permutation])


def shorts():
    return [X.astype("float16"), np.asarray(jnp.asarray(X, jnp.bfloat16)), jnp.asarray(X, jnp.bfloat16)]


@pytest.mark.parametrize("which", range(3))
def test_floating_numbers_of_16_bits_are_computed_with_in_float32(which):
    x = shorts()[which]
    plain = np.asarray(x, "float32")
    for got, want in (
        (fit(x), fit(plain)),
        (fit([x]), fit([plain])),
        (mmf.encode(x[:K], x, mmf.Lasso(0.1)), mmf.encode(plain[:K], plain, mmf.Lasso(0.1))),
        (SOLVER.init(KEY, samples=x).dictionary, SOLVER.init(KEY, samples=plain).dictionary),
    ):
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_explained_variance_of_16_bits_is_that_of_the_numbers(dtype):
    """Of 100,000 samples, whose sum of squares float16 does not hold."""
    generator = np.random.default_rng(5)
    d, x, a = (jnp.asarray(generator.standard_normal(s), dtype) for s in ((K, P), (20_000, P), (20_000, K)))
    d64, x64, a64 = (np.asarray(v, "float64") for v in (d, x, a))
    want = 1 - ((x64 - a64 @ d64) ** 2).sum() / (x64**2).sum()
    assert float(mmf.explained_variance(d, x, a)) == pytest.approx(want, rel=1e-4)


def test_model_of_16_bit_data_is_read_back(tmp_path):
    state = mmf.fit(SOLVER, shorts()[1], key=KEY).state
    mmf.save_model(tmp_path / "model.h5", SOLVER, state)
    np.testing.assert_array_equal(mmf.load_model(tmp_path / "model.h5").state.dictionary, state.dictionary)


@pytest.mark.parametrize("dtype", ["float64", "double", ">f8", np.float64, float])
def test_float64_without_x64_is_an_error_that_names_the_setting(dtype):
    with pytest.raises(ValueError, match=r'jax.config.update\("jax_enable_x64", True\)'):
        fit(X, dtype=dtype)


@pytest.mark.parametrize("dtype", ["double", ">f8", np.float64, float])
def test_float64_with_x64_is_computed_in(dtype, x64):
    assert fit(X, dtype=dtype).dtype == np.float64


@pytest.mark.parametrize("dtype", ["float16", jnp.bfloat16, "int32", complex, bool, np.longdouble, "none such", "U3"])
def test_dtype_that_the_computation_does_not_hold(dtype):
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        fit(X, dtype=dtype)


# What is no data


NOT_DATA = {
    "None": (None, TypeError, "NoneType"),
    "text": ("abc", TypeError, "U3|path"),
    "bytes": (b"abc", TypeError, "S3|bytes"),
    "dict": ({"x": X}, TypeError, "dict"),
    "set": ({1.0, 2.0}, TypeError, "set"),
    "class": (np.ndarray, TypeError, "the class ndarray"),
    "scalar": (3.0, (TypeError, ValueError), r"float|\(\)"),
    "0-d": (np.float32(3), (TypeError, ValueError), r"\(\)"),
    "3-d": (np.zeros((2, 3, P)), ValueError, r"\(2, 3, 6\)"),
    "objects": (X.astype(object), TypeError, "Python objects"),
    "complex": (X + 0j, TypeError, "complex64"),
    "structured": (np.zeros((3, P), [("a", "f4")]), TypeError, "structured_to_unstructured"),
    "dates": (np.zeros((3, P), "M8[s]"), TypeError, "datetime64"),
    "durations": (np.zeros((3, P), "m8[s]"), TypeError, "timedelta64"),
    "text array": (np.full((3, P), "a"), TypeError, "U1"),
    "ragged": ([[1.0, 2.0], [3.0]], (TypeError, ValueError), "inhomogeneous|row 0 has 2 numbers and row 1 has 1"),
    "huge integers": ([[2**70] * P], TypeError, "Python objects"),
    "huge floats": (np.full((4, P), 1e300), ValueError, "too large for float32"),
    "keys": (jax.random.split(KEY, (3, P)), TypeError, "key<"),
}


@pytest.mark.parametrize("what", NOT_DATA)
def test_what_is_no_data_is_refused_by_the_name_of_the_argument(what):
    value, error, words = NOT_DATA[what]
    state = SOLVER.init(KEY, dictionary=DICTIONARY)
    entries = {
        "source": fit,
        "held_out": lambda v: fit(X, held_out=v),
        "x": lambda v: mmf.encode(DICTIONARY, v, mmf.Ridge(0.1)),
        "dictionary": lambda v: mmf.encode(v, X, mmf.Ridge(0.1)),
        "samples": lambda v: SOLVER.init(KEY, samples=v),
        "codes": lambda v: mmf.decode(DICTIONARY, v),
        "init": lambda v: mmf.encode(DICTIONARY, X, mmf.Ridge(0.1), init=v),
        "mask": lambda v: mmf.encode(DICTIONARY, X, mmf.Ridge(0.1), mask=v),
        "x ": lambda v: SOLVER.update(state, v),
    }
    optional = ("held_out", "samples", "init", "mask") if value is None else ()
    # These mean a number of samples.
    optional += ("held_out",) if what in ("text", "bytes", "scalar", "0-d") else ()
    for name, function in entries.items():
        if name not in optional:
            with pytest.raises(error, match=words) as caught:
                function(value)
            assert name.strip() in str(caught.value)


def test_numbers_of_any_plain_dtype_are_data():
    for value in (np.ones((2, 3), bool), [[1, 2]], np.ones((2, 3), "uint8"), jnp.ones((2, 3), jnp.int4), range(3)):
        array = as_real_array("x", value, ndim=(1, 2))
        np.testing.assert_array_equal(array, np.asarray(value, "float32"))
        assert array.dtype == np.float32


def test_no_samples_are_an_array_too():
    assert as_real_array("x", X[:0], ndim=(1, 2)).shape == (0, P)


def test_views_of_foreign_data_in_a_class_of_numpy_are_plain_arrays():
    assert type(as_array("x", X.view(np.matrix))) is np.ndarray
    assert type(as_source(X.view(np.matrix)).read(np.array([0]))) is np.ndarray
    assert isinstance(as_source(X), ArraySource)


def test_closed_data_set_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("X", data=X)
    with pytest.raises(ValueError, match="file that was closed"):
        fit(data)
