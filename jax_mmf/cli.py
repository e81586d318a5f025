"""The command ``jax-mmf``: demo, fit, encode, info, recommend."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# JAX's linear algebra on CPU is SciPy's OpenBLAS, whose threads fight with XLA's. It reads this when it is first used.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import click
    from tqdm import tqdm
except ImportError as missing:  # pragma: no cover - depends on what is installed
    sys.exit(f"jax-mmf: the command needs {missing.name}; pip install 'jax-mmf[cli]'")

import h5py
import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf.io.atomic import written_aside
from jax_mmf.io.feed import filled_up, finite_samples
from jax_mmf.io.model_file import needs_x64
from jax_mmf.training import Callback, Event, Record

_PENALTIES = ("ridge", "lasso", "elastic-net")
_CONSTRAINTS = ("l2", "l1", "elastic-net", "simplex")
_INITS: dict[str, mmf.Initialization] = {
    "samples": mmf.RandomSamples(),
    "svd": mmf.RandomizedSVD(),
    "kmeans++": mmf.KMeansPlusPlus(),
}
_FORGETTING: dict[str, Callable[[float], mmf.Forgetting]] = {
    "power": mmf.PowerForgetting,
    "scaled": mmf.ScaledForgetting,
    "constant": mmf.ConstantForgetting,
}


class _Finite(click.FloatRange):
    """A range of floats without NaN and infinity, which pass all comparisons or have no place in them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number


