"""Conversion of data of every kind to one file, and several files as one source."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf import cli
from jax_mmf.io import (
    BadFileError,
    FeaturePermutation,
    JoinedSource,
    MatrixSource,
    RawSource,
    as_source,
    convert,
    open_source,
)
from jax_mmf.io.conversion import partial_file

KEY = jax.random.key(0)
N, P = 90, 14
SMALL = {"key": KEY, "block_width": 4, "rows_per_chunk": 8, "memory": 8 * P * 4}  # bands of 8 rows


def make_data():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((N, P)) * generator.uniform(0.1, 10, P) + generator.uniform(-50, 50, P)
    x[:, 3] = 7.0  # a constant feature
    return x.astype("float32")


X = make_data()


def matlab_5(path, x, name="X"):
    pytest.importorskip("scipy.io").savemat(path, {name: x, "note": "text"})


def matlab_73(path, x, name="X", **options):
    """As MATLAB writes it: columns of the matrix are rows of the data set, after a block for its own use."""
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_dataset(name, data=x.T, **options)
        data.attrs["MATLAB_class"] = np.bytes_(b"double" if x.dtype == np.float64 else b"single")
        file.create_dataset("note", data=np.zeros((4, 1), "uint16")).attrs["MATLAB_class"] = np.bytes_(b"char")


def in_folder(folder):
    folder = folder / "subjects"
    folder.mkdir()
    np.save(folder / "sub-01.npy", X[:20])
    np.save(folder / "sub-02.npy", np.asfortranarray(X[20:21]))
    with h5py.File(folder / "sub-03.h5", "w") as file:
        file["run"] = X[21:]
    (folder / "participants.tsv").write_text("about them")
    return folder


def saved(name, write):
    def make(folder):
        write(folder / name)
        return folder / name

    return make


def h5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, x in datasets.items():
            file.create_dataset(name, data=x)


def zarr_array(path):
    pytest.importorskip("zarr").create_array(path, data=X, chunks=(7, 5))


def zarr_group(path):
    group = pytest.importorskip("zarr").create_group(path)
    group.create_array("X", data=X)
    group.create_array("time", data=np.arange(N))


def dask_array(folder):
    return pytest.importorskip("dask.array").from_array(X, chunks=(7, 3))


# Kind of input: what makes it, in a folder.
INPUTS = {
    "npy": saved("x.npy", lambda path: np.save(path, X)),
    "npy, Fortran": saved("x.npy", lambda path: np.save(path, np.asfortranarray(X))),
    "npy, big-endian": saved("x.npy", lambda path: np.save(path, X.astype(">f4"))),
    "npz": saved("x.npz", lambda path: np.savez(path, X)),
    "npz, compressed": saved("x.npz", lambda path: np.savez_compressed(path, X)),
    "h5": saved("x.h5", lambda path: h5(path, X=X, time=np.arange(N))),
    "mat 5": saved("x.mat", lambda path: matlab_5(path, X)),
    "mat 7.3": saved("x.mat", lambda path: matlab_73(path, X)),
    "mat 7.3, compressed": saved("x.mat", lambda path: matlab_73(path, X, chunks=(3, 20), compression="gzip")),
    "zarr": saved("x.zarr", zarr_array),
    "zarr group": saved("x.zarr", zarr_group),
    "dask": dask_array,
    "folder": in_folder,
    "pattern": lambda folder: str(in_folder(folder) / "sub-*"),
    "list of files": lambda folder: [str(path) for path in sorted(in_folder(folder).glob("sub*"))],
    "array": lambda _: X,
    "generator": lambda _: (part for part in np.split(X, [1, 30, 31])),
    "batches": lambda _: np.split(X, 3),
    "joined": lambda _: JoinedSource([X[:40], X[40:]]),
}


def check_file(path, x, permuted=True):
    """The file holds the matrix, and mean and scale as NumPy computes them of all of it."""
    with open_source(path) as source:
        order = source.permutation if permuted else np.arange(x.shape[1])
        assert (source.permutation is not None) == permuted
        np.testing.assert_array_equal(np.sort(order), np.arange(x.shape[1]))
        np.testing.assert_array_equal(source.read(np.arange(len(x))), x[:, order])
        exact = x.astype(np.longdouble)
        np.testing.assert_allclose(source.mean, exact.mean(axis=0).astype(float), rtol=1e-12)
        deviation = exact.std(axis=0).astype(float)
        np.testing.assert_allclose(source.scale, np.where(np.ptp(x, axis=0) == 0, 1, deviation), rtol=1e-10)
        assert source.mean.dtype == source.scale.dtype == np.float64


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_becomes_the_same_file(kind, tmp_path):
    seen = []
    result = convert(INPUTS[kind](tmp_path), tmp_path / "out.h5", **SMALL, on_progress=lambda *a: seen.append(a))
    assert result[:4] == (tmp_path / "out.h5", N, P, np.dtype("float32"))
    assert (result.n_kept, result.not_finite) == (0, None)
    check_file(tmp_path / "out.h5", X)
    assert seen[-1] == (N, None if kind in ("generator", "batches") else N)
    with open_source(tmp_path / "out.h5") as source:
        np.testing.assert_array_equal(source.permutation, FeaturePermutation.random(KEY, P).order)
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".out*"))


def test_chunks_are_as_wide_as_the_blocks_of_a_solver(tmp_path):
    subset = mmf.BlockSubset(3, 2)
    convert(X, tmp_path / "x.h5", **SMALL | {"block_width": subset})
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["X"].chunks == (8, subset.layout(P)[0])
        assert file["X"].fletcher32


def test_order_of_the_features_can_be_kept(tmp_path):
    convert(X, tmp_path / "x.h5", **SMALL | {"key": None})
    check_file(tmp_path / "x.h5", X, permuted=False)


def test_order_of_a_permuted_file_is_kept_and_not_permuted_again(tmp_path):
    convert(X, tmp_path / "x.h5", **SMALL)
    with pytest.raises(ValueError, match="permuted already; keep their order with key=None"):
        convert(tmp_path / "x.h5", tmp_path / "y.h5", **SMALL)
    convert(tmp_path / "x.h5", tmp_path / "y.h5", **SMALL | {"key": None}, compression="gzip")
    check_file(tmp_path / "y.h5", X)


@pytest.mark.parametrize("compression", ["auto", "gzip", "zstd", "blosc2"])
def test_compressed_files_hold_the_same_numbers(compression, tmp_path):
    if compression in ("zstd", "blosc2"):
        pytest.importorskip("hdf5plugin")
    x = np.round(np.tile(X, (20, 1)))
    plain = convert(x, tmp_path / "plain.h5", key=KEY)
    small = convert(x, tmp_path / "small.h5", key=KEY, compression=compression)
    check_file(tmp_path / "small.h5", x)
    assert small.n_bytes < plain.n_bytes / 2


def test_compression_of_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(ImportError, match=r"hdf5plugin: pip install 'jax-mmf\[convert\]'"):
        convert(X, tmp_path / "x.h5", **SMALL, compression="zstd")
    convert(X, tmp_path / "x.h5", **SMALL, compression="auto")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["X"].compression == "gzip"
    with pytest.raises(ValueError, match="compression must be one of 'none', 'auto', 'gzip'"):
        convert(X, tmp_path / "x.h5", **SMALL, compression="lzma")


def test_reader_without_the_package_names_it(tmp_path):
    """The filter is not that of a package here: HDF5 does not have number 305."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((4, 4))
        settings.set_filter(305, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((8, 8))
        h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, settings)
    with pytest.raises(ImportError, match="'/X' of .*x.h5 is compressed by 305, which needs the package hdf5plugin"):
        open_source(tmp_path / "x.h5")


