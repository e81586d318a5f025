"""Every piece of Python in the README, in the documentation and in docstrings runs as it stands."""

import doctest
import functools
import importlib.util
import json
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import jax_mmf

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts)]
SLOW = (
    "README.md",
    "steps.md",
    "fitting.md",
    "derivatives.md",
    "hyperparameters.md",
    "guides/penalties.md",
    "extending.md",
)
MODULES = [m.name for m in pkgutil.walk_packages(jax_mmf.__path__, "jax_mmf.") if not m.name.endswith("__main__")]


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * str(page).endswith(SLOW), id=str(page.relative_to(ROOT)))
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


@pytest.fixture(scope="module")
def extension():
    """Import a module of docs/, by its path."""

    def module(path):
        spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "docs" / path)
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found

    return module


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: jax_mmf.Lasso(-1.0),
        lambda: jax_mmf.open_source("no-such-file.h5"),
        lambda: jax_mmf.decode(jax_mmf, jax_mmf),
        lambda: jax_mmf.selection.alpha_grid(None, [[1.0]], key=None, n_alphas=0),
    ],
)
def test_the_page_of_errors_has_the_text_of_an_error(extension, wrong):
    with pytest.raises(Exception, match=".") as raised:
        wrong()
    listed = [
        message for message in extension("ext/error_messages.py").messages("jax_mmf") if raised.typename == message.kind
    ]
    patterns = [".+".join(map(re.escape, re.split(r"{.*?}", message.text))) for message in listed]
    assert any(re.fullmatch(pattern, str(raised.value), re.DOTALL) for pattern in patterns), str(raised.value)


def test_texts_of_errors_are_read_from_expressions(extension):
    source = """
_HINT = "give one file"
def f(name, values):
    if not values:
        raise ValueError(f"{name} must hold " + ("numbers" if name else "text") + f"; {_HINT}, not {len(values)} "
                         "files")
    warnings.warn("slow on this device", RuntimeWarning)
    warn(f"{name} is unused")
    raise KeyError(name)
"""
    found = [message[1:] for message in extension("ext/error_messages.py").messages_of(source, "m")]
    assert sorted(found) == [
        ("RuntimeWarning", "slow on this device"),
        ("UserWarning", "{name} is unused"),
        ("ValueError", "{name} must hold numbers; give one file, not {len(values)} files"),
        ("ValueError", "{name} must hold text; give one file, not {len(values)} files"),
    ]


def test_the_gallery_has_every_example_once():
    lists = re.findall(
        r"^```\{gallery\}\n(.*?)^```", (ROOT / "docs/gallery/index.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert sorted(name for names in lists for name in names.split()) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_of_an_example_has_its_title_picture_and_code(extension, name):
    page = extension("ext/gallery.py").page(name)
    assert re.match(r"# [A-Z].{9,90}\n", page)
    assert f"](../_static/examples/{name}.png)" in page
    assert f"../../examples/{name}.py" in page


def test_references_find_public_names_under_all_of_their_names(extension):
    pytest.importorskip("sphinx")
    aliases = extension("ext/public_names.py")._aliases()
    for name in ("jax_mmf.penalties.alpha_max", "jax_mmf.alpha_max", "alpha_max"):
        assert aliases[name] == "jax_mmf.alpha_max"
    assert aliases["jax_mmf.extending.Penalty"] == "jax_mmf.Penalty"
    assert aliases["jax_mmf.completion.training.fit"] == "jax_mmf.completion.fit"
    assert aliases["fit"] == "jax_mmf.fit"
    assert "jax_mmf.penalties._no_such_name" not in aliases


def test_every_public_name_is_on_one_page_of_the_api(extension):
    pytest.importorskip("sphinx")
    listed = []
    for page in (ROOT / "docs/reference/api").glob("*.md"):
        for block in re.findall(r"^```{eval-rst}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            module = re.search(r"^.. currentmodule:: (\S+)", block, re.MULTILINE)
            listed += (
                [f"{module[1]}.{name}" for name in re.findall(r"^   (\w+)$", block, re.MULTILINE)] if module else []
            )
    assert sorted(listed) == sorted(extension("ext/public_names.py")._pages().values())


def test_links_that_lead_nowhere_are_found(extension, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="#here">.</a><a href="folder/">.</a><p id="here"><a href="no.html">.</a>'
    )
    (tmp_path / "folder/index.html").write_text(
        '<a href="../index.html#here">.</a><a href="../index.html#there">.</a><img src="https://example.org/a.png">'
    )
    found = {(str(path), link) for path, link in extension("../.ci/check_links.py").broken_links(tmp_path)}
    assert found == {("index.html", "no.html"), ("folder/index.html", "../index.html#there")}


def test_the_menu_lists_versions_with_the_newest_release_first(extension, tmp_path):
    add = extension("tools/add_version.py").add
    site, pages = tmp_path / "site", tmp_path / "pages"
    site.mkdir()
    pages.mkdir()
    for version in ("latest", "v0.9.0", "v0.10.0", "latest"):
        (site / "index.html").write_text(version)
        add(site, pages, version)
    assert json.loads((pages / "versions.json").read_text()) == ["v0.10.0", "v0.9.0", "latest"]
    assert "url=v0.10.0/" in (pages / "index.html").read_text()
    assert (pages / "v0.9.0/index.html").read_text() == "v0.9.0"
    with pytest.raises(ValueError, match="version must be"):
        add(site, pages, "../elsewhere")
