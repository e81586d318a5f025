"""Output files: atomic, with the permissions and links of before; never over an input, a device or a pipe."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from jax_mmf.io import check_outputs, hdf5_written_aside, written_aside
from jax_mmf.io.output.leftovers import temporary_prefix


def write(path, text="new"):
    with written_aside(path) as aside:
        aside.write_text(text)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_permissions_of_a_file_that_is_replaced_stay(mode, tmp_path):
    (tmp_path / "m.txt").write_text("old")
    (tmp_path / "m.txt").chmod(mode)
    write(tmp_path / "m.txt")
    assert (tmp_path / "m.txt").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "m.txt").stat().st_mode) == mode


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(exists, tmp_path):
    (tmp_path / "store").mkdir()
    if exists:
        (tmp_path / "store" / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("store/real.txt")
    write(tmp_path / "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "store" / "real.txt").read_text() == "new"
    assert names(tmp_path / "store") == ["real.txt"]


def odd_outputs(folder):
    os.mkfifo(folder / "pipe.h5")
    (folder / "null.h5").symlink_to("/dev/null")
    return [folder / "pipe.h5", folder / "null.h5", Path("/dev/null")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with a name")
@pytest.mark.parametrize("which", range(3))
def test_pipes_and_devices_are_refused_and_stay(which, tmp_path):
    path = odd_outputs(tmp_path)[which]
    before = (path.stat().st_mode, names(tmp_path))
    for attempt in (lambda: write(path), lambda: check_outputs({"--output": path})):
        with pytest.raises(FileExistsError, match=f"{path.name} is a device or a pipe"):
            attempt()
    assert (path.stat().st_mode, names(tmp_path)) == before


def test_names_as_long_as_names_may_be_are_written_and_longer_ones_are_told_before_the_work(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    for name in ("a" * longest, "a." + "b" * (longest - 2)):
        write(tmp_path / name)
    assert [len(name) for name in names(tmp_path)] == [longest] * 2
    with pytest.raises(OSError, match="too long") as caught:
        check_outputs({"--output": tmp_path / ("b" * (longest + 1))})
    assert caught.value.errno == errno.ENAMETOOLONG


# Outputs against inputs and each other


def test_outputs_that_are_inputs_or_each_other_are_told_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "data.h5").write_text("precious")
    (tmp_path / "soft.h5").symlink_to("data.h5")
    (tmp_path / "hard.h5").hardlink_to(tmp_path / "data.h5")
    for name in ("data.h5", "soft.h5", "hard.h5", "folder/../data.h5", tmp_path / "data.h5"):
        with pytest.raises(ValueError, match=f"--log {name} is an input too"):
            check_outputs({"--output": None, "--log": name}, None, "data.h5")
    with pytest.raises(ValueError, match="--output and --log are both hard"):
        check_outputs({"--output": "data.h5", "--log": "hard.h5"})
    with pytest.raises(ValueError, match="--output and --log are both folder"):
        check_outputs({"--output": "new", "--log": "folder/../new"})
    check_outputs({"--output": "m.h5", "--log": "m.jsonl", "--plot": None}, "data.h5", "none.h5")


def test_outputs_in_folders_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*none of m.h5 does not exist"):
        check_outputs({"--output": tmp_path / "none" / "m.h5"})
    (tmp_path / "link.h5").symlink_to("none/m.h5")
    with pytest.raises(FileNotFoundError, match="the folder .*none of link.h5 does not exist"):
        check_outputs({"--output": tmp_path / "link.h5"})


# Temporary files of killed processes

KILLED = """
import os, sys
from jax_mmf.io import written_aside
with written_aside(sys.argv[1]) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are told by Linux alone")
def test_temporary_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    path = tmp_path / "m.h5"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    (left,) = names(tmp_path)
    write(tmp_path / "other.h5")
    assert left in names(tmp_path)  # of another output
    with written_aside(path) as aside:
        assert left not in names(tmp_path)
        aside.write_text("of a living process")
        write(path, "in between")
        assert aside.exists()
    assert path.read_text() == "of a living process"
    # The number of a process may be given again: this one has our number, but another start.
    prefix = temporary_prefix(path)
    machine, pid, _, _ = prefix.removeprefix(".jax-mmf-").split("-")[1:]
    earlier = tmp_path / f"{prefix.split(machine)[0]}{machine}-{pid}-1-abc.h5"
    elsewhere = tmp_path / f"{prefix.split(machine)[0]}{'0' * 8}-{pid}-1-abc.h5"
    earlier.touch()
    elsewhere.touch()
    write(path)
    assert not earlier.exists()
    assert elsewhere.exists()


# Disks

LIMITED = """
import gc, resource, sys
import jax, numpy as np, h5py
import jax_mmf as mmf
path, what, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
x = np.ones((4000, 300), "float32")
key = jax.random.key(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if what == "permuted":
        mmf.write_permuted(path, np.split(x, 20), key=key)
    elif what == "converted":
        mmf.convert(x, path, key=key)
    else:
        with mmf.io.hdf5_written_aside(path) as file:
            for i in range(4000):
                file[f"g{i}/x"] = x[:100, 0]
                file.attrs[f"a{i}"] = "text" * 200
                file.check()
            print("never told")
except OSError as error:
    print(error)
    del error
    gc.collect()
    with h5py.File("more", "w", driver="core", backing_store=False) as file:
        file["x"] = 1
    sys.exit(17)
"""


@pytest.mark.parametrize(
    ("what", "limits"),
    [
        ("permuted", (500, 5000, 20_000, 100_000, 3_000_000)),
        ("small", (500, 8000, 40_000)),
        ("converted", (500, 8000, 50_000, 3_000_000)),
    ],
)
def test_a_full_disk_is_an_error_that_names_the_file_and_the_process_goes_on(what, limits, tmp_path):
    """A limit on the size of files stands in for a full disk."""
    path = tmp_path / "x.h5"
    path.write_text("precious")
    for limit in limits:
        command = [sys.executable, "-c", LIMITED, str(path), what, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 17, (limit, done.returncode, done.stderr)
        assert "File too large" in done.stdout
        assert "x.h5" in done.stdout
        assert "Traceback" not in done.stderr
        assert path.read_text() == "precious"
        assert "never told" not in done.stdout
        assert names(tmp_path) == ["x.h5"] + ["x.h5.partial"] * (what == "converted")


def test_files_and_folders_are_on_the_disk_before_and_after_the_renaming(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(str(Path(f"/proc/self/fd/{handle}").readlink())), fsync(handle))
    )
    monkeypatch.setattr(Path, "replace", lambda self, target: (done.append("renamed"), replace(self, target)))
    with hdf5_written_aside(tmp_path / "x.h5") as file:
        file["x"] = np.ones(3)
    assert len(done) == 3
    assert Path(done[0]).name.startswith(".jax-mmf-")
    assert done[1:] == ["renamed", str(tmp_path)]
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["x"], np.ones(3))


def test_an_error_of_fsync_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "m.txt").write_text("old")

    def fail(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*m\.txt"):
        write(tmp_path / "m.txt")
    assert (tmp_path / "m.txt").read_text() == "old"
    assert names(tmp_path) == ["m.txt"]


def test_errors_of_others_name_no_file_of_ours(tmp_path):
    with pytest.raises(OSError, match=r"^the disk is gone$"), written_aside(tmp_path / "m.txt"):
        raise OSError("the disk is gone")
    assert names(tmp_path) == []
