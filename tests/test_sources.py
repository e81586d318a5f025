"""Sources of samples: what comes out of them is what a plain array gives, and errors say what is wrong."""

import gc
import itertools
import os
import pickle
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.cli.report import size_of
from jax_mmf.io import (
    ArraySource,
    BadFileError,
    BatchSource,
    FeaturePermutation,
    HDF5Source,
    RawSource,
    Source,
    as_source,
    open_source,
    write_permuted,
)

N, P = 37, 23
KEY = jax.random.key(3)


def matrix(dtype="float32"):
    return (np.random.default_rng(0).standard_normal((N, P)) * 100).astype(dtype)


def stored(kind, folder, x):
    """A source of x in some format."""
    path = folder / f"x.{kind.split('-')[0]}"
    if kind == "array":
        return as_source(x)
    if kind == "jax":
        return as_source(jnp.asarray(x))
    if kind == "memmap":
        path = folder / "x.raw"
        x.tofile(path)
        return as_source(np.memmap(path, x.dtype, "r", shape=x.shape))
    if kind.startswith("h5"):
        chunks = {"h5-contiguous": None, "h5-chunked": (5, 7), "h5-gzip": (8, 3)}[kind]
        with h5py.File(path, "w") as file:
            extra = {"compression": "gzip"} if kind == "h5-gzip" else {}
            file.create_dataset("X", data=x, chunks=chunks, **extra)
    elif kind.startswith("npy"):
        np.save(path, np.asfortranarray(x) if kind == "npy-fortran" else x)
    else:
        save = np.savez_compressed if "compressed" in kind else np.savez
        save(path, np.asfortranarray(x) if "fortran" in kind else x)
    return open_source(path)


KINDS = [
    "array",
    "jax",
    "memmap",
    "h5-contiguous",
    "h5-chunked",
    "h5-gzip",
    "npy-c",
    "npy-fortran",
    "npz-stored",
    "npz-compressed",
    "npz-stored-fortran",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_rows_and_columns_asked_for(kind, tmp_path):
    x = matrix()
    source = stored(kind, tmp_path, x)
    assert isinstance(source, Source)
    assert (source.n_samples, source.n_features, source.dtype) == (N, P, x.dtype)
    assert source.permutation is None
    assert source.bytes_read == 0
    generator = np.random.default_rng(1)
    read = 0
    for rows in (generator.permutation(N), generator.choice(N, 9, replace=False), np.array([N - 1]), np.arange(4, 11)):
        for columns in (None, generator.permutation(P)[:6], np.arange(3, 19), np.r_[10:20, 0:9], np.array([P - 1])):
            got = source.read(rows, columns)
            want = x[rows] if columns is None else x[np.ix_(rows, columns)]
            np.testing.assert_array_equal(got, want)
            assert got.dtype == x.dtype
            if kind != "h5-gzip":  # whose bytes in the file are another number
                assert want.nbytes <= source.bytes_read - read <= rows.size * P * x.itemsize
            read = source.bytes_read


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint16", "int64", "bool", ">f4", ">i2"])
@pytest.mark.parametrize("kind", ["array", "h5-chunked", "npy-c", "npy-fortran", "npz-stored"])
def test_numbers_of_every_dtype_are_read_as_they_are_stored(kind, dtype, tmp_path):
    x = matrix(dtype)
    source = stored(kind, tmp_path, x)
    for columns in (None, np.array([3, 1])):
        got = source.read(np.arange(N)[::-1], columns)
        np.testing.assert_array_equal(got, x[::-1] if columns is None else x[::-1][:, columns])
        assert got.dtype == source.dtype == np.dtype(dtype).newbyteorder("=")
        assert got.dtype.isnative


def test_hdf5_reads_wide_runs_of_columns_and_no_more(tmp_path):
    x = np.arange(20 * 600, dtype="float32").reshape(20, 600)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        source = HDF5Source(file.create_dataset("X", data=x, chunks=(4, 100)))
        columns = np.r_[500:600, 100:200]
        np.testing.assert_array_equal(source.read(np.array([7, 3, 4]), columns), x[np.ix_([7, 3, 4], columns)])
        assert source.bytes_read == 3 * 200 * 4


@pytest.mark.parametrize("width", [1, 7, 512])
def test_permuted_files_hold_the_same_matrix_in_another_order_of_the_columns(width, tmp_path):
    x = matrix()
    path = tmp_path / "x.h5"
    write_permuted(path, [x[:10], jnp.asarray(x[10:11]), x[11:]], key=KEY, block_width=width, rows_per_chunk=4)
    source = open_source(path)
    np.testing.assert_array_equal(np.sort(source.permutation), np.arange(P))
    assert not np.array_equal(source.permutation, np.arange(P))
    rows = np.random.default_rng(2).permutation(N)
    np.testing.assert_array_equal(source.read(rows), x[rows][:, source.permutation])
    undo = FeaturePermutation(source.permutation).inverse
    np.testing.assert_array_equal(undo.apply(source.read(rows)), x[rows])


def test_permuted_files_in_a_group_and_in_another_dtype(tmp_path):
    x = matrix("float64")
    write_permuted(tmp_path / "x.h5", iter([x]), key=KEY, dataset="deep/er/X", dtype="float32")
    source = open_source(tmp_path / "x.h5", "deep/er/X")
    assert source.dtype == np.float32
    np.testing.assert_array_equal(source.read(np.arange(N)), x.astype("float32")[:, source.permutation])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least one batch"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], "3 features"),
        ([np.zeros((2, 3, 4))], "2-D"),
        (np.zeros(3), "2-D"),
        ({"X": np.zeros((2, 3))}, "batches must be"),
        ([np.zeros((2, 3)), np.zeros((2, 3), complex)], "real"),
    ],
)
def test_permuted_file_that_fails_leaves_what_was_there(batches, message, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"precious")
    with pytest.raises((ValueError, TypeError), match=message):
        write_permuted(path, batches, key=KEY)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def sources_of_matrices(x):
    yield x
    yield iter([x[:10], x[10:]])
    yield as_source(x)