@pytest.mark.parametrize("dtype", ["float64", "float16", "float32"])
def test_numbers_in_another_dtype(dtype, tmp_path):
    assert convert(X, tmp_path / "x.h5", **SMALL, dtype=dtype).dtype == dtype
    check_file(tmp_path / "x.h5", X.astype(dtype))


def test_numbers_that_do_not_fit_are_named_by_rows(tmp_path):
    x = X.copy()
    x[20, 2] = 1e30
    with pytest.raises(ValueError, match=r"source, rows 16 to 23, holds numbers of float32 that float16"):
        convert(x, tmp_path / "x.h5", **SMALL, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_names_of_features_are_in_the_original_order(tmp_path):
    names = [f"région {i}" for i in range(P)]
    frame = pytest.importorskip("pandas").DataFrame(X, columns=names)
    convert(frame, tmp_path / "x.h5", **SMALL)
    solver = mmf.OnlineFactorization(n_components=2)
    with open_source(tmp_path / "x.h5") as source:
        assert source.feature_names == tuple(names)
        assert mmf.fit(solver, source, key=KEY).feature_names == tuple(names)


def test_first_number_that_is_not_finite_is_told(tmp_path):
    x = X.copy()
    x[70, 5], x[71, 0] = np.nan, np.inf
    assert convert(x, tmp_path / "x.h5", **SMALL).not_finite == (70, 5)


def test_a_run_on_the_file_is_that_on_the_matrix(tmp_path):
    convert(X, tmp_path / "x.h5", **SMALL)
    solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Ridge(0.1))
    with open_source(tmp_path / "x.h5") as source:
        got = mmf.fit(solver, source, key=KEY, batch_size=8, shuffle=False).state.dictionary
    want = mmf.fit(solver, X, key=KEY, batch_size=8, shuffle=False).state.dictionary
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"block_width": 0}, ValueError),
        ({"rows_per_chunk": 1.5}, TypeError),
        ({"memory": 0}, ValueError),
        ({"dtype": complex}, TypeError),
        ({"dataset": "X"}, ValueError),
    ],
)
def test_options_that_are_wrong(options, error, tmp_path):
    with pytest.raises(error, match=next(iter(options))):
        convert(X, tmp_path / "x.h5", **SMALL | options)
    with pytest.raises(ValueError, match=r"must end in .h5 or .hdf5"):
        convert(X, tmp_path / "x.npy", **SMALL)
    assert list(tmp_path.iterdir()) == []


