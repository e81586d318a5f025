"""``jax-mmf fit``."""

from pathlib import Path
from typing import Any

import click
import jax
from click.core import ParameterSource

import jax_mmf as mmf
from jax_mmf.cli import report
from jax_mmf.cli.options import (
    Command,
    Output,
    Real,
    Resume,
    TextOutput,
    cache,
    dataset,
    fill_missing,
    follow_external,
    input_files,
    open_data,
    option,
    quiet,
    seed,
)
from jax_mmf.cli.outcome import SIGNALS, exit_status, write_model, write_partial_model
from jax_mmf.cli.solver import CONSTRAINTS, INITS, PENALTIES, check_given, make_solver, resume_arguments
from jax_mmf.defaults import BATCH_SIZE, SUBSAMPLED_BATCH_SIZE, SUBSET_BATCH_SIZE
from jax_mmf.io import HDF5_ENDINGS, SavedRun, check_outputs, needs_x64
from jax_mmf.learning import default_batch_size
from jax_mmf.training import Callback, FitResult, deferred_interrupt, newest_checkpoint, newest_whole

_EPILOG = """\b
Examples:
  jax-mmf fit data.h5 --dataset X -k 64 --alpha auto --held-out 0.05 -o model.h5
  jax-mmf fit data.h5 --dataset X --resume model.h5 --epochs 4 -o model.h5
  jax-mmf fit data.h5 -k 64 -o model.h5 --checkpoint run --resume auto  # the same line resumes a killed run
"""


