"""The command: ``python -m benchmarks [PART ...]``."""

import importlib
import os
import time
from pathlib import Path

import click

from benchmarks.harness import DEVICE
from benchmarks.problems import default_cache

PARTS = {
    "agreement": "benchmarks.agreement",
    "codes": "benchmarks.codes",
    "dictionary": "benchmarks.dictionary",
    "step": "benchmarks.step",
    "feed": "benchmarks.feed",
    "accelerator": "benchmarks.accelerator",
    "kernels": "benchmarks.kernels",
    "first_update": "benchmarks.first_update",
    "memory": "benchmarks.memory",
    "out_of_core": "benchmarks.out_of_core",
    "patches": "benchmarks.patches",
    "images": "benchmarks.images",
    "convergence": "benchmarks.convergence",
    "storage": "benchmarks.storage",
    "papers": "benchmarks.papers",
    "subsampling": "benchmarks.subsampling",
    "subsampling_search": "benchmarks.subsampling_search",
    "forgetting": "benchmarks.forgetting",
    "defaults": "benchmarks.defaults",
    "estimators": "benchmarks.estimators",
    "brain": "benchmarks.brain",
    "derivatives": "benchmarks.derivatives",
    "completion_accuracy": "benchmarks.completion_accuracy",
    "completion_speed": "benchmarks.completion_speed",
}
"""Parts: modules with ``run(quick, threads, repeats, cache) -> list of records``, and maybe ``panels(records)``."""


def _threads(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not numbers or min(numbers) < 1 or max(numbers) > available:
        raise click.BadParameter(f"wants numbers from 1 to {available} (the cores), as in 1,2; got {value!r}")
    return numbers


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--quick", is_flag=True, help="Small problems: whether all works, not how fast it is.")
@click.option("--threads", default="1", show_default=True, callback=_threads, help="Numbers of threads, as in 1,2.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Turns of each contestant.")
@click.option("--output", default="docs/notes/benchmarks", show_default=True, type=click.Path(path_type=Path))
@click.option("--cache", envvar="JAX_MMF_BENCHMARK_CACHE", default=default_cache, type=click.Path(path_type=Path))
@click.option("--redraw", is_flag=True, help="Figures and report from results.json; run nothing.")
@click.option("--device", default="cpu", show_default=True, help="JAX platform of the contestants: cpu, cuda, tpu.")
def main(
    parts: tuple[str, ...],
    quick: bool,
    threads: tuple[int, ...],
    repeats: int,
    output: Path,
    cache: Path,
    redraw: bool,
    device: str,
) -> None:
    """Run the benchmarks named (all by default), and write results.json, figures and index.md."""
    # Before NumPy and JAX come in: this process evaluates only, and leaves an accelerator to the contestants.
    os.environ |= {DEVICE: device, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    from benchmarks import report
    from benchmarks.results import load

    if redraw:
        known = load(output / "results.json")
        report.redraw(output, {part: importlib.import_module(PARTS[part]) for part in parts or PARTS if part in known})
        return
    options = {"quick": quick, "threads": ", ".join(map(str, threads)), "repeats": repeats}
    for part in parts or PARTS:
        start = time.perf_counter()
        module = importlib.import_module(PARTS[part])
        records = module.run(quick, threads, repeats, cache)
        report.write(output, part, module, records, options)
        failed = [f"{r['contestant']}: {r['error']}" for r in records if "error" in r]
        click.echo(f"{part}: {len(records)} records in {time.perf_counter() - start:.0f} s, {len(failed)} failed")
        for line in dict.fromkeys(failed):
            click.echo(f"  {line}", err=True)


if __name__ == "__main__":
    main()