@pytest.mark.parametrize("which", range(3))
def test_permuted_file_of_a_matrix_is_that_of_its_batches(which, tmp_path):
    x = matrix()
    write_permuted(tmp_path / "x.h5", list(sources_of_matrices(x))[which], key=KEY)
    with open_source(tmp_path / "x.h5") as source:
        np.testing.assert_array_equal(source.read(np.arange(N)), x[:, source.permutation])


def test_permuted_file_of_a_long_matrix_holds_every_row(tmp_path):
    x = np.arange(5000.0).reshape(2500, 2)
    write_permuted(tmp_path / "x.h5", x, key=KEY)
    with open_source(tmp_path / "x.h5") as source:
        np.testing.assert_array_equal(source.read(np.arange(2500)), x[:, source.permutation])


@pytest.mark.parametrize(
    ("batches", "dtype"),
    [
        ([np.ones((2, 3), int), np.full((2, 3), 0.5)], None),
        ([np.ones((2, 3), "int8"), np.full((2, 3), 1000)], None),
        ([np.full((2, 3), 0.5)], "int16"),
        ([np.full((2, 3), 1e300)], "float32"),
        ([np.full((2, 3), -1)], "uint8"),
    ],
)
def test_permuted_file_does_not_change_numbers(batches, dtype, tmp_path):
    with pytest.raises(ValueError, match=f"batch {len(batches) - 1} of batches holds.*give another dtype"):
        write_permuted(tmp_path / "x.h5", batches, key=KEY, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_permuted_file_of_numbers_that_fit_another_dtype(tmp_path):
    write_permuted(tmp_path / "x.h5", [np.array([[1, 2, 200]])], key=KEY, dtype="uint8")
    with open_source(tmp_path / "x.h5") as source:
        assert source.dtype == np.uint8
        np.testing.assert_array_equal(np.sort(source.read(np.array([0]))), [[1, 2, 200]])


def test_permuted_file_of_numbers_that_hdf5_does_not_have(tmp_path):
    x = jnp.asarray(matrix() / 100, jnp.bfloat16)
    write_permuted(tmp_path / "x.h5", x, key=KEY)
    with open_source(tmp_path / "x.h5") as source:
        np.testing.assert_array_equal(source.read(np.arange(N)), np.asarray(x, "float32")[:, source.permutation])


def test_file_that_is_permuted_already_is_not_permuted_again(tmp_path):
    write_permuted(tmp_path / "x.h5", matrix(), key=KEY)
    with open_source(tmp_path / "x.h5") as source, pytest.raises(ValueError, match="permuted already"):
        write_permuted(tmp_path / "y.h5", source, key=KEY)


@pytest.mark.parametrize("options", [{"block_width": 0}, {"rows_per_chunk": -1}, {"dtype": complex}])
def test_options_of_a_permuted_file(options, tmp_path):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        write_permuted(tmp_path / "x.h5", matrix(), key=KEY, **options)


def test_error_of_the_batches_passes_through_and_leaves_no_file(tmp_path):
    def batches():
        yield np.zeros((2, 3))
        raise RuntimeError("the instrument failed")

    with pytest.raises(RuntimeError, match="the instrument failed"):
        write_permuted(tmp_path / "x.h5", batches(), key=KEY)
    assert list(tmp_path.iterdir()) == []


# Iterables


def test_batches_of_any_size_in_their_order():
    x = matrix()
    pieces = [x[:3], x[3], x[4:30], jnp.asarray(x[30:])]
    source = as_source(pieces)
    assert isinstance(source, BatchSource)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(source)), x)
    assert source.bytes_read == 2 * x.nbytes
    assert not source.once
    assert as_source(iter(pieces)).once
    assert as_source(piece for piece in pieces).once


