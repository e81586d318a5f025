"""What a run asks of its source, and what it says where a source does not give it."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from fractions import Fraction

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.io import HDF5Source, MatrixSource
from jax_mmf.training import feed, mixing
from jax_mmf.training import prefetch as prefetch_module
from jax_mmf.training.buffers import Buffers
from jax_mmf.training.held_out import count_held_out

KEY = jax.random.key(0)
N, P, K = 40, 6, 3
X = np.random.default_rng(0).standard_normal((N, P)).astype("float32")
SOLVER = mmf.OnlineFactorization(n_components=K, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball())


def fit(source, **options):
    return mmf.fit(SOLVER, source, key=KEY, **({"batch_size": 16} | options))


# Samples held out


@pytest.mark.parametrize(
    ("held_out", "count"),
    [
        (None, 0),
        (1, 1),
        (99, 99),
        (np.int8(7), 7),
        (np.array(7), 7),
        (jnp.array(7), 7),
        (0.1, 10),
        (np.float32(0.1), 10),
        (np.float16(0.1), 10),
        (np.array(0.1), 10),
        (jnp.array(0.1), 10),
        (Fraction(1, 4), 25),
        (0.006, 1),
        (0.994, 99),
    ],
)
def test_whole_numbers_are_samples_and_others_are_shares(held_out, count):
    assert count_held_out(held_out, 100) == count


@pytest.mark.parametrize(
    ("held_out", "error", "words"),
    [
        (1.0, ValueError, "share.*below 1; got 1.0. Pass an int"),
        (np.float32(1), ValueError, "share.*below 1"),
        (2.0, ValueError, "share"),
        (0.0, ValueError, "share.*above 0.*None to hold none out"),
        (-0.1, ValueError, "share"),
        (float("nan"), ValueError, "share.*nan"),
        (float("inf"), ValueError, "share.*inf"),
        (0, ValueError, "number of samples.*at least 1.*None to hold none out"),
        (-1, ValueError, "number of samples"),
        (100, ValueError, "below the 100 of source"),
        (np.array(100), ValueError, "below the 100 of source"),
        (0.004, ValueError, "held_out=0.004 of 100 samples is less than one; pass another share"),
        (0.996, ValueError, "held_out=0.996 of 100 samples is all of them"),
        (True, TypeError, "got True"),
        (np.True_, TypeError, "True"),
        (np.array(True), TypeError, "True"),
        ("0.1", TypeError, "'0.1'"),
        (1j, TypeError, "1j"),
        (np.datetime64("2020"), TypeError, "2020"),
    ],
)
def test_numbers_that_hold_out_nothing_or_everything(held_out, error, words):
    with pytest.raises(error, match=words) as caught:
        count_held_out(held_out, 100)
    assert str(caught.value).startswith("held_out")


def test_scalar_arrays_are_numbers_in_fit():
    for held_out in (np.array(4), jnp.array(4), np.array(0.1), jnp.array(0.1)):
        assert fit(X, held_out=held_out).history[-1].n_samples == N - 4
    with pytest.raises(ValueError, match="iterable of batches, got 4"):
        fit([X], held_out=4)


@pytest.mark.parametrize("held_out", [X[:3].tolist(), X[:3].astype(">f8"), np.asarray(X[:3], "float64")])
def test_samples_of_their_own_are_held_out_whatever_holds_them(held_out):
    assert fit(X, held_out=held_out).history[-1].objective == fit(X, held_out=X[:3]).history[-1].objective


def test_no_samples_of_their_own_are_refused():
    with pytest.raises(ValueError, match="held_out must hold at least one sample"):
        fit(X, held_out=X[:0])


# Sources that do not do what they should


class Mine:
    """A source of a user's own, some reads of which are spoiled."""

    n_samples, n_features, dtype, rows_per_read, permutation, bytes_read = N, P, X.dtype, 1, None, 0

    def __init__(self, spoil):
        self.spoil, self.n_reads = spoil, 0

    def read(self, rows, columns=None):
        self.n_reads += 1
        x = X[rows] if columns is None else X[np.ix_(rows, columns)]
        return x if self.n_reads < 4 else self.spoil(x)


@pytest.mark.parametrize("spoil", [lambda x: x[1:], lambda x: x[:, 1:], lambda x: x[:0], lambda x: x[0], lambda x: x.T])
def test_reads_of_the_wrong_shape_are_an_error(spoil):
    with pytest.raises(ValueError, match=r"source.read must give an array of shape \(16, 6\)") as caught:
        fit(Mine(spoil))
    assert int(caught.value.result.state.step) >= 1


def test_sources_may_give_lists_and_another_byte_order():
    want = fit(X).state.dictionary
    for spoil in (np.ndarray.tolist, lambda x: x.astype(">f4"), jnp.asarray):
        np.testing.assert_array_equal(fit(Mine(spoil)).state.dictionary, want)


