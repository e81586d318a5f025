"""Sphinx extension: MathJax is part of the built site, so that mathematics shows without a network.

The files are those of the package sphinx-mathjax-offline, without the parts that no page loads.
"""

import importlib
from pathlib import Path

from sphinx.util.fileutil import copy_asset

SCRIPT = "tex-chtml-full.js"
FONTS = "output/chtml/fonts/woff-v2"


def copy(app, exception):
    """Copy the script and its fonts into the static files of the site."""
    if exception or app.builder.format != "html":
        return
    source = Path(importlib.import_module("sphinx-mathjax-offline").__file__).parent / "static/mathjax"
    target = Path(app.outdir) / "_static/mathjax"
    copy_asset(source / SCRIPT, target)
    copy_asset(source / FONTS, target / FONTS)


def setup(app):
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True}
