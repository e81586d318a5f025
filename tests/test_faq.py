"""Messages that docs/guides/faq.md and troubleshooting.md quote are those of the library, word for word."""

import ast
import re
from pathlib import Path

import pytest

import jax_mmf

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
PACKAGE = Path(jax_mmf.__file__).parent
SHORTEST = 20  # characters of a message between its values, so that a pattern like "{a}: {b}" is not one


def pattern_of(node):
    """Return the literal text of a string and a regular expression that its values match, or None."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
    if not all(isinstance(text, str | None) for text in texts):
        return None
    pattern = "".join(".*" if text is None else re.escape(text) for text in texts)
    return "".join(text or "" for text in texts), pattern


def messages():
    """Patterns of all strings of the package that are long enough to be messages."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = pattern_of(node) if isinstance(node, ast.JoinedStr | ast.Constant) else None
            if found is not None and len(found[0].strip()) >= SHORTEST:
                yield re.compile(found[1])


def quotes():
    text = "\n".join((GUIDES / name).read_text(encoding="utf-8") for name in ("faq.md", "troubleshooting.md"))
    blocks = re.findall(r"^```text\n(.*?)\n```", text, re.DOTALL | re.MULTILINE)
    return [" ".join(block.split()) for block in blocks] + re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)


@pytest.fixture(scope="module")
def known():
    return list(messages())


@pytest.mark.parametrize("quote", quotes())
def test_quoted_messages_are_those_of_the_library(quote, known):
    spans = [len(match.group()) for pattern in known if (match := pattern.search(quote))]
    assert max(spans, default=0) > 0.6 * len(quote)
