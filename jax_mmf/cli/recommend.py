"""``jax-mmf recommend``."""

import sys
from pathlib import Path
from typing import Any

import click
import jax
from tqdm import tqdm

from jax_mmf.cli.options import Command, Output, Real, cache, option, quiet, seed
from jax_mmf.cli.outcome import SIGNALS, exit_status
from jax_mmf.io import HDF5_ENDINGS, check_outputs
from jax_mmf.training import deferred_interrupt

_EPILOG = """\b
Example:
  jax-mmf recommend ratings.csv --titles movies.csv -n 5 -o recommendations.csv
"""


@click.command("recommend", cls=Command, epilog=_EPILOG)
@click.argument("ratings", type=click.Path(path_type=Path), required=False)
@option("--output", "-o", type=Output("a table", (".csv", ".parquet")), default=Path("recommendations.csv"),
        help="File for the recommendations: .csv or .parquet.")  # fmt: skip
@option("--demo", is_flag=True, help="Use MovieLens 100K from the package recbole instead of RATINGS.")
@option("--model", "kind", default="als",
        type=click.Choice(["als", "bayesian", "online", "implicit", "ease", "bpr"]),
        help="als, bayesian and online are for ratings, implicit, ease and bpr for clicks and counts.")  # fmt: skip
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
@seed
@cache
@quiet
def command(ratings: Path | None, output: Path, demo: bool, **options: Any) -> int:
    """Recommend items to the users in RATINGS: u.data, ratings.dat, ratings.csv, .inter or .tsv, or their folder.

    The command measures the error on a part of the ratings, and learns from all of them. It writes the best items of
    each user, without those that the user has rated.
    """
    from jax_mmf import completion
    from jax_mmf.cli import recommend_steps as steps

    if demo == (ratings is not None):
        raise click.UsageError("give RATINGS, or --demo instead")
    source, titles = (ratings, options["titles"]) if ratings is not None else completion.movielens_100k()
    check_outputs({"--output": output, "--save": options["save"]}, source, titles)
    data = completion.read_ratings(source, aggregate=options["aggregate"])
    items = None if titles is None else completion.read_movielens_items(titles)
    implicit = options["kind"] in ("implicit", "ease", "bpr")
    if options["threshold"] is not None:
        if not implicit:
            raise click.UsageError("--threshold is for --model implicit, ease and bpr; the others predict the ratings")
        data = data.positives(options["threshold"])
    click.echo(f"{len(data):,} ratings of {data.n_users:,} users and {data.n_items:,} items")
    model = steps.configuration(options["kind"], options["components"], options["alpha"])
    n_epochs, seed = options["epochs"] or getattr(model, "n_epochs", 20), options["seed"]
    n_fits = 2 if options["test"] > 0 else 1
    note = "jax-mmf: ending after this epoch, and writing the results; press Ctrl-C again to stop immediately"
    with deferred_interrupt(note, SIGNALS) as interrupted:
        with tqdm(total=n_fits * n_epochs, unit="epoch", desc="learning", disable=options["quiet"] or None) as bar:

            def progress(_: Any) -> None:
                bar.update()

            if options["test"] > 0:
                report = steps.evaluate(model, data, options["test"], seed, n_epochs, progress)
                bar.write(f"test on {options['test']:.0%} of the ratings: {report}", file=sys.stdout)
            fitted = completion.fit(model, data, key=jax.random.key(seed), n_epochs=n_epochs, callbacks=(progress,))
        if options["save"] is not None:
            completion.save_model(options["save"], fitted)
            click.echo(f"{options['save']}: model")
        count = steps.write_recommendations(
            output, fitted, n=options["top"], exclude_seen=not options["include_seen"], items=items
        )
        click.echo(f"{output}: {count:,} recommendations")
        if demo:
            for line in steps.sample(fitted, items):
                click.echo(line)
    return exit_status(interrupted())
