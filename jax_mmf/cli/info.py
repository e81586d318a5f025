"""``jax-mmf info``."""

import json
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf.cli.data_facts import facts_of, is_data
from jax_mmf.cli.options import Command, dataset, option, quiet
from jax_mmf.cli.recommender_facts import facts_of_recommender
from jax_mmf.cli.report import without_nan
from jax_mmf.completion import is_recommender
from jax_mmf.io import describe, needs_x64
from jax_mmf.training import newest_checkpoint

_EPILOG = """\b
Examples:
  jax-mmf info model.h5
  jax-mmf info data.h5 --verify
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
    "center",
)


@click.command("info", cls=Command, epilog=_EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@dataset
@option("--verify", is_flag=True, help="Of data: read all of it, and compare the checksums.")
@quiet
def command(file: Path, as_json: bool, dataset: str | None, verify: bool, quiet: bool) -> None:
    """Show what FILE holds: configuration and size of a model, and the outcome of its run; or size and layout of data.

    Of a folder of checkpoints, the newest one is shown.
    """
    model = newest_checkpoint(file) or file
    if is_data(model):
        _show(facts_of(model, dataset, verify=verify, quiet=quiet), as_json=as_json)
        return
    if dataset is not None or verify:
        raise click.UsageError(f"--dataset and --verify are for data, and {model} is a model")
    if needs_x64(model):
        jax.config.update("jax_enable_x64", True)
    if is_recommender(model):
        _show(facts_of_recommender(model, as_json=as_json), as_json=as_json)
        return
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
        _show(without_nan(facts) | {name: describe(part) for name, part in parts.items()}, as_json=True)
        return
    arguments = ", ".join(f"{name}={value}" for name, value in run.items()) or None
    _show(facts | {"run": arguments} | parts, as_json=False)


def _show(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<22} {value}")
