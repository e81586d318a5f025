"""Sphinx extension: a warning, which the build turns into an error, for each public name that no page documents."""

import inspect

from sphinx.util import logging

import jax_mmf
import jax_mmf.completion
import jax_mmf.estimators
import jax_mmf.extending
import jax_mmf.fmri
import jax_mmf.images
import jax_mmf.io
import jax_mmf.selection

logger = logging.getLogger(__name__)
_PUBLIC = (
    jax_mmf,
    jax_mmf.completion,
    jax_mmf.estimators,
    jax_mmf.extending,
    jax_mmf.fmri,
    jax_mmf.images,
    jax_mmf.io,
    jax_mmf.selection,
)


def check(app, env):
    documented = set(env.get_domain("py").objects)
    for module in _PUBLIC:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or name.startswith("__"):
                continue
            home = f"{value.__module__}.{value.__qualname__}"
            if not inspect.getdoc(value):
                logger.warning("%s.%s has no docstring", module.__name__, name)
            if home not in documented:
                logger.warning("%s.%s is documented on no page", module.__name__, name)


def setup(app):
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