# Memory


class Rows(MatrixSource):
    """A long matrix that is computed as it is read, and may fail."""

    def __init__(self, n, p=P, fails_at=None, error=None):
        super().__init__("rows", (n, p), np.float32)
        self.fails_at, self.error, self.seen = fails_at, error or OSError("the disk is gone"), []

    def _read_into(self, out, rows, columns):
        if self.fails_at is not None and rows.max() >= self.fails_at:
            raise self.error
        self.seen += rows.tolist()
        out[:] = (rows[:, None] * 7 + np.arange(self.n_features) * 3) % 101


@pytest.mark.parametrize("batches", [False, True])
def test_memory_does_not_depend_on_the_number_of_rows(batches, tmp_path):
    def peak(n):
        source = Rows(n, 2000)
        data = (source.read(np.arange(i, i + 50)) for i in range(0, n, 50)) if batches else source
        tracemalloc.start()
        convert(data, tmp_path / "x.h5", key=KEY, rows_per_chunk=16, memory=2**20)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(200)
    short, long = peak(400), peak(4000)
    assert long < 1.1 * short
    assert long < 12 * 2**20 < 4000 * 2000 * 4


# A conversion that is stopped


def contents(path):
    with h5py.File(path) as file:
        return {name: file[name][...].tobytes() for name in file}


@pytest.fixture
def flushed(monkeypatch):
    monkeypatch.setattr(partial_file, "_SECONDS_PER_FLUSH", 0.0)


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt()])
def test_a_conversion_that_was_stopped_goes_on(error, tmp_path):
    with pytest.raises(type(error)):
        convert(Rows(N, fails_at=45, error=error), tmp_path / "x.h5", **SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"x.h5.partial"}
    source, seen = Rows(N), []
    result = convert(source, tmp_path / "x.h5", **SMALL, on_progress=lambda *a: seen.append(a))
    assert result.n_kept == 40
    assert seen[0] == (40, N)
    assert min(source.seen) == 32  # the last band that was complete is compared
    assert {path.name for path in tmp_path.iterdir()} == {"x.h5"}
    convert(Rows(N), tmp_path / "y.h5", **SMALL)
    assert contents(tmp_path / "x.h5") == contents(tmp_path / "y.h5")


@pytest.mark.usefixtures("flushed")
def test_a_file_that_can_not_be_read_for_a_while_costs_nothing(tmp_path, monkeypatch):
    np.save(tmp_path / "in.npy", X)
    read = RawSource._read_into

    def failing_from(least):
        def failing(self, out, rows, columns):
            if rows.max() >= least:
                raise OSError("the network is down")
            read(self, out, rows, columns)

        monkeypatch.setattr(RawSource, "_read_into", failing)

    for least in (45, 0):
        failing_from(least)
        with pytest.raises(BadFileError, match=r"in.npy can't be read at rows .*network"):
            convert(tmp_path / "in.npy", tmp_path / "x.h5", **SMALL)
    failing_from(N)
    assert convert(tmp_path / "in.npy", tmp_path / "x.h5", **SMALL).n_kept == 40
    check_file(tmp_path / "x.h5", X)


@pytest.mark.parametrize("name", ["in.h5", "folder", "pipe"])
def test_outputs_that_would_destroy_something(name, tmp_path):
    h5(tmp_path / "in.h5", X=X)
    (tmp_path / "folder.h5").mkdir()
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises((ValueError, OSError), match=name):
        convert(tmp_path / "in.h5", (tmp_path / name).with_suffix(".h5"), **SMALL)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_link_and_permissions_of_the_output_stay(tmp_path):
    (tmp_path / "real.h5").touch()
    (tmp_path / "real.h5").chmod(0o640)
    (tmp_path / "x.h5").symlink_to("real.h5")
    convert(X, tmp_path / "x.h5", **SMALL)
    assert (tmp_path / "x.h5").is_symlink()
    assert (tmp_path / "real.h5").stat().st_mode & 0o777 == 0o640
    check_file(tmp_path / "real.h5", X)


