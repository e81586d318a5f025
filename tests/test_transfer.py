"""How mini-batches get to the device: locked memory, several reading threads, and data that are there."""

import gc
from types import SimpleNamespace

import chex
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.core import memory
from jax_mmf.io import ArraySource, DeviceSource, HDF5Source, as_source
from jax_mmf.training import sample_reader

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((301, 200)).astype(np.float32)
SETTINGS = {
    "all features": {},
    "blocks": {"subset": mmf.BlockSubset(4)},
    "partial B": {"subset": mmf.BlockSubset(4), "partial_b": True},
    "averaged": {"statistics": mmf.AveragedStatistics()},
}


def fit(source, **options):
    solver = mmf.OnlineFactorization(n_components=5, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball(), **options)
    return mmf.fit(solver, source, key=KEY, n_epochs=2, batch_size=32, held_out=20)


# Data on the device


@pytest.mark.parametrize("name", SETTINGS)
def test_data_on_the_device_give_the_same_bits(name):
    host, device = fit(X, **SETTINGS[name]), fit(DeviceSource(jnp.asarray(X)), **SETTINGS[name])
    chex.assert_trees_all_equal(host.state, device.state)
    assert [r.objective for r in host.history] == [r.objective for r in device.history]
    assert host.history[-1].bytes_read == device.history[-1].bytes_read


def test_rows_and_columns_are_gathered():
    source, rows = DeviceSource(jnp.asarray(X)), np.array([3, 0, 300, 301])
    whole = source.take(rows, None, np.dtype("float32"))
    np.testing.assert_array_equal(whole, np.vstack([X[[3, 0, 300]], np.zeros((1, 200))]))
    columns = np.array([5, 199, 0])
    np.testing.assert_array_equal(source.take(rows[:2], columns, np.dtype("float32")), X[[3, 0]][:, columns])
    np.testing.assert_array_equal(source.read(rows[:2], columns), X[[3, 0]][:, columns])
    with pytest.raises(IndexError, match="rows 0 to 300, got 0 to 301"):
        source.read(rows)