def test_rows_of_lists_are_samples():
    source = as_source([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(source.read(np.array([1, 0]), np.array([2, 0])), [[6, 4], [3, 1]])


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((2, 3, 4)), np.zeros((2, 3), complex), np.array([["a"]])])
def test_bad_batch_is_named(bad):
    batches = as_source([np.zeros((2, 3)), bad])
    with pytest.raises((ValueError, TypeError), match="batch 1 of source"):
        list(batches)


def test_error_of_an_iterator_names_the_batch():
    def batches():
        yield np.zeros((2, 3))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        list(as_source(batches()))
    assert "batch 1" in caught.value.__notes__[0]


@pytest.mark.parametrize("empty", [np.zeros((0, 3)), np.zeros(0), []])
def test_endless_empty_batches_end_at_the_first(empty):
    with pytest.raises(ValueError, match="batch 0 of source must have at least one sample"):
        next(iter(as_source(itertools.repeat(empty))))


def test_numbers_are_no_batches():
    with pytest.raises(ValueError, match="batch 0 of source must be 2-D"):
        list(as_source([1.0, 2.0]))


# Not sources


@pytest.mark.parametrize("data", ["x.h5", Path("x.h5")])
def test_path_is_pointed_to_open_source(data):
    with pytest.raises(TypeError, match="open_source"):
        as_source(data)


@pytest.mark.parametrize("data", [None, 3, {"X": 1}, b"bytes", ArraySource])
def test_other_things_are_refused_by_their_type(data):
    with pytest.raises(TypeError, match="source must be a 2-D array or frame"):
        as_source(data)


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (np.zeros(5), ValueError, ["2-D", "(5,)"]),
        (np.zeros((2, 3, 4)), ValueError, ["2-D", "(2, 3, 4)"]),
        (np.zeros((0, 3)), ValueError, ["(0, 3)"]),
        (np.zeros((3, 0)), ValueError, ["(3, 0)"]),
        (np.zeros((2, 3), complex), TypeError, ["complex128"]),
        (np.array([["a", "b"]]), TypeError, ["<U1"]),
        (np.array([[None, 1]]), TypeError, ["object"]),
        (np.array([[1]], "datetime64[s]"), TypeError, ["datetime64"]),
    ],
)
def test_arrays_that_are_no_matrix_of_real_numbers(array, error, words):
    with pytest.raises(error) as caught:
        as_source(array)
    assert all(word in str(caught.value) for word in words)