@pytest.mark.usefixtures("flushed")
def test_what_an_earlier_file_holds_stays_until_the_end(tmp_path):
    convert(X, tmp_path / "x.h5", **SMALL)
    with pytest.raises(OSError, match="gone"):
        convert(Rows(N, fails_at=45), tmp_path / "x.h5", **SMALL)
    check_file(tmp_path / "x.h5", X)


OTHER = {
    "dtype": ({"dtype": "float64"}, "another dtype"),
    "key": ({"key": jax.random.key(1)}, "another key"),
    "compression": ({"compression": "gzip"}, "another compression"),
    "rows_per_chunk": ({"rows_per_chunk": 4}, "another rows_per_chunk"),
    "memory": ({"memory": 16 * P * 4}, "another memory"),
}


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("what", OTHER)
def test_another_conversion_starts_from_the_first_row(what, tmp_path):
    with pytest.raises(OSError, match="gone"):
        convert(Rows(N, fails_at=45), tmp_path / "x.h5", **SMALL)
    options, words = OTHER[what]
    source = Rows(N)
    with pytest.warns(UserWarning, match=f"x.h5.partial is of a conversion with {words}.*starts from the first row"):
        assert convert(source, tmp_path / "x.h5", **SMALL | options).n_kept == 0
    check_file(tmp_path / "x.h5", Rows(N).read(np.arange(N)))


@pytest.mark.usefixtures("flushed")
def test_other_data_of_the_same_shape_start_from_the_first_row(tmp_path):
    with pytest.raises(OSError, match="gone"):
        convert(Rows(N, fails_at=45), tmp_path / "x.h5", **SMALL)
    with pytest.warns(UserWarning, match="rows 0 to 7 of the source have changed"):
        assert convert(X, tmp_path / "x.h5", **SMALL).n_kept == 0
    check_file(tmp_path / "x.h5", X)


@pytest.mark.usefixtures("flushed")
def test_a_file_that_was_replaced_starts_from_the_first_row(tmp_path):
    np.save(tmp_path / "in.npy", X)

    def stop(done, _):
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "in.npy", tmp_path / "x.h5", **SMALL, on_progress=stop)
    np.save(tmp_path / "in.npy", np.concatenate([X[:60], X[:30]]))
    os.utime(tmp_path / "in.npy", (1, 1))
    with pytest.warns(UserWarning, match="another source"):
        convert(tmp_path / "in.npy", tmp_path / "x.h5", **SMALL)
    check_file(tmp_path / "x.h5", np.concatenate([X[:60], X[:30]]))


def damage_numbers(folder):
    path = folder / "data.h5"
    with h5py.File(path) as file:
        place = file["X"].id.get_chunk_info_by_coord((8, 4)).byte_offset
    with path.open("r+b") as file:
        file.seek(place + 9)
        file.write(b"\xff\x01")


def damage_file(folder):
    os.truncate(folder / "data.h5", 100)


def damage_record(folder):
    (folder / "record.json").write_text('{"n_rows": 40')


def stopped_in_a_flush(folder):
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"n_rows": None}))


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("damage", [damage_numbers, damage_file, damage_record, stopped_in_a_flush])
def test_a_part_that_is_damaged_is_not_used(damage, tmp_path):
    with pytest.raises(OSError, match="gone"):
        convert(Rows(N, fails_at=45), tmp_path / "x.h5", **SMALL)
    damage(tmp_path / "x.h5.partial")
    with pytest.warns(UserWarning, match=r"x.h5.partial .*from the first row"):
        assert convert(Rows(N), tmp_path / "x.h5", **SMALL).n_kept == 0
    check_file(tmp_path / "x.h5", Rows(N).read(np.arange(N)))


def test_damaged_files_are_errors_or_the_same_numbers(tmp_path):
    """Or NaN, for chunks that HDF5 does not find. Random bytes of the file are changed."""

    def seen(path):
        with open_source(path) as source:
            x = source.read(np.arange(N))
            x[np.isnan(x)] = X[:, source.permutation][np.isnan(x)]
            return [v.tobytes() for v in (x, source.permutation, source.mean, source.scale)]

    convert(X, tmp_path / "x.h5", **SMALL)
    whole, want, bad = (tmp_path / "x.h5").read_bytes(), seen(tmp_path / "x.h5"), 0
    generator = np.random.default_rng(0)
    for _ in range(150):
        some = bytearray(whole)
        for place in generator.integers(len(some), size=generator.integers(1, 4)):
            some[place] = generator.integers(256)
        (tmp_path / "y.h5").write_bytes(some)
        try:
            assert seen(tmp_path / "y.h5") == want
        except BadFileError:
            bad += 1
    assert 20 < bad < 150


