"""Damaged files, of strangers and our own: the right values, or the one error that names the file. Nothing else.

Mutated files are read by processes with limits of memory and time, since the library behind may crash, hang, or
allocate what a damaged header tells.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf import BadFileError, open_source
from jax_mmf.io import sealed

WORKER = Path(__file__).parent / "damage_worker.py"
# Number of mutated files of each kind in the default run.
KINDS = {
    "npy": 60,
    "npy-fortran": 40,
    "npz": 60,
    "npz-compressed": 60,
    "hdf5": 60,
    "hdf5-chunks": 60,
    "hdf5-gzip": 40,
    "hdf5-rich": 40,
    "permuted": 60,
    "model": 40,
    "model-before": 10,
    "checkpoint": 20,
    "ratings-model": 25,
}
# Other numbers, of a file without a checksum, can't be told from those that were there.
CHECKED = {"npz", "npz-compressed", "model", "checkpoint", "ratings-model"}
needs_fork = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limits are those of Linux")


def outcomes(kind, count, seed, folder):
    command = [sys.executable, str(WORKER), kind, str(count), str(seed), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found.values()) == count
    return found


def check(found, kind):
    allowed = {"same", "bad"} | (set() if kind in CHECKED else {"other"})
    assert set(found) <= allowed, found
    assert found.get("bad", 0) > 0


@needs_fork
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_are_right_or_told(kind, tmp_path):
    check(outcomes(kind, KINDS[kind], 0, tmp_path), kind)


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_mutated_files_are_right_or_told(kind, tmp_path):
    check(outcomes(kind, 100 if kind == "model-before" else 1000, 1, tmp_path), kind)


# Damage that chance does not find


def bad(path, words, **options):
    with pytest.raises(BadFileError, match=words) as caught:
        open_source(path, **options)
    assert path.name in str(caught.value)


X = np.random.default_rng(0).standard_normal((60, 40)).astype("float32")


def hdf5(folder, **options):
    path = folder / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=X, **options)
    return path


def test_external_links_and_storage_are_followed_only_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where HDF5 looks for external storage
    hdf5(tmp_path)
    X.tofile(tmp_path / "raw")
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "x.h5"), "X", X.shape)
    path = tmp_path / "links.h5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("x.h5", "/X")
        file["around"] = h5py.SoftLink("/link")
        file.create_dataset("storage", X.shape, X.dtype, external=[("raw", 0, X.nbytes)])
        file.create_virtual_dataset("virtual", layout)
    for name, words in {
        "link": "a link to another file, x.h5",
        "around": "a link to another file, x.h5",
        "storage": "refers to other files",
        "virtual": "refers to other files",
    }.items():
        bad(path, words + ".*follow_external=True", dataset=name)
        with open_source(path, name, follow_external=True) as source:
            np.testing.assert_array_equal(source.read(np.arange(60)), X)
    (tmp_path / "raw").write_bytes(b"short")
    (tmp_path / "x.h5").unlink()
    for name in ("storage", "virtual"):
        bad(path, "which does not exist or is truncated", dataset=name, follow_external=True)
    with open_source(path, "virtual", follow_external=True, fill_missing=True) as source:
        np.testing.assert_array_equal(source.read(np.arange(2)), 0)


def test_links_inside_of_the_file_are_followed_and_loops_are_told(tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        file["a/b"] = h5py.SoftLink("/X")
        file["a/c"] = h5py.SoftLink("b")
        file["one"], file["two"] = h5py.SoftLink("/two"), h5py.SoftLink("one")
    with open_source(path, "a/c") as source:
        np.testing.assert_array_equal(source.read(np.arange(60)), X)
    bad(path, "leads to itself", dataset="two")


@pytest.mark.parametrize("chunks", [None, (20, 10)])
def test_numbers_that_were_never_written_are_no_zeros(chunks, tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("X", X.shape, X.dtype, chunks=chunks)
        if chunks:
            data[:20] = X[:20]
    bad(path, "lacks 8 of its 12 chunks.*fill_missing=True" if chunks else "never written.*fill_missing=True")
    with open_source(path, fill_missing=True) as source:
        np.testing.assert_array_equal(source.read(np.arange(20, 60)), 0)


def test_a_data_set_beyond_the_end_of_the_file(tmp_path):
    """The size in the superblock is made to agree, so that HDF5 opens the file; before 2.0, it reads zeros."""
    path = hdf5(tmp_path)
    with h5py.File(path) as file:
        end = file["X"].id.get_offset() + X.nbytes
    content = bytearray(path.read_bytes())
    assert end == len(content) == int.from_bytes(content[40:48], "little")
    content[40:48] = (end - 1000).to_bytes(8, "little")
    path.write_bytes(content[: end - 1000])
    bad(path, "truncated|invalid dataset size")


def test_few_bytes_that_promise_many_numbers(tmp_path):
    for name, shape, options in (
        ("rows.h5", (10**9, 50), {"chunks": (1000, 50)}),
        ("bomb.h5", (4, 2**24), {"chunks": (4, 2**24), "compression": "gzip"}),
    ):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("X", shape, "float32", **options)[0, 0] = 1
        bad(
            tmp_path / name, "lacks 999999 of its 1000000 chunks" if name == "rows.h5" else "promises 268,435,456 bytes"
        )
    with open_source(tmp_path / "bomb.h5", max_expansion=2000) as source:
        assert source.n_features == 2**24
    with open_source(tmp_path / "rows.h5", fill_missing=True) as source:  # which costs nothing until rows are read
        np.testing.assert_array_equal(source.read(np.array([0, 10**9 - 1]))[:, :2], [[1, 0], [0, 0]])
    np.savez_compressed(tmp_path / "bomb.npz", X=np.zeros((2, 2**24), "float32"))
    bad(tmp_path / "bomb.npz", "promises 134,217,728 bytes .* max_expansion=")
    with open_source(tmp_path / "bomb.npz", max_expansion=2000) as source:
        assert source.n_features == 2**24


def test_headers_of_numpy_that_lie(tmp_path):
    path = tmp_path / "x.npy"
    for header in (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 3000 + ")" * 3000 + "}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (2, 2)}",
        "{'descr': '<V1000000000', 'fortran_order': False, 'shape': (2, 2)}",
    ):
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64))
        bad(path, "x.npy")
    path.write_bytes(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + bytes(64))
    bad(path, "header has 4,294,967,295 bytes")


def test_a_stored_archive_is_read_with_its_check_sum(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, X=X)
    content = bytearray(path.read_bytes())
    place = content.index(X.tobytes())
    content[place + 100] ^= 1
    path.write_bytes(content)
    bad(path, "CRC")


def test_a_member_that_is_shorter_than_its_header(tmp_path):
    path = tmp_path / "x.npz"
    np.save(tmp_path / "x.npy", X)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("X.npy", (tmp_path / "x.npy").read_bytes()[:-400])
            archive.writestr("y.npy", bytes(1000))
        bad(path, "y in .* is not a NumPy array")
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("X.npy", (tmp_path / "x.npy").read_bytes()[:-400])
        bad(path, "its header announces 9,600 bytes of numbers, and it holds 9,200")


@pytest.mark.parametrize("order", [np.arange(10), np.zeros(40, int), np.arange(40) - 1, np.arange(40.0), None])
def test_a_permutation_that_is_none(order, tmp_path):
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        if order is not None:
            file["X_feature_permutation"] = order
        file["X"].attrs["feature_permutation"] = "/X_feature_permutation"
    bad(path, "feature_permutation of data set '/X' .* must")


@pytest.mark.parametrize("kind", [str, np.bytes_, "reference"])
def test_a_permutation_of_any_name(kind, tmp_path):
    path, order = hdf5(tmp_path), np.random.default_rng(0).permutation(40)
    with h5py.File(path, "r+") as file:
        file["order"] = order
        file["X"].attrs["feature_permutation"] = file["order"].ref if kind == "reference" else kind("/order")
    with open_source(path, "X") as source:
        np.testing.assert_array_equal(source.permutation, order)


# Files that change under a run


def formats(folder):
    """A file of each format that stays on the disk, by its name."""
    np.save(folder / "c.npy", X)
    np.save(folder / "f.npy", np.asfortranarray(X))
    np.savez(folder / "s.npz", X=X)
    with h5py.File(folder / "contiguous.h5", "w") as file:
        file["X"] = X
    with h5py.File(folder / "chunks.h5", "w") as file:
        file.create_dataset("X", data=X, chunks=(20, 10))
    with h5py.File(folder / "gzip.h5", "w") as file:
        file.create_dataset("X", data=X, chunks=(20, 10), compression="gzip")


def touched(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replaced(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def overwritten(path):
    """The same size, other numbers, and another time, as clocks are coarse."""
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    touched(path)


CHANGES = {
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 3000), "was truncated after it was opened"),
    "replaced": (replaced, "replaced by another file"),
    "overwritten": (overwritten, "was changed after it was opened"),
    "removed": (Path.unlink, "removed or renamed"),
    "grown": (lambda path: path.open("ab").write(b"more"), "was changed after it was opened"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["c.npy", "f.npy", "s.npz", "contiguous.h5", "chunks.h5", "gzip.h5"])
def test_a_file_that_changes_under_a_run_is_told_with_its_rows(name, change, tmp_path):
    formats(tmp_path)
    make, words = CHANGES[change]
    with open_source(tmp_path / name) as source:
        np.testing.assert_array_equal(source.read(np.arange(5, 9)), X[5:9])
        make(tmp_path / name)
        with pytest.raises(BadFileError, match=f"{name}.* can't be read at rows 50 to 59: .*({words})") as caught:
            source.read(np.arange(50, 60))
    if name.endswith("h5"):
        assert "data set '/X'" in str(caught.value)


def test_a_run_on_a_file_that_is_truncated_ends_with_an_error_and_keeps_its_result(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["X"] = np.tile(X, (50, 1))
    solver = mmf.OnlineFactorization(n_components=2, penalty=mmf.Ridge(0.1))

    def cut(event):
        if event.step == 3:
            os.truncate(path, path.stat().st_size // 2)

    with open_source(path) as source, pytest.raises(BadFileError, match=r"data set '/X' of .*x\.h5.*rows") as caught:
        mmf.fit(solver, source, key=jax.random.key(0), batch_size=16, n_epochs=2, callbacks=[cut])
    assert np.isfinite(caught.value.result.state.dictionary).all()


def test_a_folder_that_moves_under_a_relative_path_is_no_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    formats(Path())
    for name in ("c.npy", "contiguous.h5"):
        with open_source(name) as source:
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            monkeypatch.chdir(tmp_path / "elsewhere")
            np.testing.assert_array_equal(source.read(np.arange(60)), X)
            monkeypatch.chdir(tmp_path)


# Strings of variable length, of which HDF5 hangs or crashes if they are damaged


def with_damaged_strings(path):
    """Overwrite the heap that holds the strings of attributes."""
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL")
    content[place + 16 : place + 80] = bytes([255]) * 64
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["X_feature_permutation", "order"])
def test_a_damaged_name_of_the_permutation_is_not_followed(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "_SECONDS", 5)
    path, order = hdf5(tmp_path), np.random.default_rng(0).permutation(40)
    with h5py.File(path, "r+") as file:
        file[name] = order
        file["X"].attrs["feature_permutation"] = f"/{name}"
    with_damaged_strings(path)
    if name == "order":
        bad(path, "HDF5 can't read its strings|must refer to", dataset="X")
        return
    with open_source(path, "X") as source:
        np.testing.assert_array_equal(source.permutation, order)


def test_damaged_texts_of_a_model_of_before_are_read_by_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "_SECONDS", 5)
    path = tmp_path / "m.h5"
    path.write_bytes((WORKER.parent / "data" / "model_version_1_full_b.h5").read_bytes())
    with_damaged_strings(path)
    with pytest.raises(BadFileError, match=r"m\.h5 is damaged: HDF5 can't read its strings"):
        mmf.load_model(path)
