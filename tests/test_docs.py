"""Every piece of Python in the README, in the documentation and in docstrings runs as it stands."""

import doctest
import functools
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import jax_mmf

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts)]
SLOW = ("README.md", "steps.md", "fitting.md", "derivatives.md", "hyperparameters.md", "penalties.md", "extending.md")
MODULES = [m.name for m in pkgutil.walk_packages(jax_mmf.__path__, "jax_mmf.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name in SLOW), id=str(page.relative_to(ROOT)))
        for page in PAGES
    ],
)
def test_code_of_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@functools.cache
def examples_of(module):
    return doctest.testmod(importlib.import_module(module))


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_of_module(module):
    assert examples_of(module).failed == 0


def test_some_docstrings_have_examples():
    assert sum(examples_of(module).attempted for module in MODULES) > 5


def test_everything_public_has_a_docstring():
    without = [name for name in jax_mmf.__all__ if not name.startswith("__") and not getattr(jax_mmf, name).__doc__]
    assert without == []


@pytest.mark.parametrize("package", ["", ".datasets", ".estimators", ".extending", ".fmri", ".io", ".selection"])
def test_everything_public_has_an_example(package):
    module = importlib.import_module(f"jax_mmf{package}")
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    assert names
    without = [name for name in names if callable(getattr(module, name)) and ">>>" not in getattr(module, name).__doc__]
    assert without == []