def test_chunks_in_each_others_place_are_told_by_the_seal(tmp_path):
    convert(X, tmp_path / "x.h5", **SMALL)
    with h5py.File(tmp_path / "x.h5") as file:
        places = [file["X"].id.get_chunk_info_by_coord((0, column)).byte_offset for column in (0, 4)]
    first, second = (place.to_bytes(8, "little") for place in places)
    whole = (tmp_path / "x.h5").read_bytes()
    assert whole.count(first) == whole.count(second) == 1  # in the index
    swapped = whole.replace(first, b"elsewhere"[:8]).replace(second, first).replace(b"elsewhere"[:8], second)
    (tmp_path / "x.h5").write_bytes(swapped)
    with h5py.File(tmp_path / "x.h5") as file:
        file["X"][...]  # HDF5 itself finds nothing wrong
    with pytest.raises(BadFileError, match="x.h5 is damaged: its layout does not have its checksum"):
        open_source(tmp_path / "x.h5")


@pytest.mark.usefixtures("flushed")
def test_a_damaged_chunk_of_the_file_is_an_error(tmp_path):
    convert(X, tmp_path / "data.h5", **SMALL)
    damage_numbers(tmp_path)
    with open_source(tmp_path / "data.h5") as source, pytest.raises(BadFileError, match="rows 0 to 89"):
        source.read(np.arange(N))


def test_resuming_can_be_turned_off(tmp_path):
    with pytest.raises(OSError, match="gone"):
        convert(Rows(N, fails_at=45), tmp_path / "x.h5", **SMALL, resume=False)
    assert list(tmp_path.iterdir()) == []


def test_batches_that_end_with_an_error_leave_nothing(tmp_path):
    def batches():
        yield X[:50]
        raise OSError("the scanner is off")

    with pytest.raises(OSError, match="scanner"):
        convert(batches(), tmp_path / "x.h5", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_an_error_before_it_is_written_to(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**23})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"no space for .*x.h5: 8 MB are free where 17 are needed next"):
        convert(X, tmp_path / "x.h5", **SMALL)


SCRIPT = """
import sys, time
import jax, numpy as np
from pathlib import Path
import jax_mmf.io.conversion.partial_file as partial_file
from jax_mmf.io import convert
partial_file._SECONDS_PER_FLUSH = 0.0
def slow(done, n):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))
x = np.load(sys.argv[1], mmap_mode="r")
result = convert(sys.argv[1], sys.argv[2], key=jax.random.key(0), block_width=4, rows_per_chunk=8, memory=8 * 14 * 4,
                 on_progress=slow)
print("kept", result.n_kept)
"""


def process(folder, pause):
    command = [sys.executable, "-c", SCRIPT, folder / "in.npy", folder / "x.h5", str(pause)]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_file_is_that_of_an_undisturbed_conversion(kills, tmp_path):
    x = Rows(3000).read(np.arange(3000))
    np.save(tmp_path / "in.npy", x)
    generator, kept = np.random.default_rng(0), []
    for _ in range(kills):
        child = process(tmp_path, 0.0)
        for _ in range(int(generator.integers(20, 70 if kills < 10 else 30))):
            child.stdout.readline()
        time.sleep(generator.uniform(0, 0.002))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if (tmp_path / "x.h5").exists():  # it came to its end
            check_file(tmp_path / "x.h5", x)
            (tmp_path / "x.h5").unlink()
            shutil.rmtree(tmp_path / "x.h5.partial", ignore_errors=True)
            kept.append(None)
            continue
        kept.append(json.loads((tmp_path / "x.h5.partial" / "record.json").read_text())["n_rows"])
    last = process(tmp_path, 0.0)
    out, err = last.communicate()
    assert last.returncode == 0, err
    assert int(out.split()[-1]) == (kept[-1] or 0)
    assert max(filter(None, kept)) > 300  # which more than one process wrote
    check_file(tmp_path / "x.h5", x)
    assert {path.name for path in tmp_path.iterdir()} == {"in.npy", "x.h5"}


@pytest.mark.skipif(sys.platform == "win32", reason="locks files in another way")
def test_two_processes_do_not_write_one_file(tmp_path):
    np.save(tmp_path / "in.npy", X)
    child = process(tmp_path, 60)
    try:
        child.stdout.readline()
        with pytest.raises(OSError, match=r"x.h5.partial is in use: another process"):
            convert(tmp_path / "in.npy", tmp_path / "x.h5", **SMALL)
    finally:
        child.kill()
        child.communicate()


# Several files as one source


def test_several_files_are_one_matrix(tmp_path):
    with open_source(in_folder(tmp_path)) as source:
        assert (source.n_samples, source.n_features, source.dtype) == (N, P, np.float32)
        rows, columns = np.random.default_rng(1).permutation(N), np.array([4, 0, 9])
        np.testing.assert_array_equal(source.read(rows), X[rows])
        np.testing.assert_array_equal(source.read(rows, columns), X[np.ix_(rows, columns)])
        assert X.nbytes <= source.bytes_read <= 2 * X.nbytes
        want = mmf.fit(mmf.OnlineFactorization(n_components=2), X, key=KEY, shuffle=False).state.dictionary
        got = mmf.fit(mmf.OnlineFactorization(n_components=2), source, key=KEY, shuffle=False).state.dictionary
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="was closed"):
        source.read(np.arange(2))


