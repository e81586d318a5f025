"""Sphinx extension: every public name has a docstring and a page, and references find it under any of its names.

`jax_mmf.Lasso` is defined in `jax_mmf.penalties`, and is in `jax_mmf.extending` too. All three are the same page.
"""

import functools
import importlib
import inspect
from pathlib import Path

from sphinx.util import logging

logger = logging.getLogger(__name__)
PUBLIC = ("completion", "datasets", "estimators", "fmri", "images", "io", "plotting", "selection", "extending")


def public_objects():
    """Yield the module, the name and the value of each public class and function, those of the top level first."""
    for module in ("jax_mmf", *(f"jax_mmf.{name}" for name in PUBLIC)):
        contents = importlib.import_module(module)
        for name in contents.__all__:
            value = getattr(contents, name)
            if callable(value):
                yield module, name, value


def _home(value):
    return f"{value.__module__}.{value.__qualname__}"


@functools.cache
def _pages():
    """Return the documented name of each object: its first public one, by the name of its definition."""
    pages = {}
    for module, name, value in public_objects():
        pages.setdefault(_home(value), f"{module}.{name}")
    return pages


@functools.cache
def _aliases():
    """Return the documented name for each name that is not documented itself, and for each last part of one."""
    aliases = dict(_pages())
    for module, name, value in public_objects():
        aliases[f"{module}.{name}"] = _pages()[_home(value)]
        aliases.setdefault(name, _pages()[_home(value)])
    return aliases


def remove_stale(app):
    """Remove the pages that an earlier build made of names that are no longer public."""
    for path in (Path(app.srcdir) / "reference/api/generated").glob("*.rst"):
        if path.stem not in _pages().values():
            path.unlink()


def resolve(app, env, node, contnode):
    """Resolve a reference to an undocumented name of a public object, or of one of its members."""
    if node.get("refdomain") != "py":
        return None
    target = node.get("reftarget", "")
    for name, member in ((target, ""), target.rpartition(".")[::2]):
        known = _aliases().get(name)
        if known:
            documented = f"{known}.{member}" if member else known
            return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", documented, node, contnode)
    if target.startswith("jax_mmf.") and "generated/" not in node["refdoc"]:
        logger.warning("%s is not a public name", target, location=node, type="ref")
    return None


def check(app, env):
    """Warn of public names without a docstring or a page."""
    documented = set(env.get_domain("py").objects)
    for module, name, value in public_objects():
        if not inspect.getdoc(value):
            logger.warning("%s.%s has no docstring", module, name)
        if _pages()[_home(value)] not in documented:
            logger.warning("%s.%s is documented on no page", module, name)


def setup(app):
    app.connect("builder-inited", remove_stale)
    app.connect("env-check-consistency", check)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