def test_integers_are_converted():
    counts = np.arange(12, dtype=np.int32).reshape(4, 3)
    taken = DeviceSource(jnp.asarray(counts)).take(np.arange(2), None, np.dtype("float32"))
    assert taken.dtype == jnp.float32
    np.testing.assert_array_equal(taken, counts[:2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(value):
    with pytest.raises(ValueError, match=rf"x holds {value} at sample 3, feature 7"):
        DeviceSource(jnp.asarray(X).at[3, 7].set(value).at[200, 1].set(np.nan), "x")


def test_a_closed_source_says_so():
    with DeviceSource(jnp.asarray(X), "x") as source:
        pass
    with pytest.raises(ValueError, match="x was closed"):
        source.take(np.arange(2), None, np.dtype("float32"))


def test_only_arrays_on_accelerators_stay_there(monkeypatch):
    assert isinstance(as_source(jnp.asarray(X)), ArraySource)
    array = jnp.asarray(X)
    monkeypatch.setattr(type(array), "devices", lambda self: [SimpleNamespace(platform="gpu")])
    assert isinstance(as_source(array), DeviceSource)


# Memory that an accelerator reads


class Client:
    """A client of a device that locks pages."""

    platform = "gpu"

    def __init__(self, error=None):
        self.locked, self.error = {}, error

    def dma_map(self, address, size):
        if self.error is not None:
            raise self.error
        self.locked[address] = size

    def dma_unmap(self, address):
        del self.locked[address]


@pytest.mark.parametrize("shape", [(3, 5), (700, 1000)])
def test_pages_are_locked_as_long_as_something_refers_to_them(shape, monkeypatch):
    client = Client()
    monkeypatch.setattr(memory, "default_device", lambda: SimpleNamespace(client=client))
    buffer = memory.transfer_buffer(shape, np.float32)
    assert client.locked == {buffer.ctypes.data: buffer.nbytes}
    part = buffer[1:2]
    del buffer
    gc.collect()
    assert client.locked, "a view is still there"
    del part
    gc.collect()
    assert not client.locked


def test_memory_that_can_not_be_locked_is_used_as_it_is(monkeypatch):
    client = Client(RuntimeError("UNIMPLEMENTED"))
    monkeypatch.setattr(memory, "default_device", lambda: SimpleNamespace(client=client))
    buffer = memory.transfer_buffer((3, 5), np.float32)
    buffer[:] = 1
    assert buffer.sum() == 15


def test_memory_is_not_locked_on_cpu():
    client = Client()
    client.platform = "cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "default_device", lambda: SimpleNamespace(client=client))
        memory.transfer_buffer((3, 5), np.float32)
    assert not client.locked


def test_the_default_device_is_that_of_new_arrays():
    assert memory.default_device() in jnp.zeros(1).devices()
    last = jax.local_devices()[-1]
    with jax.default_device(last):
        assert memory.default_device() == last


# Several threads


@pytest.fixture
def four_threads(monkeypatch):
    """Four threads, each of which reads a few rows at a time."""
    monkeypatch.setattr(sample_reader, "_n_threads", lambda: 4)
    monkeypatch.setattr(sample_reader, "_BYTES_OF_A_THREAD", 4 * X[:1].nbytes)


@pytest.fixture(params=["array", "float64", ".npy", "HDF5"])
def stored(request, tmp_path):
    if request.param == ".npy":
        np.save(tmp_path / "x.npy", X)
        return lambda: mmf.open_source(tmp_path / "x.npy")
    if request.param == "HDF5":
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["x"] = X
        return lambda: mmf.open_source(tmp_path / "x.h5")
    array = X.astype(np.float64) if request.param == "float64" else X
    return lambda: array


@pytest.mark.parametrize("name", ["all features", "partial B"])
def test_any_number_of_threads_reads_the_same(name, stored, request):
    one = fit(stored(), **SETTINGS[name])
    request.getfixturevalue("four_threads")
    four = fit(stored(), **SETTINGS[name])
    chex.assert_trees_all_equal(one.state, four.state)
    assert one.history[-1].bytes_read == four.history[-1].bytes_read


def test_threads_name_the_first_bad_number(four_threads):
    bad = X.copy()
    bad[40, 3] = bad[250, 2] = np.nan
    with pytest.raises(ValueError, match="nan at sample 40, feature 3"):
        sample_reader.SampleReader(as_source(bad), np.float32).read(np.arange(301))


# Contiguous data sets of HDF5


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2"])
def test_contiguous_data_sets_are_read_past_hdf5(dtype, tmp_path):
    values = np.round(10 * X).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=values)
        file.create_dataset("chunked", data=values, chunks=(16, 50))
    rows = np.array([299, 7, 8, 9, 0])
    with h5py.File(tmp_path / "x.h5") as file:
        source = HDF5Source(file["x"])
        assert source.reads_in_parallel
        np.testing.assert_array_equal(source.read(rows), values[rows])
        np.testing.assert_array_equal(source.read(rows, np.arange(5, 50)), values[rows, 5:50])
        assert source.bytes_read == values[:5].nbytes + 5 * 45 * values.itemsize
        chunked = HDF5Source(file["chunked"])
        assert not chunked.reads_in_parallel
        np.testing.assert_array_equal(chunked.read(rows), values[rows])


@pytest.mark.parametrize("options", [{"mode": "r+"}, {"mode": "r", "driver": "core"}, {"mode": "r", "driver": "stdio"}])
def test_files_of_other_kinds_are_read_by_hdf5(options, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X
    with h5py.File(tmp_path / "x.h5", **options) as file:
        source = HDF5Source(file["x"])
        assert not source.reads_in_parallel
        if options["mode"] == "r+":
            file["x"][3] = 5  # in the memory of HDF5, not yet in the file
            assert (source.read(np.array([3])) == 5).all()


def test_a_user_block_shifts_the_numbers(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        file["x"] = X
    with mmf.open_source(tmp_path / "x.h5") as source:
        np.testing.assert_array_equal(source.read(np.arange(20)), X[:20])
