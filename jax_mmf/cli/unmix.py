"""``jax-mmf unmix``."""

from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from jax_mmf.cli.image_steps import dataset, write_unmixing
from jax_mmf.cli.options import Command, cache, option, quiet, seed
from jax_mmf.datasets import load_indian_pines

_EPILOG = """\b
Example:
  jax-mmf unmix scene.hdr --endmembers 4 -o out
"""


@click.command("unmix", cls=Command, epilog=_EPILOG)
@click.argument("cube", type=click.Path(path_type=Path), required=False)
@option("--endmembers", "-m", type=click.IntRange(min=1), required=True, help="Number of endmembers.")
@option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("unmixed"), help="Folder.")
@option("--demo", is_flag=True, help="Use the Indian Pines scene from the package tensorly instead of CUBE.")
@option("--initialization", type=click.Choice(["vca", "spa"]), default="vca",
        help="First endmembers: vertex component analysis or successive projection.")  # fmt: skip
@dataset
@seed
@cache
@quiet
def command(cube: Path | None, endmembers: int, output: Path, demo: bool, **options: Any) -> None:
    """Find the spectra that CUBE is a mixture of, and how much of each is in each pixel.

    CUBE is a .tif, .npy, .mat, .h5 or ENVI file of (rows, columns, bands). The folder gets endmembers.csv (a column for
    each endmember), abundances.npy (rows, columns, endmembers), a map of each endmember (.png, 255 is 1), and a figure.
    """
    from jax_mmf import images

    if demo == (cube is not None):
        raise click.UsageError("give CUBE, or --demo instead")
    if cube is not None and cube.resolve() == (output / "abundances.npy").resolve():
        raise click.UsageError(f"{cube} would be overwritten; give another folder as --output")
    values = load_indian_pines() if cube is None else images.read_image(cube, options["dataset"])
    if not options["quiet"]:
        click.echo(f"{' x '.join(map(str, values.shape))} {values.dtype}", err=True)
    found = images.unmix(
        values, endmembers, key=jax.random.key(options["seed"]), initialization=options["initialization"]
    )
    paths = write_unmixing(output, found)
    left = float(np.sqrt(np.mean(found.error**2)) / np.sqrt(np.mean(np.square(values, dtype=np.float64))))
    shares = ", ".join(f"{share:.1%}" for share in found.abundances.mean((0, 1)))
    click.echo(f"{endmembers} endmembers, mean abundances {shares}; relative error {left:.2%}")
    click.echo(f"{output}: {', '.join(path.name for path in paths)}")
