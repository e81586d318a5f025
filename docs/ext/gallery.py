"""Sphinx extension: a page for each script in examples/, and cards that link to the pages.

A page has the docstring of the script, its picture, what it prints, and its code. Picture and text are in
docs/_static/examples; `docs/tools/run_examples.py` makes them. The build runs no example, so it is fast.
"""

import ast
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
EXAMPLES = DOCS.parent / "examples"
RESULTS = DOCS / "_static/examples"
GALLERY = re.compile(r"^```\{gallery\}\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def title_and_text(name):
    """Return the title and the docstring of an example: the title is its first line, up to a colon."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
    return docstring.splitlines()[0].partition(":")[0].rstrip("."), docstring


def page(name):
    """Return the page of an example, in Markdown."""
    title, text = title_and_text(name)
    parts = [f"# {title}", text.removeprefix(f"{title}.").strip()]
    if (RESULTS / f"{name}.png").exists():
        parts.append(f"![{title}](../_static/examples/{name}.png)")
    if (RESULTS / f"{name}.txt").exists():
        parts += ["## Output", f"```{{literalinclude}} ../_static/examples/{name}.txt\n:language: text\n```"]
    parts += ["## Code", f"```sh\npython examples/{name}.py --figure {name}.png\n```"]
    return "\n\n".join([*parts, f"```{{literalinclude}} ../../examples/{name}.py\n:language: python\n```"]) + "\n"


def card(name):
    """Return the card of an example, with its picture if there is one."""
    picture = f":img-top: ../_static/examples/{name}.png\n" if (RESULTS / f"{name}.png").exists() else ""
    return f":::{{grid-item-card}} {title_and_text(name)[0]}\n{picture}:link: {name}\n:link-type: doc\n:::"


def write_pages(app):
    """Write the pages that are not as they should be, and remove those of scripts that are no longer there."""
    for path in (DOCS / "gallery").glob("*.md"):
        if path.stem != "index" and not (EXAMPLES / f"{path.stem}.py").exists():
            path.unlink()
    for example in EXAMPLES.glob("*.py"):
        path, text = DOCS / "gallery" / f"{example.stem}.md", page(example.stem)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def expand(app, docname, source):
    """Replace each list of examples by their cards, and by an entry for each in the table of contents."""

    def cards(match):
        names = match[1].split()
        grid = "\n\n".join(["::::{grid} 1 2 3 3\n:gutter: 3", *map(card, names), "::::"])
        return grid + "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"

    source[0] = GALLERY.sub(cards, source[0])


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("source-read", expand)
    return {"parallel_read_safe": True}