@pytest.mark.parametrize("what", [{"n_features": 0}, {"n_samples": 0}, {"dtype": np.dtype(complex)}])
def test_sources_of_nothing_are_refused(what):
    source = Mine(None)
    vars(source).update(what)
    with pytest.raises((ValueError, TypeError), match="source must"):
        fit(source)


def test_batches_that_can_be_iterated_over_once_and_hide_it():
    class Once:
        batches = iter([X[:20], X[20:]])

        def __iter__(self):
            yield from self.batches

    with pytest.raises(ValueError, match="no batches in epoch 2.*n_epochs=1") as caught:
        fit(Once(), n_epochs=3)
    assert int(caught.value.result.state.step) == 2


@pytest.mark.parametrize("read_ahead", [0, 2])
def test_error_in_the_middle_of_a_run_names_the_batch_and_keeps_the_result(read_ahead):
    def batches():
        yield X[:20]
        yield X[20:]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        fit(batches(), read_ahead=read_ahead)
    assert any("batch 2" in note for note in caught.value.__notes__)
    assert int(caught.value.result.state.step) == 2


class Files:
    """Batches out of a file that is open while they are iterated over."""

    def __init__(self, batches):
        self.batches, self.n_open = batches, 0

    def __iter__(self):
        self.n_open += 1
        try:
            yield from self.batches
        finally:
            self.n_open -= 1


@pytest.mark.parametrize("read_ahead", [0, 2])
@pytest.mark.parametrize("n_epochs", [1, 2])
def test_no_file_stays_open_after_an_error(read_ahead, n_epochs):
    files = Files([X, X, X])

    def fail(event):
        if event.step == 3 * n_epochs - 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fit(files, callbacks=[fail], read_ahead=read_ahead, n_epochs=n_epochs)
    assert caught.value.result is not None  # and so the frames of the run, which hold the source, are still there
    assert files.n_open == 0


def test_iterator_goes_on_after_a_run_that_ended_early():
    batches = iter([X, X + 1, X + 2])
    fit(batches, callbacks=[lambda event: True], read_ahead=0)
    np.testing.assert_array_equal(next(batches), X + 1)


def test_endless_batches_end_with_the_run():
    result = fit(itertools.repeat(X), callbacks=[lambda event: event.step == 3])
    assert int(result.state.n_samples) == 3 * N


# Chunks that are read again and again


def chunked(path, chunks, **options):
    with h5py.File(path, "w") as file:
        data = np.random.default_rng(0).standard_normal((400, 512)).astype("float32")
        file.create_dataset("X", data=data, chunks=chunks, **options)
    return h5py.File(path, rdcc_nbytes=1024)["X"]


PARTIAL = mmf.OnlineFactorization(
    n_components=K,
    penalty=mmf.Ridge(0.1),
    constraint=mmf.L2Ball(),
    subset=mmf.BlockSubset(reduction=4, n_blocks=32),
    partial_b=True,
)


