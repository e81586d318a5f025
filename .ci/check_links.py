"""Check that every link inside a built site leads to a file and an anchor that exist.

.ci/check_links.py FOLDER
"""

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


page_of = cache(Page)


def is_broken(path, link):
    """Whether a link of a page leads nowhere. Links to other sites are not followed."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or link == "#":
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
    target = target / "index.html" if target.is_dir() else target
    if not target.exists():
        return True
    has_anchor = parts.fragment and target.suffix == ".html"
    return bool(has_anchor) and unquote(parts.fragment) not in page_of(target).anchors


def broken_links(site):
    """Return the pages and the links that lead nowhere. Links from source code are Sphinx's, and miss some anchors."""
    pages = [path for path in sorted(site.resolve().rglob("*.html")) if "_modules" not in path.parts]
    return [
        (path.relative_to(site.resolve()), link)
        for path in pages
        for link in page_of(path).links
        if is_broken(path, link)
    ]


if __name__ == "__main__":
    found = broken_links(Path(sys.argv[1]))
    print("\n".join(f"{path}: {link}" for path, link in found) or "all links inside the site lead somewhere")
    sys.exit(bool(found))
