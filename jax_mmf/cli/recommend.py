"""``jax-mmf recommend``."""

import sys
from pathlib import Path
from typing import Any

import click
import jax
from tqdm import tqdm

from jax_mmf.cli.options import Command, Output, Real, cache, option, quiet, seed
from jax_mmf.cli.outcome import SIGNALS, exit_status
from jax_mmf.completion import Fitted, Items, Ratings
from jax_mmf.io import HDF5_ENDINGS, check_outputs, needs_x64
from jax_mmf.training import deferred_interrupt

_EPILOG = """\b
Examples:
  jax-mmf recommend ratings.csv --titles movies.csv -n 5 -o recommendations.csv --save m.h5
  jax-mmf recommend --model m.h5 --users users.txt -o recommendations.csv
  jax-mmf recommend new_users.csv --model m.h5 -o recommendations.csv
"""
_KINDS = ("als", "bayesian", "online", "implicit", "ease", "bpr")
_OF_CLICKS = ("implicit", "ease", "bpr")
_READING = (
    "user_column",
    "item_column",
    "rating_column",
    "time_column",
    "sep",
    "no_header",
    "comment",
    "encoding",
    "aggregate",
    "threshold",
)  # options of RATINGS
_LEARNING = ("components", "alpha", "epochs", "test", "seed", "save", "demo")  # options without a model file


