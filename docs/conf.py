"""Configuration of the documentation. The build fails on a public name that is not documented."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "ext"))

project = "jax_mmf"
author = "the jax_mmf developers"
copyright = "2026, the jax_mmf developers"
version = release = installed_version("jax-mmf")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "myst_parser",
    "bundled_mathjax",
    "error_messages",
    "gallery",
    "public_names",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
templates_path = ["_templates"]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "none"  # formulas in docstrings; code names its language
python_use_unqualified_type_names = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    # which scikit-learn adds, for metadata routing
    "exclude-members": ", ".join(
        f"set_{name}_request" for name in ("fit", "inverse_transform", "partial_fit", "score", "transform")
    ),
}
# Methods of these bases are documented elsewhere.
_foreign_bases = (
    *("BaseEstimator", "ClassNamePrefixFeaturesOutMixin", "TransformerMixin", "_MetadataRequester", "_SetOutputMixin"),
    *("Exception", "Protocol", "Warning", "object", "tuple"),
)
autosummary_context = {"foreign_bases": ", ".join(_foreign_bases)}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"jax_mmf {release}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
