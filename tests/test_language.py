"""Plain English: phrases that documentation, docstrings and messages avoid, and spelling."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each has a plain word that says the same: "describes" for "tells", "continues" for "goes on", "represents".
BANNED = (
    "a look at the data", "as it stands", "at hand", "but for", "dead atoms?", "goes on", "going on", "idle atoms?",
    "in one go", "nobody", "of theirs", "stands? for", "takes? the place of", "tells",
    "that are none", "that is none", "to be had", "what came of it", "without a word", "works? out",
)  # fmt: skip
PHRASES = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
GENERATED = ("_build", "gallery", "generated")


def pages():
    """The pages of the documentation that are written by hand, and those at the root."""
    paths = [*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").rglob("*.md") if not set(GENERATED) & set(p.parts))]
    return sorted(str(p.relative_to(ROOT)) for p in paths)


def modules():
    """The files of the package and of the examples."""
    return sorted(str(p.relative_to(ROOT)) for folder in ("jax_mmf", "examples") for p in (ROOT / folder).rglob("*.py"))


def strings(source):
    """The literal text of a module: docstrings, messages, help."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def found_in(texts):
    """The phrases in texts, each with the words around it; lines may break anywhere."""
    for text in texts:
        flat = " ".join(text.split())
        for match in PHRASES.finditer(flat):
            yield f"{match[0]!r} in '{flat[max(0, match.start() - 40) : match.end() + 40]}'"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["A row that is\nnone is skipped", "It tells the step", "Nobody waits", "k works out to 3"]
)
def test_phrases_are_found_across_lines(text):
    assert list(found_in([text]))


def test_plain_english_has_none_of_the_phrases():
    assert not list(found_in(["The step stands still; foretells, handy, a lookout. Pass `mask=` for missing entries."]))


@pytest.mark.parametrize("name", pages())
def test_pages_are_in_plain_english(name):
    assert not list(found_in([read(name)]))


@pytest.mark.parametrize("name", modules())
def test_docstrings_and_messages_are_in_plain_english(name):
    assert not list(found_in(strings(read(name))))


def test_spelling():
    pytest.importorskip("codespell_lib")
    checked = [*pages(), *modules(), *(str(p.relative_to(ROOT)) for p in (ROOT / "tests").glob("*.py"))]
    run = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *checked], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