class _Model(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click alone
    name = f"{'|'.join(_KINDS)}|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Return the name of a kind of model, or the path of a model file."""
        if value in _KINDS or isinstance(value, Path):
            return value
        if Path(value).suffix.lower() not in HDF5_ENDINGS:
            self.fail(f"{value!r} is none of {', '.join(_KINDS)}, nor a model file (.h5)", param, ctx)
        return Path(value)


class _ColumnName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "NAME|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        """Return the name of a column, or its number."""
        return int(value) if str(value).isdecimal() else value


@click.command("recommend", cls=Command, epilog=_EPILOG)
@click.argument("ratings", type=click.Path(path_type=Path), required=False)
@option("--output", "-o", type=Output("a table", (".csv", ".parquet")), default=Path("recommendations.csv"),
        help="File for the recommendations: .csv or .parquet.")  # fmt: skip
@option("--demo", is_flag=True, help="Use MovieLens 100K from the package recbole instead of RATINGS.")
@option("--model", default="als", type=_Model(),
        help="als, bayesian and online are for ratings, implicit, ease and bpr for clicks and counts; a FILE "
             "that --save wrote recommends without learning.")  # fmt: skip
@option("--users", type=click.Path(path_type=Path), help="Text file with the ids of users, one a line. [default: all]")
@option("-k", "--components", type=click.IntRange(min=1), default=32, help="Number of factors.")
@option("--alpha", type=Real(min=0), help="Strength of the penalty. [default: that of the model]")
@option("--epochs", type=click.IntRange(min=1),
        help="Passes over the ratings. [default: 20; 120 for bayesian, 1 for ease]")  # fmt: skip
@option("-n", "--top", type=click.IntRange(min=1), default=10, help="Recommendations per user.")
@option("--test", type=Real(0, 0.9), default=0.1, help="Share of the ratings for a test at the start; 0 for no test.")
@option("--threshold", type=Real(), help="Ratings of at least this value count as clicks (implicit, ease and bpr).")
@option("--aggregate", type=click.Choice(["mean", "sum", "min", "max", "first", "last"]),
        help="How to combine several ratings of one pair. [default: an error]")  # fmt: skip
@option("--include-seen", is_flag=True, help="Also recommend items that a user has rated.")
@option("--titles", type=click.Path(path_type=Path), help="File of titles: u.item, movies.dat, movies.csv, .item.")
@option("--save", type=Output("an HDF5 file", HDF5_ENDINGS), help="Model file to write (.h5).")
@option("--user-column", type=_ColumnName(), help="Column of the users: its name, or its number from 0.")
@option("--item-column", type=_ColumnName(), help="Column of the items.")
@option("--rating-column", type=_ColumnName(), help="Column of the ratings.")
@option("--time-column", type=_ColumnName(), help="Column of the times.")
@option("--sep", help="Separator of the columns; \\t is a tab. [default: found in the first line]")
@option("--no-header", is_flag=True, help="The first line of RATINGS is a rating. [default: found there]")
@option("--comment", help="Leave out lines that begin with this.")
@option("--encoding", help="Encoding of RATINGS. [default: UTF-8, UTF-16, or Windows-1252]")
@seed
@cache
@quiet
@click.pass_context
def command(ctx: click.Context, /, ratings: Path | None, output: Path, model: str | Path, **options: Any) -> int:
    """Recommend items to the users in RATINGS: text, Parquet, Arrow or JSON lines, or a folder of MovieLens.

    The command measures the error on a part of the ratings, and learns from all of them. It writes the best items of
    each user, without those that the user has rated. With a model file, RATINGS are those of new users, who are folded
    in; without RATINGS, the users are those of the model.
    """
    from jax_mmf import completion
    from jax_mmf.cli import recommend_steps as steps

    demo, titles, source = options["demo"], options["titles"], ratings
    is_saved = isinstance(model, Path)
    _check(ctx, model, demo or ratings is not None)
    if not is_saved and demo == (ratings is not None):
        raise click.UsageError("give RATINGS, or --demo or a model file instead")
    if demo:
        source, titles = completion.movielens_100k()
    inputs = [path for path in (source, titles, options["users"], model) if isinstance(path, Path)]
    check_outputs({"--output": output, "--save": options["save"]}, *inputs)
    data = None if source is None else _read(source, options)
    items = None if titles is None else completion.read_movielens_items(titles)
    if data is not None:
        data = _clicks(data, options["threshold"])
        click.echo(f"{len(data):,} ratings of {data.n_users:,} users and {data.n_items:,} items")
    if isinstance(model, Path):
        fitted = _load(model, data, options["threshold"])
        _write(output, fitted, items, options)
        return 0
    assert data is not None
    note = "jax-mmf: ending after this epoch, and writing the results; press Ctrl-C again to stop immediately"
    with deferred_interrupt(note, SIGNALS) as interrupted:
        fitted = _learn(model, data, options)
        if options["save"] is not None:
            completion.save_model(options["save"], fitted)
            click.echo(f"{options['save']}: model")
        _write(output, fitted, items, options)
        if demo:
            for line in steps.sample(fitted, items):
                click.echo(line)
    return exit_status(interrupted())


def _check(ctx: click.Context, model: str | Path, reads: bool) -> None:
    """Raise a UsageError for options that would have no effect."""
    learning, reading = (
        [p.opts[0] for p in ctx.command.params if p.name in names and _is_given(ctx, p.name)]
        for names in (_LEARNING, _READING)
    )
    if isinstance(model, Path) and learning:
        raise click.UsageError(
            f"{', '.join(learning)}: for learning, and --model is a model file, which only recommends"
        )
    if isinstance(model, Path) and reading and not reads:
        raise click.UsageError(f"{', '.join(reading)}: for RATINGS, which are not given")
    if model == "ease" and _is_given(ctx, "components"):
        raise click.UsageError("--components is not for --model ease, which has no factors")
    if isinstance(model, str) and model not in _OF_CLICKS:
        _refuse_threshold(ctx.params["threshold"])


def _refuse_threshold(threshold: float | None) -> None:
    """Raise a UsageError for a threshold, which a model of ratings does not have."""
    if threshold is not None:
        raise click.UsageError("--threshold is for --model implicit, ease and bpr; the others predict the ratings")


def _clicks(data: Ratings, threshold: float | None) -> Ratings:
    """Convert ratings of at least a threshold to clicks; None changes nothing."""
    if threshold is None:
        return data
    clicks = data.positives(threshold)
    if len(clicks) == 0:
        raise click.UsageError(
            f"--threshold {threshold:g} is above all ratings, which are at most {data.values.max():g}"
        )
    return clicks


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _read(source: Path, options: dict[str, Any]) -> Ratings:
    from jax_mmf import completion

    separator = options["sep"] and options["sep"].replace("\\t", "\t")
    return completion.read_ratings(
        source, user=options["user_column"], item=options["item_column"], value=options["rating_column"],
        timestamp=options["time_column"], separator=separator, header=False if options["no_header"] else None,
        comment=options["comment"], encoding=options["encoding"], aggregate=options["aggregate"],
    )  # fmt: skip


def _load(path: Path, newcomers: Ratings | None, threshold: float | None) -> Fitted:
    """Read a model, and fold new users in if there are ratings of them."""
    from jax_mmf import completion

    if needs_x64(path):
        jax.config.update("jax_enable_x64", True)
    fitted = completion.load_model(path)
    if fitted.model.feedback == "explicit":
        _refuse_threshold(threshold)
    click.echo(f"{path}: model of {fitted.ratings.n_users:,} users and {fitted.ratings.n_items:,} items")
    return fitted if newcomers is None else fitted.fold_in(newcomers)


def _learn(kind: str, data: Ratings, options: dict[str, Any]) -> Fitted:
    """Measure the error of a model on a part of the ratings, and learn it from all."""
    from jax_mmf import completion
    from jax_mmf.cli import recommend_steps as steps

    model = steps.configuration(kind, options["components"], options["alpha"])
    n_epochs, seed, test = options["epochs"] or getattr(model, "n_epochs", 20), options["seed"], options["test"]
    n_fits = 2 if test > 0 else 1
    with tqdm(total=n_fits * n_epochs, unit="epoch", desc="learning", disable=options["quiet"] or None) as bar:

        def progress(_: Any) -> None:
            bar.update()

        if test > 0:
            report = steps.evaluate(model, data, test, seed, n_epochs, progress)
            bar.write(f"test on {test:.0%} of the ratings: {report}", file=sys.stdout)
        return completion.fit(model, data, key=jax.random.key(seed), n_epochs=n_epochs, callbacks=(progress,))


def _write(output: Path, fitted: Fitted, items: Items | None, options: dict[str, Any]) -> None:
    from jax_mmf.cli import recommend_steps as steps

    users = None if options["users"] is None else steps.read_users(options["users"], fitted.ratings.user_ids)
    count = steps.write_recommendations(
        output, fitted, n=options["top"], exclude_seen=not options["include_seen"], items=items, users=users
    )
    click.echo(f"{output}: {count:,} recommendations")