def test_data_sets_of_one_file_are_one_matrix(tmp_path):
    h5(tmp_path / "x.h5", a=X[:30], b=X[30:], time=np.arange(3))
    with open_source(tmp_path / "x.h5", ["b", "a"]) as source:
        np.testing.assert_array_equal(source.read(np.arange(N)), np.concatenate([X[30:], X[:30]]))
    convert(tmp_path / "x.h5", tmp_path / "y.h5", **SMALL, dataset=["a", "b"])
    check_file(tmp_path / "y.h5", X)


def test_a_source_of_several_files_is_opened_again_by_another_process(tmp_path):
    with open_source(in_folder(tmp_path)) as source:
        with pickle.loads(pickle.dumps(source)) as other:
            np.testing.assert_array_equal(other.read(np.arange(N)), X)
        np.testing.assert_array_equal(source.read(np.arange(3)), X[:3])


def n_open_below(folder):
    """Number of files in a folder that this process has open."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("open files are counted on Linux")
    return sum(
        str(folder) in str(handle.readlink()) for handle in Path("/proc/self/fd").iterdir() if handle.is_symlink()
    )


def test_thousands_of_files_do_not_need_thousands_of_handles(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_mmf.io.joined._MOST_OPEN", 3)
    for i in range(10):
        h5(tmp_path / f"{i}.h5", X=X[9 * i : 9 * (i + 1)])
    with open_source(tmp_path) as source:
        rows = np.random.default_rng(1).permutation(N)
        np.testing.assert_array_equal(source.read(rows), X[rows])
        assert n_open_below(tmp_path) <= 2 * 3
        h5(tmp_path / "0.h5", X=X[9:18])
        os.utime(tmp_path / "0.h5", (1, 1))
        with pytest.raises(BadFileError, match=r"0.h5.* was (changed|replaced|truncated)"):
            source.read(rows)


@pytest.mark.parametrize(
    ("dtypes", "want"),
    [(["float32", "float64"], "float64"), (["int16", "float32"], "float32"), (["uint8", "int8"], "int16")],
)
def test_numbers_of_several_dtypes_keep_their_values(dtypes, want, tmp_path):
    parts = [np.round(X[i : i + 5]).astype(dtype) for i, dtype in enumerate(dtypes)]
    source = JoinedSource(parts)
    assert source.dtype == want
    np.testing.assert_array_equal(source.read(np.arange(10)), np.concatenate(parts).astype(want))


def test_lists_of_arrays_are_batches_and_joined_arrays_are_a_matrix():
    assert not isinstance(as_source([X[:40], X[40:]]), MatrixSource)
    with pytest.raises(ValueError, match=r"part 1 has 3 features, and part 0 has 14"):
        JoinedSource([X, X[:, :3]])
    with pytest.raises(TypeError, match="part 1 is an iterable of batches"):
        JoinedSource([X, iter([X])])
    with pytest.raises(ValueError, match="at least one matrix"):
        JoinedSource([])


def test_a_file_with_other_features_is_named(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", X[:, :5])
    with pytest.raises(ValueError, match=r"b.npy has 5 features, and .*a.npy has 14"):
        open_source([tmp_path / "a.npy", tmp_path / "b.npy"])


def test_permuted_files_are_joined_if_they_have_one_order(tmp_path):
    for name, part, key in (("a", X[:40], KEY), ("b", X[40:], KEY), ("c", X, jax.random.key(1))):
        convert(part, tmp_path / f"{name}.h5", **SMALL | {"key": key})
    with open_source([tmp_path / "a.h5", tmp_path / "b.h5"]) as source:
        np.testing.assert_array_equal(source.read(np.arange(N)), X[:, source.permutation])
    with pytest.raises(ValueError, match=r"columns of .*c.h5 are in another order than those of .*a.h5"):
        open_source([tmp_path / "a.h5", tmp_path / "c.h5"])


def test_names_of_features_must_agree():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X)
    names = [f"f{i}" for i in range(P)]
    assert JoinedSource([X, frame.set_axis(names, axis=1)]).feature_names == tuple(names)
    with pytest.raises(ValueError, match="part 1 has other names"):
        JoinedSource([frame.set_axis(names, axis=1), frame.set_axis(names[::-1], axis=1)])


def test_places_without_data(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no file that ends in .h5"):
        open_source(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"no file .*sub-\*.npy"):
        open_source(tmp_path / "sub-*.npy")


# MATLAB


def test_matlab_files_give_rows_and_columns(tmp_path):
    matlab_73(tmp_path / "x.mat", X.astype("float64"), chunks=(5, 16), compression="gzip")
    with open_source(tmp_path / "x.mat") as source:
        assert (source.n_samples, source.n_features, source.rows_per_chunk) == (N, P, 16)
        rows, columns = np.array([88, 3, 4, 5]), np.array([7, 1])
        np.testing.assert_array_equal(source.read(rows), X[rows])
        np.testing.assert_array_equal(source.read(rows, columns), X[np.ix_(rows, columns)])


@pytest.mark.parametrize("write", [matlab_5, matlab_73])
def test_matrix_of_a_matlab_file_is_chosen_by_name(write, tmp_path):
    write(tmp_path / "x.mat", X, "scans")
    np.testing.assert_array_equal(open_source(tmp_path / "x.mat", "scans").read(np.arange(N)), X)
    with pytest.raises(KeyError, match=r"x.mat has no data set 'Y'; it holds scans"):
        open_source(tmp_path / "x.mat", "Y")


def test_sparse_matrix_of_a_matlab_file(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    matlab_5(tmp_path / "x.mat", sparse.csc_array(X * (X > 0)))
    np.testing.assert_array_equal(open_source(tmp_path / "x.mat").read(np.array([5, 2])), (X * (X > 0))[[5, 2]])


def test_damaged_matlab_files_and_missing_packages(tmp_path, monkeypatch):
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(90))
    pytest.importorskip("scipy.io")
    with pytest.raises(BadFileError, match=r"x.mat is not a MATLAB file, or is damaged"):
        open_source(tmp_path / "x.mat")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match="needs the package scipy"):
        open_source(tmp_path / "x.mat")


# The command


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """The command in this process: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jax-mmf", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out = capsys.readouterr()
        return caught.value.code, out.out, out.err

    return call


