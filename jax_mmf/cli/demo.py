"""``jax-mmf demo``."""

from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from jax_mmf.cli.options import Command, Real, cache, option, quiet
from jax_mmf.training import Event

_EPILOG = """\b
Example:
  jax-mmf demo --seconds 10
"""


@click.command("demo", cls=Command, epilog=_EPILOG)
@option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("jax-mmf-demo"),
        help="Folder for the data (1 GB), the model and the picture.")  # fmt: skip
@option("--seconds", type=Real(min=0, min_open=True), default=30.0,
        help="Time for each of the three runs, without compilation and evaluation.")  # fmt: skip
@option("-k", "--components", type=click.IntRange(min=1), default=64, help="Number of atoms.")
@option("--alpha", type=Real(min=0), default=0.02, help="Strength of the lasso.")
@option("--keep-data", is_flag=True, help="Keep the HDF5 file of patches.")
@cache
@quiet
def command(output: Path, seconds: float, components: int, alpha: float, keep_data: bool, quiet: bool) -> None:
    """Factorize a real hyperspectral scene, streamed from disk, in three ways.

    The scene is AVIRIS Indian Pines (145 x 145 pixels, 200 bands; CC BY), from the package tensorly. The command writes
    its 19,044 overlapping patches of 8 x 8 pixels (12,800 features) to an HDF5 file. From that file it learns three
    sparse-coding dictionaries: with the library's defaults; with stochastic subsampling, where each step reads and
    computes on a quarter of the features (r = 4); and with all features and the forgetting of the papers (u = 0.917).

    It prints a table, and writes a model file (model.h5) and a picture (demo.png) of the convergence and the atoms.
    """
    from jax_mmf.cli import demo_steps as steps

    output.mkdir(parents=True, exist_ok=True)
    data = output / "patches.h5"
    with tqdm(total=19044, unit="patch", desc="writing patches.h5", disable=quiet or None) as bar:
        n, p = steps.write_data(data, bar.update)
    click.echo(f"X: {n:,} x {p:,} float32 = {n * p * 4 / 1e9:.2f} GB; {components} atoms, lasso alpha = {alpha:g}")
    variants = []
    for name, solver in steps.solvers(components, alpha).items():
        with tqdm(total=seconds, desc=f"{name:<11} compiling", disable=quiet or None,
                  bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.1f} of {total:g} s{postfix}") as bar:  # fmt: skip
            steps.compile_programs(data, solver)
            bar.set_description_str(f"{name:<11} learning ")

            def show(event: Event, bar: Any = bar) -> None:
                if event.record is not None:
                    bar.n = min(bar.total, event.record.seconds)
                    bar.set_postfix_str(f", objective {event.record.objective:.5f}")

            variants.append(steps.Variant(name, solver, steps.run(data, solver, seconds, show)))
    best = min(variants, key=lambda v: v.result.history[-1].objective)
    steps.save(output / "model.h5", best)
    steps.figure(output / "demo.png", variants)
    if not keep_data:
        data.unlink()
    click.echo(steps.table(variants))
    click.echo(f"model of “{best.name}”: {output / 'model.h5'}; picture: {output / 'demo.png'}")