class _Alpha(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic only in new versions of click
    """A number, or a share of alpha_max: "auto" or a percentage."""

    name = "alpha"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = "10%" if value == "auto" else str(value)
        try:
            if text.endswith("%"):
                percent = Real(0, 100, min_open=True, max_open=True).convert(text[:-1], param, ctx)
                return mmf.RelativeAlpha(percent / 100)
            return Real(min=0).convert(text, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message} Give a number that is at least 0, auto, or a share such as 10%", param, ctx)


class _HeldOut(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A share below 1, a whole number of samples, or 0 for none."""

    name = "held-out"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | int:
        try:
            if isinstance(value, str) and value.isdigit():
                return int(value)
            return value if isinstance(value, int) else Real(0, 1, max_open=True).convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message} Give a share below 1, or a whole number of samples", param, ctx)


@click.command("fit", cls=Command, epilog=_EPILOG)
@click.argument("data", type=click.Path(path_type=Path))
@dataset
@follow_external
@fill_missing
@option("-o", "--output", type=Output("an HDF5 file", HDF5_ENDINGS), required=True, help="Model file to write (.h5).")
@option("-k", "--components", type=click.IntRange(min=1), help="Number of atoms; needed except with --resume.")
@option("--penalty", type=click.Choice(list(PENALTIES)), default="lasso",
        help="Penalty on codes. lasso makes them sparse, ridge dense; elastic-net is in between.")  # fmt: skip
@option("--alpha", type=_Alpha(), metavar="NUMBER|auto|SHARE%", default=0.1,
        help="Strength of the penalty: a number on the scale of the data, or a share, such as 10%, of the strength at "
             "which all codes are zero (auto: 10%).")  # fmt: skip
@option("--l1-ratio", type=Real(0, 1), default=0.5, help="Share of the l1 norm in --penalty elastic-net.")
@option("--constraint", type=click.Choice(list(CONSTRAINTS)), default="l2",
        help="Constraint on atoms: l1 and elastic-net make them sparse, simplex makes them distributions.")  # fmt: skip
@option("--atom-l1-ratio", type=Real(0, 1), default=0.5, help="Share of the l1 norm in --constraint elastic-net.")
@option(
    "--radius",
    type=Real(min=0, min_open=True),
    default=1.0,
    help="Radius of the constraint: the largest size of an atom.",
)
@option("--nonneg", type=click.Choice(["none", "codes", "atoms", "both"]), is_flag=False, flag_value="both",
        default="none", help="Which factors are non-negative. Without a value: both.")  # fmt: skip
@option("-r", "--reduction", type=Real(min=1), default=1.0,
        help="Stochastic subsampling: each step computes codes from a random 1/r of the features, and updates the "
             "atoms on them. 1 uses all features; larger values are faster on many redundant features.")  # fmt: skip
@option("--partial-b/--full-b", default=False,
        help="With --reduction: partial b reads only the features of the step, and averages each feature over the "
             "samples in which it was seen. Full b reads whole samples, and averages over all of them.")  # fmt: skip
@option("--code-reduction", type=click.FloatRange(min=1), metavar="R",
        help="Each step computes codes from a random 1/R of the features, and updates b and the atoms on all. By "
             "default 1; with ridge codes and at least 400 features for each atom, up to 12.")  # fmt: skip
@option("--forgetting", metavar="RULE:VALUE", default=None, show_default="scaled, C by the penalty",
        help="How fast old samples lose weight. scaled:C: the last 1/C of the samples count most. power:U: sample i "
             "has weight i^-U, as in the papers. constant:W: a new sample has weight W, for a memory of 1/W "
             "samples.")  # fmt: skip
@option("--center/--no-center", default=False,
        help="Learn the mean of the features, and subtract it from the samples.")  # fmt: skip
@option("--init", type=click.Choice(list(INITS)), default="samples", help="Initial dictionary.")
@option("--epochs", type=click.IntRange(min=1), default=1,
        help="Passes over the data; with --resume, counted from the beginning of the run.")  # fmt: skip
@option(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"Samples per step. By default {BATCH_SIZE}; {SUBSET_BATCH_SIZE} with --reduction and --full-b; and "
    f"{SUBSAMPLED_BATCH_SIZE} where codes are computed from a part of the features.",
)
@option("--held-out", type=_HeldOut(), metavar="SHARE|NUMBER", default=0,
        help="Samples for evaluation, not used for learning: a share below 1, or a number.")  # fmt: skip
@option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="Precision of the computation.")
@seed
@option(
    "--revive-every", type=click.IntRange(min=1), help="Steps between replacements of unused atoms. [default: never]"
)
@option("--resume", type=Resume(), metavar="MODEL|auto",
        help="Model file or checkpoint of a run to resume, as if it had not stopped. Solver, seed, batch size and "
             "held-out samples are those of the model; options that contradict them are errors. auto: the newest valid "
             "checkpoint of --checkpoint, or a new run without a checkpoint.")  # fmt: skip
@option(
    "--allow-changes",
    is_flag=True,
    help="With --resume: other data, another batch size or other held-out samples give a warning instead of an error.",
)
@option("--checkpoint", type=click.Path(path_type=Path), metavar="FOLDER",
        help="Folder for checkpoints, from which --resume auto continues after a crash.")  # fmt: skip
@option("--checkpoint-minutes", type=Real(min=0, min_open=True), metavar="MINUTES",
        help="Time between checkpoints. [default: 10, without --checkpoint-steps]")  # fmt: skip
@option("--checkpoint-steps", type=click.IntRange(min=1), help="Steps between checkpoints. [default: none]")
@option("--checkpoint-keep", type=click.IntRange(min=1), help="Number of the newest checkpoints to keep. [default: 3]")
@option("--log", type=TextOutput(), help="File for one JSON line per evaluation (.jsonl).")
@option("--plot", type=Output("a picture", (".png", ".pdf", ".svg")),
        help="Picture of the held-out objective (.png, .pdf, .svg).")  # fmt: skip
@cache
@quiet
@click.pass_context
def command(
    ctx: click.Context,
    /,
    data: Path,
    dataset: str | None,
    output: Path,
    follow_external: bool,
    fill_missing: bool,
    **options: Any,
) -> int:
    """Learn a dictionary from the matrix in DATA (.h5, .npy, .npz, .mat or zarr, or a folder; samples in rows).

    DATA is read a mini-batch at a time.

    Ctrl-C ends the run after the current step, and writes the model. SIGTERM and SIGHUP have the same effect. Exit
    status: 0, or 128 plus the number of the signal: 130 after Ctrl-C, 143 after SIGTERM.
    """
    plot, log = options["plot"], options["log"]
    resume = _newest(options["checkpoint"]) if options["resume"] == "auto" else options["resume"]
    if options["dtype"] == "float64" or (resume is not None and needs_x64(newest_checkpoint(resume) or resume)):
        jax.config.update("jax_enable_x64", True)
    if options["checkpoint"] is None and any(options[f"checkpoint_{name}"] for name in ("minutes", "steps", "keep")):
        raise click.UsageError(
            "--checkpoint-minutes, --checkpoint-steps and --checkpoint-keep need --checkpoint FOLDER"
        )
    one_file = options["checkpoint"] if options["checkpoint"] and options["checkpoint"].suffix in HDF5_ENDINGS else None
    outputs = {"--output": output, "--log": log, "--plot": plot, "--checkpoint": one_file}
    check_outputs(outputs, *input_files(data))
    check_outputs({"--log": log, "--plot": plot}, resume)
    options["held_out"] = options["held_out"] or None
    defaults = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    given = {name: value for name, value in options.items() if ctx.get_parameter_source(name) not in defaults}
    saved, key, step = None, None, 0
    if resume is not None:
        resume, saved = _read(resume)
        solver, step = saved.solver, int(saved.state.step)
        run = resume_arguments(resume, saved, given, options)
        source = open_data(data, dataset, follow_external=follow_external, fill_missing=fill_missing)
    else:
        if options["components"] is None:
            raise click.UsageError("a new run needs the number of atoms; give -k, such as -k 64")
        check_given(given, options)
        source = open_data(data, dataset, follow_external=follow_external, fill_missing=fill_missing)
        solver, key = make_solver(options, source.n_features), jax.random.key(options["seed"])
        options["batch_size"] = options["batch_size"] or default_batch_size(solver)
        run = {name: options[name] for name in ("batch_size", "held_out", "revive_every")}
    if plot is not None and run["held_out"] is None:
        raise click.UsageError(
            "--plot draws the held-out objective, and the run has no held-out samples; give --held-out, such as 0.05"
        )
    if not options["quiet"]:
        click.echo(report.described(data.name, source), err=True)
    note = "jax-mmf: ending after this step, and writing the model; press Ctrl-C again to stop immediately"
    with deferred_interrupt(note, SIGNALS) as interrupted:
        try:
            result = mmf.fit(
                solver, source, key=key, resume=saved, allow_changes=options["allow_changes"],
                n_epochs=options["epochs"], dtype=options["dtype"], callbacks=_callbacks(options), **run,
            )  # fmt: skip
        except Exception as error:
            write_partial_model(error, output)
            raise
        write_model(result, output)
        if plot is not None:
            from jax_mmf.plotting import plot_history

            title = f"{data.name}: {solver.n_components} atoms, {result.solver.penalty!r}, {solver.constraint!r}"
            plot_history(plot, {data.name: result.history}, title=title)
        _summarize(result, output, evaluated=run["held_out"] is not None, advanced=int(result.state.step) > step)
        return exit_status(interrupted())


def _newest(folder: Path | None) -> Path | None:
    """Return the folder of --checkpoint if --resume auto can continue from it, or None."""
    if folder is None:
        raise click.UsageError("--resume auto continues from the newest checkpoint; give its folder by --checkpoint")
    return folder if newest_checkpoint(folder) is not None else None


def _read(path: Path) -> tuple[Path, SavedRun]:
    """Read a model file, or the newest checkpoint in a folder."""
    found = newest_whole(path)
    if found is None:
        raise FileNotFoundError(f"no file {path}" if not path.is_dir() else f"no checkpoint in {path}")
    return found


def _callbacks(options: dict[str, Any]) -> list[Callback]:
    callbacks: list[Callback] = [mmf.ProgressBar(disable=options["quiet"] or None)]
    if options["log"] is not None:
        callbacks.append(mmf.JSONLines(options["log"]))
    if options["checkpoint"] is not None:
        every, minutes, keep = (options[f"checkpoint_{name}"] for name in ("steps", "minutes", "keep"))
        callbacks.append(mmf.Checkpoint(options["checkpoint"], every=every, minutes=minutes, keep=keep))
    return callbacks


def _summarize(result: FitResult, output: Path, *, evaluated: bool, advanced: bool) -> None:
    if not advanced:
        report.say(f"nothing to do: the run has all its epochs. Give more --epochs to continue it; {output}")
        return
    last = result.history[-1]
    value = f", held-out objective {last.objective:.6g}" if evaluated else ""
    report.say(f"{last.step} steps, {last.n_samples:,} samples, {last.seconds:.1f} s{value}, "
               f"{last.n_dead} unused atoms: {output}")  # fmt: skip