def test_the_command_writes_what_the_function_writes(run, tmp_path):
    in_folder(tmp_path)
    code, out, err = run("convert", "subjects", "-o", "x.h5", "--dtype", "float64", "-r", 3, "--rows-per-chunk", 8,
                         "--compression", "gzip", "--seed", 5, "--quiet")  # fmt: skip
    assert (code, err) == (0, "")
    assert "90 samples, 14 features, float64, " in out
    assert out.endswith("kB: x.h5\n")
    check_file("x.h5", X.astype("float64"))
    convert("subjects", "y.h5", key=jax.random.key(5), dtype="float64", block_width=mmf.BlockSubset(3),
            rows_per_chunk=8, compression="gzip")  # fmt: skip
    assert contents("x.h5") == contents("y.h5")
    with h5py.File("x.h5") as x, h5py.File("y.h5") as y:
        assert (x["X"].chunks, x["X"].compression) == (y["X"].chunks, "gzip") == ((8, 1), "gzip")


def test_the_command_joins_inputs_and_data_sets_and_keeps_the_order(run, tmp_path):
    h5(tmp_path / "a.h5", one=X[:10], two=X[10:30])
    h5(tmp_path / "b.h5", one=X[30:60], two=X[60:])
    arguments = ["--dataset", "one", "--dataset", "two", "--no-permute", "-q"]
    assert run("convert", "a.h5", "b.h5", "-o", "x.h5", *arguments)[0] == 0
    check_file(tmp_path / "x.h5", X, permuted=False)


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_ends_at_a_signal_and_goes_on(number, status, run, tmp_path, monkeypatch):
    np.save(tmp_path / "in.npy", X)
    read = RawSource._read_into

    def signalled(self, out, rows, columns):
        if rows.max() >= 45:
            os.kill(os.getpid(), number)
        read(self, out, rows, columns)

    arguments = ["convert", "in.npy", "-o", "x.h5", "--rows-per-chunk", 8, "-q"]
    monkeypatch.setattr("jax_mmf.io.conversion.plan._BAND", 1)
    monkeypatch.setattr(RawSource, "_read_into", signalled)
    code, out, err = run(*arguments)
    assert (code, out) == (status, "")
    assert "x.h5.partial holds the rows written so far; the same command resumes" in err
    monkeypatch.setattr(RawSource, "_read_into", read)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "90 samples, of which 48 were kept, 14 features" in out
    check_file(tmp_path / "x.h5", X)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.npy", "-o", "x.h5"], 1, "no file none.npy"),
        (["in.npy", "-o", "x.npy"], 2, "must end in .h5 or .hdf5"),
        (["in.npy", "-o", "none/x.h5"], 1, "the folder none of"),
        (["in.npy", "other.npy", "-o", "x.h5"], 1, "other.npy has 3 features, and in.npy has 14"),
        (["in.npy", "-o", "x.h5", "--dtype", "float16"], 1, "another dtype"),
        (["in.npy", "-o", "x.h5", "-r", 99], 1, "reduction"),
        (["-o", "x.h5"], 2, "INPUTS"),
    ],
)
def test_commands_that_fail_say_why_and_leave_nothing(arguments, code, words, run, tmp_path):
    np.save(tmp_path / "in.npy", X * 1e10)
    np.save(tmp_path / "other.npy", X[:, :3])
    found = run("convert", *arguments, "-q")
    assert found[:2] == (code, "")
    assert words in found[2]
    assert {path.name for path in tmp_path.iterdir()} == {"in.npy", "other.npy"}