# Files that can't be opened: every message names the file and what is wrong


def fails(path, words, dataset=None, errors=(ValueError, KeyError, TypeError)):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(errors) as caught:
            open_source(path, dataset)
    text = str(caught.value)
    missing = [word for word in (path.name, *words) if word not in text]
    assert not missing, f"{missing} not in {text!r}"


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz", ".csv"])
def test_missing_file(suffix, tmp_path):
    fails(tmp_path / f"none{suffix}", ["no file"], errors=FileNotFoundError)


def test_folder_is_no_file(tmp_path):
    (tmp_path / "x.h5").mkdir()
    fails(tmp_path / "x.h5", [], errors=(FileNotFoundError, IsADirectoryError))


def test_unknown_ending(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    fails(tmp_path / "x.csv", [".npy", ".h5"], errors=ValueError)


@pytest.mark.parametrize("content", [b"", b"1 2 3\n", b"\x89HDF\r\n\x1a\n"])
@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz"])
def test_file_that_is_not_what_its_name_says(suffix, content, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    fails(path, [], errors=ValueError)


@pytest.mark.parametrize(
    "kind", ["h5-contiguous", "h5-chunked", "npy-c", "npy-fortran", "npz-stored", "npz-compressed"]
)
@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_truncated_file(kind, share, tmp_path):
    source = stored(kind, tmp_path, np.random.default_rng(0).standard_normal((200, 30)))
    if isinstance(source, HDF5Source):
        source._dataset.file.close()
    path = tmp_path / f"x.{kind.split('-')[0]}"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    fails(path, ["truncated"] if kind != "npy-c" or share > 0.1 else [], errors=ValueError)


@pytest.mark.parametrize("first", [100, 1000, 2000, 3000, 4000, 5000])
def test_damaged_compressed_archive(first, tmp_path):
    """Some damage makes the decompressor fail, and some the check sum."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, X=np.arange(6000.0).reshape(200, 30))
    content = path.read_bytes()
    assert first < len(content) - 200
    path.write_bytes(content[:first] + b"\xff" * 10 + content[first + 10 :])
    fails(path, [], "X", errors=ValueError)
    fails(path, [], errors=ValueError)


@pytest.mark.parametrize("header", ["{'descr': '<f8', 'shape': (", "{}", "{'descr': 3}", "nonsense", "[1, 2", "\x00"])
def test_damaged_header(header, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(80))
    fails(path, [], errors=ValueError)


def several(path):
    if path.suffix == ".npz":
        np.savez(path, one=np.zeros((2, 3)), two=np.zeros((4, 3)), line=np.zeros(3))
        return
    with h5py.File(path, "w") as file:
        file["one"], file["group/two"], file["line"] = np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(3)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_several_data_sets(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    several(path)
    fails(path, ["one", "two", "several"], errors=KeyError)
    fails(path, ["'three'", "one", "two"], "three", errors=KeyError)
    fails(path, ["2-D", "(3,)"], "line", errors=ValueError)
    assert open_source(path, "one").n_samples == 2
    assert open_source(path, "group/two" if suffix == ".h5" else "two").n_samples == 4


def test_group_is_no_data_set(tmp_path):
    several(tmp_path / "x.h5")
    fails(tmp_path / "x.h5", ["'group'", "one"], "group", errors=KeyError)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_only_matrix_is_found_among_other_things(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    x = matrix()
    if suffix == ".npz":
        np.savez(path, X=x, line=np.zeros(3), number=3, text="text")
    else:
        with h5py.File(path, "w") as file:
            file["X"], file["line"], file["number"], file["text"] = x, np.zeros(3), 3, "text"
    np.testing.assert_array_equal(open_source(path).read(np.arange(N)), x)


def test_hdf5_data_set_without_a_shape_is_passed_over(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"] = matrix()
        file["nothing"] = h5py.Empty("float32")
    assert open_source(tmp_path / "x.h5").n_samples == N


def test_object_array_beside_the_matrix_of_an_archive(tmp_path):
    np.savez(tmp_path / "x.npz", X=matrix(), names=np.array(["a", None], object))
    assert open_source(tmp_path / "x.npz", "X").n_samples == N
    assert open_source(tmp_path / "x.npz").n_samples == N


def test_data_set_of_an_npy_file(tmp_path):
    np.save(tmp_path / "x.npy", matrix())
    fails(tmp_path / "x.npy", ["'X'"], "X", errors=KeyError)


BAD = {
    "empty": (np.zeros((0, 3)), ["(0, 3)"]),
    "no features": (np.zeros((3, 0)), ["(3, 0)"]),
    "1-D": (np.zeros(7), ["2-D"]),
    "3-D": (np.zeros((2, 3, 4)), ["2-D"]),
    "0-D": (np.float64(3), ["2-D"]),
    "complex": (np.zeros((2, 3), complex), ["complex128"]),
    "record": (np.zeros((2, 3), [("a", "f4")]), ["'a'"]),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("kind", [".h5", ".npy", ".npz", "compressed.npz"])
def test_matrices_that_are_none(kind, what, tmp_path):
    array, words = BAD[what]
    path = tmp_path / f"x{kind}"
    suffix = path.suffix
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["X"] = array
    elif suffix == ".npy":
        np.save(path, array)
    else:
        (np.savez_compressed if "compressed" in kind else np.savez)(path, X=array)
    fails(path, words, None if suffix == ".npy" else "X")
    fails(path, words)


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz"])
def test_text_and_objects(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["X"] = [["a", "b"]]
        fails(path, ["object"])
        return
    save = np.save if suffix == ".npy" else (lambda p, a: np.savez(p, X=a))
    save(path, np.array([["a", "b"]]))
    fails(path, ["<U1"])
    save(path, np.array([[None, 1]]))
    fails(path, ["objects"], errors=(ValueError, TypeError))


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize("fortran", [False, True])
def test_opening_does_not_load_the_matrix(kind, fortran, tmp_path):
    x = np.zeros((4000, 1000), "float32", order="F" if fortran else "C")
    path = tmp_path / f"x.{kind}"
    np.save(path, x) if kind == "npy" else np.savez(path, X=x)
    tracemalloc.start()
    try:
        source = open_source(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert source.n_samples == 4000
    assert peak < 2e6


def test_raw_source_checks_the_size_of_the_file(tmp_path):
    matrix().tofile(tmp_path / "x.raw")
    source = RawSource(tmp_path / "x.raw", 4 * P, (N - 1, P), np.dtype("float32"))
    np.testing.assert_array_equal(source.read(np.array([5, 0])), matrix()[[6, 1]])
    with pytest.raises(ValueError, match="truncated"):
        RawSource(tmp_path / "x.raw", 0, (N + 1, P), np.dtype("float32"))


# Closing


def open_files(folder):
    """Files of a folder that this process has open or mapped."""
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    mapped = Path("/proc/self/maps").read_text()
    return [p for p in folder.iterdir() if str(p) in mapped or str(p) in opened]


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="open files are listed by Linux alone")


@needs_proc
@pytest.mark.parametrize("kind", KINDS)
def test_closed_source_lets_go_of_its_file(kind, tmp_path):
    with stored(kind, tmp_path, matrix()) as source:
        np.testing.assert_array_equal(source.read(np.array([3])), matrix()[[3]])
    assert open_files(tmp_path) == []
    for path in tmp_path.iterdir():
        path.write_bytes(b"something new")
    with pytest.raises(ValueError, match="was closed; .*open it again"):
        source.read(np.array([3]))
    source.close()


@needs_proc
def test_open_data_set_is_seen_by_the_test_before(tmp_path):
    source = stored("h5-gzip", tmp_path, matrix())
    assert open_files(tmp_path) == [tmp_path / "x.h5"]
    source.close()


@needs_proc
@pytest.mark.parametrize("dataset", [None, "three", "line", "group", "bad"])
def test_file_that_can_not_be_used_is_not_left_open(dataset, tmp_path):
    several(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["bad"] = np.zeros((2, 3), complex)
    with pytest.raises((KeyError, ValueError, TypeError)):
        open_source(tmp_path / "x.h5", dataset)
    assert open_files(tmp_path) == []


def test_file_closed_by_others_is_named(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        source = as_source(file.create_dataset("X", data=matrix()))
    with pytest.raises(ValueError, match="x.h5.*its file was closed"):
        source.read(np.array([0]))


# Chunks


def chunked(path, chunks, cache=0, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=np.ones((400, 64), "float32"), chunks=chunks, **options)
    return HDF5Source(h5py.File(path, rdcc_nbytes=cache)["X"])


BLOCK = np.arange(16, 32)
IN_ROWS = np.r_[0:50, 100:150]


@pytest.mark.parametrize(
    ("chunks", "rows", "columns", "excess"),
    [
        ((100, 64), np.arange(100), None, 1),
        ((200, 64), np.arange(100), None, 2),
        ((200, 64), np.arange(20), None, 10),
        ((100, 64), IN_ROWS, None, 2),
        ((100, 64), np.arange(100), BLOCK, 4),
        ((200, 64), np.arange(100), BLOCK, 8),
        ((100, 16), np.arange(100), BLOCK, 1),
        ((100, 16), np.arange(100), BLOCK + 8, 2),
    ],
)
def test_excess_is_what_compressed_chunks_hold_beside_what_is_needed(chunks, rows, columns, excess, tmp_path):
    with chunked(tmp_path / "x.h5", chunks, compression="gzip") as source:
        assert source.excess(rows, columns) == excess


@pytest.mark.parametrize("cache", [0, 400 * 64 * 4])
def test_chunks_that_are_read_in_part_or_kept_cost_nothing_more(cache, tmp_path):
    options = {"compression": "gzip"} if cache else {}
    with chunked(tmp_path / "x.h5", (200, 64), cache, **options) as source:
        assert source.excess(np.arange(20)) == 1


def test_rows_that_are_not_there_are_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    for source in (open_source(tmp_path / "x.npy"), as_source(np.ones((4, 3)))):
        for rows in ([4], [-1], [0, 9]):
            with pytest.raises(IndexError, match="rows 0 to 3"):
                source.read(np.array(rows))


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((400, 30)))
    source = open_source(tmp_path / "x.npy")
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(
        BadFileError,
        match=r"x\.npy can't be read at rows 0 to 19: .* truncated after it was opened: 2000 bytes instead of 96128",
    ):
        source.read(np.arange(20))


def test_columns_in_one_wide_compressed_chunk_are_read_at_once(tmp_path):
    columns = np.r_[16:32, 48:64]
    with chunked(tmp_path / "x.h5", (100, 64), compression="gzip") as source:
        np.testing.assert_array_equal(source.read(np.arange(10), columns), np.ones((10, 32)))
        with h5py.File(tmp_path / "x.h5") as file:
            data = file["X"]
            one_chunk = data.id.get_storage_size() / data.id.get_num_chunks()
        assert source.bytes_read == pytest.approx(one_chunk, abs=1)
    with chunked(tmp_path / "x.h5", (100, 64)) as source:
        source.read(np.arange(10), columns)
        assert source.bytes_read == 10 * 32 * 4


# Arrays in another order, and files in many places


ORDERS = {
    "transposed": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "read only": lambda x: np.broadcast_to(x, (2, *x.shape))[1],
}


@pytest.mark.parametrize("order", ORDERS)
def test_arrays_in_any_order_of_memory_are_read_without_a_whole_copy(order):
    x = np.random.default_rng(0).standard_normal((3000, 400)).astype("float32")
    source = as_source(ORDERS[order](x))
    rows = np.random.default_rng(1).permutation(3000)[:50]
    out = np.empty((50, 400), "float32")
    tracemalloc.start()
    try:
        source.read_into(out, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(out, x[rows])
    assert peak < x.nbytes / 10


def test_a_file_in_fortran_order_is_read_in_bands_once_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_mmf.io.raw_source._BAND_BYTES", 4 * 30 * 64)
    x = np.random.default_rng(0).standard_normal((300, 30)).astype("float32")
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    solver = mmf.OnlineFactorization(n_components=2, penalty=mmf.Ridge(0.1))
    with open_source(tmp_path / "f.npy") as source:
        assert source.rows_per_read == source.rows_per_chunk == 64
        mmf.fit(solver, source, key=KEY, batch_size=20, n_epochs=2)
        # Bands stay in memory between the epochs; the first dictionary is made of two rows from two bands.
        assert x.nbytes <= source.bytes_read <= x.nbytes * 1.5
        np.testing.assert_array_equal(source.read(np.arange(300)[::-7]), x[::-7])
        np.testing.assert_array_equal(source.read(np.arange(40, 140), np.array([7, 2])), x[40:140, [7, 2]])


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_source_of_a_file_goes_through_pickle_and_notices_another_file(order, tmp_path):
    x = matrix()
    np.save(tmp_path / "x.npy", np.asarray(x, order=order))
    with open_source(tmp_path / "x.npy") as source:
        sent = pickle.dumps(source)
        with pickle.loads(sent) as again:
            np.testing.assert_array_equal(again.read(np.arange(N)), x)
    np.save(tmp_path / "x.npy", x + 1)
    with pytest.raises(BadFileError, match="x.npy was .* after it was opened"):
        pickle.loads(sent)


def test_threads_share_a_source(tmp_path):
    x = np.arange(200_000.0).reshape(2000, 100)
    np.save(tmp_path / "x.npy", x)
    generator = np.random.default_rng(0)
    parts = [generator.permutation(2000)[:300] for _ in range(40)]
    with open_source(tmp_path / "x.npy") as source, ThreadPoolExecutor(4) as pool:
        for rows, got in zip(parts, pool.map(source.read, parts), strict=True):
            np.testing.assert_array_equal(got, x[rows])


@needs_proc
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("kind", ["npy-c", "npy-fortran", "h5-contiguous", "h5-gzip"])
def test_a_forked_process_reads_the_source_of_its_parent(kind, tmp_path):
    with stored(kind, tmp_path, matrix()) as source:
        child = os.fork()
        if child == 0:
            right = np.array_equal(source.read(np.arange(N)), matrix())
            os._exit(0 if right else 1)
        for _ in range(20):
            np.testing.assert_array_equal(source.read(np.arange(N)), matrix())
        assert os.waitpid(child, 0)[1] == 0


@needs_proc
def test_a_source_that_is_dropped_closes_its_file_without_a_warning(tmp_path):
    source = stored("npy-c", tmp_path, matrix())
    assert open_files(tmp_path)
    del source
    gc.collect()
    assert open_files(tmp_path) == []


def test_rows_of_a_list_have_one_length():
    with pytest.raises(ValueError, match="source must have rows of one length; row 0 has 2 numbers and row 2 has 1"):
        as_source([[1.0, 2.0], [3.0, 4.0], [5.0]])


def test_an_empty_path_is_named():
    with pytest.raises(FileNotFoundError, match="path must name a file or a folder, got an empty text"):
        open_source("")


@pytest.mark.parametrize(("size", "text"), [(2_500_000_000, "2.5 GB"), (3_000_000, "3 MB"), (512, "0.512 kB")])
def test_sizes_are_described(size, text):
    assert size_of(size) == text