@pytest.mark.parametrize(
    ("solver", "chunks", "batch_size", "words"),
    [
        (SOLVER, (200, 512), 25, r"\(200, 512\).*batch of 25 samples.* 8 times.*each chunk 8.0 times.*at least 200"),
        (PARTIAL, (100, 512), 100, r"batch of 100 samples.* 4 times as many numbers.*each chunk 1.0 times"),
    ],
)
def test_compressed_chunks_that_are_read_many_times_are_warned_of_once(
    solver, chunks, batch_size, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(mixing, "_BYTES_OF_CHUNKS", 0)  # no chunk is small enough to be kept
    data = chunked(tmp_path / "x.h5", chunks, compression="gzip")
    with pytest.warns(UserWarning, match=words) as caught:
        mmf.fit(solver, data, key=KEY, batch_size=batch_size, n_epochs=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    data.file.close()


@pytest.mark.parametrize(
    ("chunks", "options", "batch_size"),
    [((25, 512), {"compression": "gzip"}, 25), ((200, 512), {"compression": "gzip"}, 100), ((200, 512), {}, 25)],
)
def test_chunks_that_suit_the_batches_are_no_reason_to_warn(chunks, options, batch_size, tmp_path):
    data = chunked(tmp_path / "x.h5", chunks, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mmf.fit(SOLVER, data, key=KEY, batch_size=batch_size)
    data.file.close()


def test_permuted_file_written_for_a_solver_is_no_reason_to_warn(tmp_path):
    x = np.random.default_rng(0).standard_normal((400, 512)).astype("float32")
    width = PARTIAL.subset.layout(512)[0]
    mmf.write_permuted(tmp_path / "x.h5", x, key=KEY, block_width=width, rows_per_chunk=100)
    with h5py.File(tmp_path / "x.h5", rdcc_nbytes=0) as file, warnings.catch_warnings():
        warnings.simplefilter("error")
        mmf.fit(PARTIAL, file["X"], key=KEY, batch_size=100)


@pytest.mark.parametrize("chunks", [(200, 512), (30, 512), (100, 100), (7, 512)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_compressed_chunk_is_decoded_once_an_epoch(chunks, shuffle, tmp_path, monkeypatch):
    """Whether some chunks fit into memory or all, and a resumed run goes on as if it had not stopped."""
    data = chunked(tmp_path / "x.h5", chunks, compression="gzip")
    kept = 2 * -(-25 // chunks[0]) + 4
    monkeypatch.setattr(mixing, "_BYTES_OF_CHUNKS", kept * chunks[0] * 512 * 4)
    read, read_into = [], HDF5Source._read_into

    def counted(source, out, rows, columns):
        read.extend(rows)
        read_into(source, out, rows, columns)

    monkeypatch.setattr(HDF5Source, "_read_into", counted)
    n_epochs = 3
    result = mmf.fit(SOLVER, data, key=KEY, batch_size=25, n_epochs=n_epochs, shuffle=shuffle)
    all_kept = -(-400 // chunks[0]) <= kept
    counts = np.bincount(read, minlength=400)
    # And once for the first dictionary, and for the checksum of the first, the middle and the last sample.
    assert counts.max() <= (1 if all_kept else n_epochs) + 2
    assert counts.min() >= 1
    resumed = mmf.fit(SOLVER, data, key=KEY, batch_size=25, n_epochs=n_epochs, shuffle=shuffle,
                      callbacks=[lambda event: event.step == 20])  # fmt: skip
    resumed = mmf.fit(SOLVER, data, state=resumed.state, batch_size=25, n_epochs=n_epochs, shuffle=shuffle)
    jax.tree.map(np.testing.assert_array_equal, resumed.state.dictionary, result.state.dictionary)
    data.file.close()


def test_bytes_of_a_compressed_file_are_those_of_the_file(tmp_path):
    data = np.zeros((400, 512), "float32")
    data[:, 0] = np.arange(400)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset("X", data=data, chunks=(100, 512), compression="gzip")
        size = stored.id.get_storage_size()
        result = mmf.fit(SOLVER, stored, key=KEY, batch_size=100)
    chunks = result.history[-1].bytes_read / (size / 4)
    assert chunks == pytest.approx(round(chunks), abs=0.01)
    assert 4 <= round(chunks) <= 8  # each once, and some for the first dictionary


# Memory that is used again


class Poisoned(Buffers):
    """Memory in which nothing can be read once it was given back."""

    taken, known = 0, []

    def take(self, shape):
        buffer = super().take(shape)
        Poisoned.taken += 1
        if not any(buffer.ctypes.data == other.ctypes.data for other in Poisoned.known):
            Poisoned.known.append(buffer)
        return buffer

    def give_back(self, buffer):
        buffer[:] = np.nan
        super().give_back(buffer)


class Fresh(Buffers):
    """Memory that is used once."""

    def give_back(self, buffer):
        pass


@pytest.mark.parametrize("read_ahead", [0, 1, 3])
@pytest.mark.parametrize("kind", ["array", "float64", "batches", "short batches", "partial B"])
def test_memory_is_not_overwritten_while_a_step_reads_it(kind, read_ahead, monkeypatch):
    x = np.random.default_rng(0).standard_normal((400, 3000)).astype("float32")
    solver = SOLVER
    if kind == "partial B":
        solver = PARTIAL
    batch_size = 30 if kind == "short batches" else 20
    source = {"float64": x.astype("float64"), "batches": [x[i : i + 20] for i in range(0, 400, 20)]}.get(kind, x)
    dtype = "float32" if kind == "float64" else None
    run = lambda read_ahead: mmf.fit(
        solver,
        source,
        key=KEY,
        batch_size=batch_size,
        n_epochs=10,
        read_ahead=read_ahead,
        dtype=dtype,
        evaluate_every=7,
    )
    monkeypatch.setattr(feed, "Buffers", Fresh)
    expected = run(0)
    monkeypatch.setattr(feed, "Buffers", Poisoned)
    Poisoned.taken, Poisoned.known = 0, []
    result = run(read_ahead)
    np.testing.assert_array_equal(result.state.dictionary, expected.state.dictionary)
    assert [r.objective for r in result.history] == [r.objective for r in expected.history]
    assert Poisoned.taken >= 140
    # One is filled, those that wait, one is in the hand of the caller, and two are read by steps.
    assert len(Poisoned.known) <= read_ahead + 5


@pytest.mark.parametrize("slow", ["reads", "steps"])
def test_memory_is_not_overwritten_when_one_side_waits_for_the_other(slow, monkeypatch):
    """200 steps each, in which the reader or the steps are behind."""
    x = np.random.default_rng(0).standard_normal((400, 3000)).astype("float32")

    class Source(MatrixSource):
        def _read_into(self, out, rows, columns):
            time.sleep(0.003 * (slow == "reads"))
            out[:] = x[rows]

    def wait(event):
        time.sleep(0.003 * (slow == "steps"))

    run = lambda **options: mmf.fit(
        SOLVER, Source("source", x.shape, x.dtype), key=KEY, batch_size=20, n_epochs=10, **options
    )
    monkeypatch.setattr(feed, "Buffers", Fresh)
    expected = run(read_ahead=0)
    monkeypatch.setattr(feed, "Buffers", Poisoned)
    Poisoned.taken, Poisoned.known = 0, []
    result = run(callbacks=[wait])
    np.testing.assert_array_equal(result.state.dictionary, expected.state.dictionary)
    assert Poisoned.taken == 200
    assert len(Poisoned.known) <= 2 + 5


def test_samples_are_not_copied_on_their_way_to_a_step(monkeypatch):
    items = []
    monkeypatch.setattr(feed.Feed, "give_back", lambda self, item: items.append(item))
    fit(np.random.default_rng(0).standard_normal((200, 2000)).astype("float32"))
    assert items
    assert all(item.x.unsafe_buffer_pointer() == item.buffer.ctypes.data for item in items)


COPIES = """
import re, jax, jax.numpy as jnp, jax_mmf as mmf
from jax_mmf.training.fitting import _step_whole
k, p, b = 40, 40_000, 24
for subset in (mmf.FullSubset(), mmf.UniformSubset(4, width=16), mmf.BlockSubset(4)):
    solver = mmf.OnlineFactorization(n_components=k, penalty=mmf.Ridge(0.1), subset=subset)
    state = jax.eval_shape(lambda x: solver.init(jax.random.key(0), samples=x), jnp.ones((k, p)))
    x = jax.ShapeDtypeStruct((b, p), jnp.float32)
    program = _step_whole.lower(solver, state, x, None, jnp.int32(b)).compile()
    for rows in (k, b):
        assert not re.search(rf"f32.{rows},{p}\\S* copy\\(", program.as_text()), (subset, rows)
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * k * p * 4
    parts = 1.5 if subset.reduction > 1 else 1  # of the dictionary, B and samples, for the subset
    assert memory.temp_size_in_bytes < parts * k * p * 4, (subset, memory)
"""


def test_a_step_makes_no_copy_as_large_as_the_dictionary():
    """With the flags that users have."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", COPIES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# A read that never comes back


class Hanging:
    """A source whose reads hang, from one on, until they are let go."""

    n_samples, n_features, dtype, rows_per_read, permutation, bytes_read = N, P, X.dtype, 1, None, 0

    def __init__(self, first):
        self.first, self.n_reads = first, 0
        self.hangs, self.let_go = threading.Event(), threading.Event()

    def read(self, rows, columns=None):
        self.n_reads += 1
        if self.n_reads >= self.first:
            self.hangs.set()
            assert self.let_go.wait(60)
        return X[rows]


@pytest.fixture
def hanging(monkeypatch):
    monkeypatch.setattr(prefetch_module, "_PATIENCE", 0.3)
    source = Hanging(5)
    yield source
    source.let_go.set()
    for thread in threading.enumerate():
        if thread.name == "jax-mmf-reader":
            thread.join(60)


def test_an_error_does_not_wait_for_a_read_that_hangs(hanging):
    def fail(event):
        assert hanging.hangs.wait(60)
        raise RuntimeError("broken")

    with (
        pytest.warns(UserWarning, match="its thread is abandoned"),
        pytest.raises(RuntimeError, match="broken") as caught,
    ):
        fit(hanging, callbacks=[fail])
    assert int(caught.value.result.state.step) == 1


def test_ctrl_c_ends_a_run_that_waits_for_a_read_that_hangs(hanging):
    def press():
        hanging.hangs.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.warns(UserWarning, match="its thread is abandoned"):
        result = fit(hanging)
    thread.join()
    assert result.stopped_by == "interrupt"
    assert int(result.state.step) >= 1
    assert result.history[-1].step == int(result.state.step)


# Files that callbacks write


@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_callbacks_do_not_write_over_the_data(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, X)
    else:
        with h5py.File(path, "w") as file:
            file["X"] = X
    before = path.read_bytes()
    callbacks = [mmf.JSONLines(path)] if kind == "npy" else [mmf.Checkpoint(path, every=1)]
    with mmf.open_source(path) as source, pytest.raises(ValueError, match="is an input too"):
        fit(source, callbacks=callbacks)
    log = tmp_path / "log.jsonl"
    with pytest.raises(ValueError, match="are both"):
        fit(X, callbacks=[mmf.JSONLines(log), mmf.JSONLines(log)])
    assert path.read_bytes() == before