def test_the_command_does_not_replace_its_input_and_warns_of_nan(run, tmp_path):
    x = X.copy()
    x[4, 2] = np.nan
    h5(tmp_path / "x.h5", X=x)
    assert run("convert", "x.h5", "-o", "x.h5", "-q")[0] == 1
    code, _, err = run("convert", "x.h5", "-o", "y.h5", "-q")
    assert code == 0
    assert "the data contain NaN or infinity; the first is in sample 4, feature 2" in err


def test_info_tells_what_data_are_and_verifies_their_checksums(run, tmp_path):
    convert(X, tmp_path / "data.h5", **SMALL, compression="gzip")
    code, out, _ = run("info", "data.h5", "--json", "--verify", "-q")
    facts = json.loads(out)
    assert code == 0
    assert facts == {
        "n_samples": N, "n_features": P, "dtype": "float32", "bytes": X.nbytes, "permuted": True,
        "feature_names": False, "chunks": [8, 4], "compression": "gzip", "checksums": True, "mean_and_scale": True,
        "samples_read": N, "not_finite": 0,
    }  # fmt: skip
    damage_numbers(tmp_path)
    code, out, err = run("info", "data.h5", "--verify", "-q")
    assert (code, out) == (1, "")
    assert "data.h5 can't be read at rows" in err
    np.save(tmp_path / "x.npy", X)
    assert json.loads(run("info", "x.npy", "--json")[1])["n_samples"] == N


def test_fit_and_encode_take_folders_and_matlab_files(run, tmp_path):
    in_folder(tmp_path)
    matlab_73(tmp_path / "x.mat", X)
    options = ["-k", 2, "--penalty", "ridge", "--batch-size", 16, "-q", "--no-cache"]
    for data, model in (("subjects", "a.h5"), ("x.mat", "b.h5")):
        assert run("fit", data, "-o", model, *options)[0] == 0
        assert run("encode", model, data, "-o", f"{model}.npy", "-q", "--no-cache")[0] == 0
    solver = mmf.OnlineFactorization(n_components=2, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball())
    with open_source(tmp_path / "subjects") as source:
        want = mmf.fit(solver, source, key=jax.random.key(0), batch_size=16).state.dictionary
    np.testing.assert_array_equal(mmf.load_model(tmp_path / "a.h5").state.dictionary, want)
    d = np.asarray(mmf.load_model(tmp_path / "b.h5").state.dictionary, np.float64)
    codes = np.linalg.solve(d @ d.T + 0.1 * np.eye(2), d @ X.T.astype(np.float64)).T
    np.testing.assert_allclose(np.load(tmp_path / "b.h5.npy"), codes, rtol=1e-3, atol=1e-3)


# What would be lost or wrong without a word


@pytest.mark.parametrize(
    "open_", [mmf.open_source, lambda path: h5py.File(path)["x"], lambda path: np.memmap(path, "i1")]
)
def test_the_file_of_an_open_source_is_no_output(open_, tmp_path):
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        file["x"] = X
    before, source = path.read_bytes(), open_(path)
    with pytest.raises(ValueError, match="in.h5"):
        convert(source.reshape(1, -1) if isinstance(source, np.memmap) else source, path, key=None)
    assert path.read_bytes() == before


def test_a_folder_with_other_files_is_not_removed(tmp_path):
    (tmp_path / "x.h5.partial").mkdir()
    (tmp_path / "x.h5.partial" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"x.h5.partial .* would be removed with mine.txt in it"):
        convert(X, tmp_path / "x.h5", **SMALL)
    assert (tmp_path / "x.h5.partial" / "mine.txt").read_text() == "mine"


@pytest.mark.usefixtures("flushed")
def test_an_array_that_changed_in_its_first_row_starts_from_there(tmp_path):
    x = X.copy()

    def stop(done, _):
        if done > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(x, tmp_path / "x.h5", **SMALL, on_progress=stop)
    x[0, 3] += 5
    with pytest.warns(UserWarning, match="rows 0 to 7 of the source have changed"):
        convert(x, tmp_path / "x.h5", **SMALL)
    check_file(tmp_path / "x.h5", x)


def test_no_batches_are_an_error_that_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="must hold at least one batch, got none"):
        convert(iter([]), tmp_path / "x.h5", key=KEY)
    assert list(tmp_path.iterdir()) == []
