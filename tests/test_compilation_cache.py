"""Compiled programs on disk: where they are, and that another process finds them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jax_mmf as mmf

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def _settings_come_back(monkeypatch, tmp_path):
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.skipif(sys.platform != "linux", reason="the folder of another system")
def test_default_folder_is_in_the_cache_of_the_user(monkeypatch, tmp_path):
    folder = mmf.enable_compilation_cache()
    assert folder.parent == tmp_path / "cache" / "jax-mmf" / "xla"
    assert folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert mmf.enable_compilation_cache().parent == tmp_path / "home" / ".cache" / "jax-mmf" / "xla"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the instructions")
def test_each_kind_of_cpu_has_a_folder(monkeypatch):
    folders = set()
    for flags in ("fpu sse", "fpu sse avx512f", "fpu sse"):
        text = f"processor\t: 0\nflags\t\t: {flags}\ncpu MHz\t\t: 2000\n"
        monkeypatch.setattr(Path, "read_text", lambda _, text=text, **__: text)
        jax.config.update("jax_compilation_cache_dir", None)
        folders.add(mmf.enable_compilation_cache())
    assert len(folders) == 2


def test_a_folder_that_jax_is_configured_to_use_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    limits = [getattr(jax.config, name) for name in SETTINGS]
    assert mmf.enable_compilation_cache() == tmp_path / "mine"
    assert [getattr(jax.config, name) for name in SETTINGS] == limits
    assert mmf.enable_compilation_cache(tmp_path / "given") == tmp_path / "given"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")


def test_a_folder_that_can_not_be_made_is_a_warning(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match=r"compiled programs are not kept.*cache"):
        assert mmf.enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


PROGRAM = """
import sys, jax, jax_mmf as mmf
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
mmf.enable_compilation_cache(sys.argv[1])
assert float(jax.jit(lambda x: (x * x).sum())(jax.numpy.arange(4.0))) == 14
print(*(sum(e == f"/jax/compilation_cache/cache_{what}" for e in seen) for what in ("hits", "misses")))
"""


def test_another_process_finds_the_programs(tmp_path):
    def run():
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "xla")],
            capture_output=True, text=True, check=True, timeout=120, env=dict(os.environ),
        )  # fmt: skip
        return [int(word) for word in process.stdout.split()]

    hits, misses = run()
    assert hits == 0
    assert misses > 0
    assert any((tmp_path / "xla").iterdir())
    assert run() == [misses, 0]
