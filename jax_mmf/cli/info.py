"""``jax-mmf info``."""

import json
from pathlib import Path

import click
import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf.cli.options import Command, option
from jax_mmf.cli.report import without_nan
from jax_mmf.io import describe, needs_x64

_EPILOG = """\b
Example:
  jax-mmf info model.h5
"""
_CONFIGURATION = (
    "penalty",
    "constraint",
    "subset",
    "partial_b",
    "forgetting",
    "statistics",
    "dictionary_update",
    "initialization",
)


@click.command("info", cls=Command, epilog=_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: Path, as_json: bool) -> None:
    """Show the configuration and the size of MODEL, and the outcome of its run."""
    if needs_x64(model):
        jax.config.update("jax_enable_x64", True)
    solver, state, history, run = mmf.load_model(model)
    dictionary = np.asarray(state.dictionary)
    last = history[-1] if history else None
    facts = {
        "n_components": dictionary.shape[0],
        "n_features": dictionary.shape[1],
        "dtype": str(dictionary.dtype),
        "steps": int(state.step),
        "samples_seen": int(state.n_samples),
        "zeros_in_dictionary": float(np.mean(dictionary == 0)),
        "unused_atoms": last.n_dead if last else None,
        "held_out_objective": last.objective if last and last.held_out else None,
        "seconds": last.seconds if last else None,
        "run": dict(run),
    }
    parts = {name: getattr(solver, name) for name in _CONFIGURATION} | {"forgetting": solver.step_forgetting}
    if as_json:
        click.echo(json.dumps(without_nan(facts) | {name: describe(part) for name, part in parts.items()}))
        return
    arguments = ", ".join(f"{name}={value}" for name, value in run.items()) or None
    for name, value in (facts | {"run": arguments} | parts).items():
        click.echo(f"{name.replace('_', ' '):<22} {value}")