def main() -> None:
    """Entry point: run the command, and turn errors that a user can mend into one line and exit status 1."""
    try:
        status = _group(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("jax-mmf: stopped", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"jax-mmf: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, ImportError, MemoryError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        click.echo(f"jax-mmf: {' '.join(str(text).split())}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mmf.__version__, prog_name="jax-mmf")
def _group() -> None:
    """Factorize massive matrices: X (n samples, p features) ~ codes times a dictionary of k atoms."""


_output = click.Path(dir_okay=False, path_type=Path)
_quiet = click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
_dataset = click.option("--dataset", help="Data set inside of an .h5 or .npz file. [default: the only 2-D one]")


@_group.command()
@click.option(
    "--output", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("jax-mmf-demo"),
    show_default=True, help="Folder for the data (1 GB), the model and the picture.",
)  # fmt: skip
@click.option("--seconds", type=_Finite(min=0, min_open=True), default=30.0, show_default=True,
              help="Time for each of the three runs.")  # fmt: skip
@click.option("-k", "--components", type=click.IntRange(min=1), default=64, show_default=True, help="Number of atoms.")
@click.option("--alpha", type=_Finite(min=0), default=0.02, show_default=True, help="Strength of the lasso.")
@click.option("--keep-data", is_flag=True, help="Do not delete the HDF5 file of patches at the end.")
@_quiet
def demo(output: Path, seconds: float, components: int, alpha: float, keep_data: bool, quiet: bool) -> None:
    """Factorize a real hyperspectral scene, streamed from disk, in three ways.

    Takes the AVIRIS Indian Pines scene (145 x 145 pixels, 200 bands; CC BY) out of the package tensorly, cuts it into
    its 19,044 overlapping patches of 8 x 8 pixels (12,800 features), writes them to an HDF5 file, and learns a
    sparse-coding dictionary from that file: with the library's defaults; with stochastic subsampling, which in each
    step reads and computes on a quarter of the features (r = 4); and with all features and the forgetting of the
    papers (u = 0.917).

    Ends with a table, a model file (model.h5) and a picture (demo.png) of the convergence and of the atoms.
    """
    from jax_mmf import demo as steps

    output.mkdir(parents=True, exist_ok=True)
    data = output / "patches.h5"
    with tqdm(total=19044, unit="patch", desc="writing patches.h5", disable=quiet or None) as bar:
        n, p = steps.write_data(data, bar.update)
    click.echo(f"X: {n:,} x {p:,} float32 = {n * p * 4 / 1e9:.2f} GB; {components} atoms, lasso alpha = {alpha:g}")
    runs = []
    for name, solver in steps.solvers(components, alpha).items():
        with tqdm(total=round(seconds), unit="s", desc=f"{name:<18}", disable=quiet or None,
                  bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}") as bar:  # fmt: skip

            def show(event: Event, bar: Any = bar) -> None:
                if event.record is not None:
                    bar.n = min(bar.total, round(event.record.seconds))
                    bar.set_postfix_str(f"objective {event.record.objective:.5f}")

            runs.append(steps.Run(name, solver, steps.run(data, solver, seconds, show)))
    best = min(runs, key=lambda r: r.result.history[-1].objective)
    steps.save(output / "model.h5", best)
    steps.figure(output / "demo.png", runs)
    if not keep_data:
        data.unlink()
    click.echo(steps.table(runs))
    click.echo(f"model of “{best.name}”: {output / 'model.h5'}; picture: {output / 'demo.png'}")


@_group.command()
@click.argument("data", type=click.Path(path_type=Path))
@_dataset
@click.option("-o", "--output", type=_output, required=True, help="Model file to write (.h5).")
@click.option("-k", "--components", type=click.IntRange(min=1), help="Number of atoms; needed but with --resume.")
@click.option("--penalty", type=click.Choice(_PENALTIES), default="lasso", show_default=True, help="On codes.")
@click.option("--alpha", type=_Finite(min=0), default=0.1, show_default=True, help="Strength of the penalty.")
@click.option("--l1-ratio", type=_Finite(0, 1), default=0.5, show_default=True,
              help="Share of l1 in --penalty elastic-net.")  # fmt: skip
@click.option("--constraint", type=click.Choice(_CONSTRAINTS), default="l2", show_default=True, help="On atoms.")
@click.option("--atom-l1-ratio", type=_Finite(0, 1), default=0.5, show_default=True,
              help="Share of l1 in --constraint elastic-net.")  # fmt: skip
@click.option("--radius", type=_Finite(min=0, min_open=True), default=1.0, show_default=True,
              help="Largest size of an atom.")  # fmt: skip
@click.option("--nonneg", type=click.Choice(["none", "codes", "atoms", "both"]), is_flag=False, flag_value="both",
              default="none", show_default=True, help="Which factors are non-negative; alone: both.")  # fmt: skip
@click.option("--reduction", type=_Finite(min=1), default=1.0, show_default=True,
              help="How many times fewer features a step looks at.")  # fmt: skip
@click.option("--partial-b/--full-b", default=False, show_default=True,
              help="Read and update nothing but the features of the step (with --reduction).")  # fmt: skip
@click.option("--forgetting", metavar="RULE:VALUE", default=None, show_default="scaled, C by the penalty",
              help="Weight of new samples: power:U, scaled:C or constant:W.")  # fmt: skip
@click.option("--init", type=click.Choice(list(_INITS)), default="samples", show_default=True,
              help="Initial dictionary.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True, help="Samples per step.")
@click.option("--held-out", type=_Finite(min=0), default=0.0, show_default=True,
              help="Samples to evaluate on: a share below 1, or a number.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
              help="Of the computation.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True, help="Of all random choices."
)
@click.option("--revive-every", type=click.IntRange(min=1), help="Steps between revivals of unused atoms.")
@click.option("--resume", type=click.Path(dir_okay=False, path_type=Path),
              help="Model file of a run to go on with; its solver and seed count.")  # fmt: skip
@click.option("--log", type=_output, help="File for one JSON line per evaluation.")
@click.option("--plot", type=_output, help="Picture of the held-out objective (.png, .pdf, .svg).")
@_quiet
def fit(data: Path, dataset: str | None, output: Path, **options: Any) -> int:
    """Learn a dictionary from the matrix in DATA (.h5, .npy or .npz), samples in rows, without loading it.

    Ctrl-C ends the run after the step it is in, and writes the model. Exit status: 0, or 130 after Ctrl-C.
    """
    resume = options["resume"]
    if options["dtype"] == "float64" or (resume is not None and needs_x64(resume)):
        jax.config.update("jax_enable_x64", True)
    for path in (output, options["log"], options["plot"]):
        _check_writable(path, data)
    source = mmf.open_source(data, dataset)
    held_out = None if options["held_out"] == 0 else options["held_out"]
    # On a command line, 16 and 16.0 are the same number.
    held_out = int(held_out) if held_out is not None and held_out.is_integer() else held_out
    if options["plot"] is not None and held_out is None:
        raise click.UsageError("--plot draws the held-out objective; give --held-out too")
    if options["plot"] is not None and options["plot"].suffix not in (".png", ".pdf", ".svg"):
        raise click.UsageError(f"--plot {options['plot']} has none of the endings .png, .pdf, .svg")
    state = None
    history: list[Record] = []
    if resume is not None:
        solver, state, saved = mmf.load_model(resume)
        history = [Record(**r) for r in saved]  # type: ignore[arg-type]
    else:
        solver = _solver(options)
    key = None if state is not None else jax.random.key(options["seed"])
    log = _Log(options["log"])
    with _graceful_interrupt() as interrupted, _progress(options["quiet"]) as show:
        callbacks: tuple[Callback, ...] = (show, log, lambda _: interrupted())
        try:
            result = mmf.fit(
                solver,
                source,
                key=key,
                state=state,
                n_epochs=options["epochs"],
                batch_size=options["batch_size"],
                held_out=held_out,
                revive_every=options["revive_every"],
                dtype=options["dtype"],
                callbacks=callbacks,
            )
        except Exception as error:
            # What was learned before the error is kept.
            partial = getattr(error, "result", None)
            if partial is not None:
                _save(output, solver, partial.state, _joined(history, partial.history))
                click.echo(
                    f"jax-mmf: wrote the model of the {int(partial.state.step)} steps before the error", err=True
                )
            raise
    history = _joined(history, result.history)
    _save(output, solver, result.state, history)
    if options["plot"] is not None:
        from jax_mmf.plotting import plot_history

        plot_history(options["plot"], {data.name: history}, title=f"{data.name}: {_summary(solver)}")
    if result.history:
        last = history[-1]
        value = "" if held_out is None else f", held-out objective {last.objective:.6g}"
        click.echo(f"{last.step} steps, {last.n_samples:,} samples, {last.seconds:.1f} s{value}, "
                   f"{last.n_dead} unused atoms: {output}")  # fmt: skip
    else:
        click.echo(f"nothing left to do: the run has its {options['epochs']} epochs; {output}")
    return 130 if interrupted() else 0


@_group.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@_dataset
@click.option("-o", "--output", type=_output, required=True, help="HDF5 file for the codes (n, k), data set “codes”.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1024, show_default=True, help="Samples at a time.")
@_quiet
def encode(model: Path, data: Path, dataset: str | None, output: Path, batch_size: int, quiet: bool) -> None:
    """Codes of the samples in DATA in the dictionary of MODEL, with the penalty that it was trained with."""
    _check_writable(output, data, model)
    if needs_x64(model):
        jax.config.update("jax_enable_x64", True)
    solver, state, _ = mmf.load_model(model)
    source = mmf.open_source(data, dataset)
    dictionary = state.dictionary
    if source.n_features != dictionary.shape[1]:
        raise ValueError(f"{data} has {source.n_features} features, and {model} was trained on {dictionary.shape[1]}")
    if source.permutation is not None:
        dictionary = dictionary[:, source.permutation]
    dtype = np.dtype(dictionary.dtype)
    n, k = source.n_samples, solver.n_components
    with written_aside(output) as aside, h5py.File(aside, "w") as file:
        codes = file.create_dataset("codes", (n, k), dtype)
        file.attrs["model"] = str(model)
        with tqdm(total=n, unit="sample", disable=quiet or None) as bar:
            for first in range(0, n, batch_size):
                rows = np.arange(first, min(first + batch_size, n))
                x = finite_samples(source.read(rows), dtype, rows, features=source.permutation)
                x = filled_up(x, min(batch_size, n))
                codes[first : first + rows.size] = np.asarray(mmf.encode(dictionary, x, solver.penalty))[: rows.size]
                bar.update(rows.size)
    click.echo(f"codes of {n:,} samples, {k} atoms: {output}")


@_group.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(model: Path, as_json: bool) -> None:
    """What MODEL is: its configuration, its size, and how its run went."""
    if needs_x64(model):
        jax.config.update("jax_enable_x64", True)
    solver, state, history = mmf.load_model(model)
    dictionary = np.asarray(state.dictionary)
    facts = {
        "n_components": dictionary.shape[0],
        "n_features": dictionary.shape[1],
        "dtype": str(dictionary.dtype),
        "steps": int(state.step),
        "samples_seen": int(state.n_samples),
        "zeros_in_dictionary": float(np.mean(dictionary == 0)),
        "unused_atoms": int(history[-1]["n_dead"]) if history else None,
        "held_out_objective": history[-1]["objective"] if history else None,
        "seconds": history[-1]["seconds"] if history else None,
        **{name: repr(getattr(solver, name)) for name in _CONFIGURATION},
    }
    if as_json:
        click.echo(json.dumps(_without_nan(facts)))
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<22} {value}")


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


@_group.command()
@click.argument("ratings", type=click.Path(path_type=Path), required=False)
@click.option("--output", "-o", type=_output, default=Path("recommendations.csv"), show_default=True,
              help="File for the recommendations: .csv or .parquet.")  # fmt: skip
@click.option("--demo", is_flag=True, help="Learn from MovieLens 100K out of the package recbole, instead of RATINGS.")
@click.option("--model", "kind", type=click.Choice(["als", "online", "implicit", "bpr"]), default="als",
              show_default=True, help="Ratings: als, online. Clicks and counts: implicit, bpr.")  # fmt: skip
@click.option("-k", "--components", type=click.IntRange(min=1), default=32, show_default=True,
              help="Number of factors.")  # fmt: skip
@click.option("--alpha", type=_Finite(min=0), help="Strength of the penalty. [default: that of the model]")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True, help="Passes over the ratings.")
@click.option("-n", "--top", type=click.IntRange(min=1), default=10, show_default=True, help="Items for each user.")
@click.option("--test", type=_Finite(0, 0.9), default=0.1, show_default=True,
              help="Share of the ratings to measure the error on first; 0 for none.")  # fmt: skip
@click.option("--threshold", type=_Finite(), help="Ratings of at least this are clicks (implicit and bpr).")
@click.option("--aggregate", type=click.Choice(["mean", "sum", "min", "max", "first", "last"]),
              help="What becomes of several ratings of one pair. [default: an error]")  # fmt: skip
@click.option("--include-seen", is_flag=True, help="Recommend items that a user has rated, too.")
@click.option(
    "--titles", type=click.Path(path_type=Path), help="File of titles: u.item, movies.dat, movies.csv, .item."
)
@click.option("--save", type=_output, help="Model file to write.")
@click.option(
    "--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True, help="Of all random choices."
)
@_quiet
def recommend(ratings: Path | None, output: Path, demo: bool, **options: Any) -> None:
    """Recommend items to the users in RATINGS: u.data, ratings.dat, ratings.csv, .inter or .tsv, or their folder.

    Measures the error on a part of the ratings, learns from all of them, and writes the best items of each user that
    it has not rated.
    """
    from jax_mmf import completion
    from jax_mmf.completion import command

    if demo == (ratings is not None):
        raise click.UsageError("give RATINGS, or --demo instead")
    source, titles = (ratings, options["titles"]) if ratings is not None else completion.movielens_100k()
    if output.suffix not in (".csv", ".parquet"):
        raise click.UsageError(f"--output {output} has none of the endings .csv, .parquet")
    for path in (output, options["save"]):
        _check_writable(path, *(p for p in (source, titles) if p is not None))
    data = completion.read_movielens(source, aggregate=options["aggregate"])
    items = None if titles is None else completion.read_movielens_items(titles)
    implicit = options["kind"] in ("implicit", "bpr")
    if options["threshold"] is not None:
        if not implicit:
            raise click.UsageError("--threshold is for --model implicit and bpr; als and online predict the ratings")
        data = data.positives(options["threshold"])
    click.echo(f"{len(data):,} ratings of {data.n_users:,} users and {data.n_items:,} items")
    model = command.configuration(options["kind"], options["components"], options["alpha"])
    n_epochs, seed = options["epochs"], options["seed"]
    n_fits = 2 if options["test"] > 0 else 1
    with tqdm(total=n_fits * n_epochs, unit="epoch", desc="learning", disable=options["quiet"] or None) as bar:

        def progress(_: Any) -> None:
            bar.update()

        if options["test"] > 0:
            report = command.evaluate(model, data, options["test"], seed, n_epochs, progress)
            bar.write(f"on {options['test']:.0%} of the ratings, learned from the others: {report}", file=sys.stdout)
        fitted = completion.fit(model, data, key=jax.random.key(seed), n_epochs=n_epochs, callbacks=(progress,))
    if options["save"] is not None:
        completion.save_model(options["save"], fitted)
        click.echo(f"{options['save']}: model")
    count = command.write_recommendations(
        output, fitted, n=options["top"], exclude_seen=not options["include_seen"], items=items
    )
    click.echo(f"{output}: {count:,} recommendations")
    if demo:
        for line in command.sample(fitted, items):
            click.echo(line)


def _solver(options: dict[str, Any]) -> mmf.OnlineFactorization:
    if options["components"] is None:
        raise click.UsageError("give the number of atoms, -k")
    nonneg = options["nonneg"]
    codes, atoms = nonneg in ("codes", "both"), nonneg in ("atoms", "both")
    alpha, radius = options["alpha"], options["radius"]
    penalties: dict[str, Callable[[], mmf.Penalty]] = {
        "ridge": lambda: mmf.Ridge(alpha, nonneg=codes),
        "lasso": lambda: mmf.Lasso(alpha, nonneg=codes),
        "elastic-net": lambda: mmf.ElasticNet(alpha, options["l1_ratio"], nonneg=codes),
    }
    constraints: dict[str, Callable[[], mmf.Constraint]] = {
        "l2": lambda: mmf.L2Ball(radius, nonneg=atoms),
        "l1": lambda: mmf.L1Ball(radius, nonneg=atoms),
        "elastic-net": lambda: mmf.ElasticNetBall(options["atom_l1_ratio"], radius, nonneg=atoms),
        "simplex": lambda: mmf.Simplex(radius),
    }
    subset = mmf.BlockSubset(options["reduction"]) if options["reduction"] > 1 else mmf.FullSubset()
    return mmf.OnlineFactorization(
        n_components=options["components"],
        penalty=penalties[options["penalty"]](),
        constraint=constraints[options["constraint"]](),
        subset=subset,
        partial_b=options["partial_b"],
        forgetting=_forgetting(options["forgetting"]),
        initialization=_INITS[options["init"]],
    )


def _forgetting(value: str | None) -> Any:
    """The rule; None leaves the choice to the solver."""
    if value is None:
        return None
    rule, _, number = value.partition(":")
    try:
        return _FORGETTING[rule](float(number))
    except (KeyError, ValueError) as error:
        raise click.BadParameter(
            f"{value!r} is not power:U, scaled:C or constant:W with a number in range ({error})",
            param_hint="--forgetting",
        ) from error


def _summary(solver: mmf.OnlineFactorization) -> str:
    return f"{solver.n_components} atoms, {solver.penalty!r}, {solver.constraint!r}"


def _save(path: Path, solver: mmf.OnlineFactorization, state: mmf.State, history: list[Record]) -> None:
    mmf.save_model(path, solver, state, [r._asdict() for r in history])


def _joined(before: list[Record], after: list[Record]) -> list[Record]:
    """The history of a run that went on: its seconds and bytes count on."""
    if not before:
        return after
    seconds, read = before[-1].seconds, before[-1].bytes_read
    return before + [r._replace(seconds=seconds + r.seconds, bytes_read=read + r.bytes_read) for r in after]


def _check_writable(path: Path | None, *inputs: Path) -> None:
    """Fail before the work, not after it, and never write over what is read."""
    if path is not None:
        if any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
            raise ValueError(f"{path} is an input too; give the output another name")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
        if not os.access(path.parent, os.W_OK) or path.is_dir():
            raise PermissionError(f"can't write {path}")


def _without_nan(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


class _Log:
    """Callback that appends one JSON line per evaluation, so that what is there is there after a crash."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._mode = path, "w"

    def __call__(self, event: Event) -> None:
        if self._path is not None and event.record is not None:
            fields = _without_nan(event.record._asdict())
            with self._path.open(self._mode, encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")
            self._mode = "a"


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A progress bar with the time that is left, and the last objective."""
    with tqdm(unit="step", disable=quiet or None, smoothing=0.05) as bar:

        def show(event: Event) -> None:
            if bar.n == 0:
                bar.total, bar.initial = event.n_steps, event.step - 1
                bar.n = event.step - 1
            bar.update()
            if event.record is not None and not math.isnan(event.record.objective):
                bar.set_postfix_str(f"objective {event.record.objective:.5g}")

        yield show


@contextmanager
def _graceful_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C is noted for the loop to end at a step's end; a second one stops at once."""
    noted: list[float] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(time.monotonic())
        click.echo("\njax-mmf: ending after this step; once more to stop at once", err=True)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread, as in some tests: Ctrl-C does not come here
        yield lambda: False
        return
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)
