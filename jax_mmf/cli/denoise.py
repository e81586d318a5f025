"""``jax-mmf denoise``."""

from pathlib import Path
from typing import Any

import click
import jax

from jax_mmf.cli.image_steps import OUTPUT, dataset, demo_picture, progress_bar, psnr, with_noise, write_result
from jax_mmf.cli.options import Command, Real, cache, option, quiet, seed
from jax_mmf.io import check_outputs

_EPILOG = """\b
Example:
  jax-mmf denoise photo.png -o clean.png --sigma 25
"""


@click.command("denoise", cls=Command, epilog=_EPILOG)
@click.argument("image", type=click.Path(path_type=Path), required=False)
@option("--output", "-o", type=OUTPUT, default=Path("denoised.png"), help="File for the image: .png, .tif, .npy, .jpg.")
@option("--demo", is_flag=True, help="Use a picture of scikit-image with noise of sigma 25 instead of IMAGE.")
@option(
    "--sigma", type=Real(min=0), help="Standard deviation of the noise, in units of the image. [default: estimated]"
)
@option("--patch-size", type=click.IntRange(min=2), help="Side of a patch. [default: 8, 10 or 12, by the noise]")
@option("-k", "--components", type=click.IntRange(min=1), default=256, help="Number of atoms.")
@option("--stride", type=click.IntRange(min=1), default=2, help="Distance of the patches to code; 1 is slower.")
@dataset
@seed
@cache
@quiet
def command(image: Path | None, output: Path, demo: bool, **options: Any) -> None:
    """Remove noise from IMAGE with a dictionary of its own patches.

    IMAGE is a .png, .jpg, .tif, .npy, .mat, .h5 or ENVI file. OUTPUT has its shape and dtype.
    """
    from jax_mmf import images

    if demo == (image is not None):
        raise click.UsageError("give IMAGE, or --demo instead")
    check_outputs({"--output": output}, image)
    truth = demo_picture() if image is None else None
    given = None if image is None else images.read_image(image, options["dataset"])
    noisy: Any = given if truth is None else with_noise(truth, options["seed"])
    images.check_writable(output, noisy.shape, noisy.dtype)
    sigma = options["sigma"]
    if sigma is None:
        sigma = images.estimate_sigma(noisy)
        click.echo(f"estimated sigma: {sigma:.3g}")
    with progress_bar("denoising", options["quiet"], "pixel") as told:
        found = images.denoise(
            noisy, sigma, patch_size=options["patch_size"], n_components=options["components"],
            stride=options["stride"], key=jax.random.key(options["seed"]), progress=told,
        )  # fmt: skip
    write_result(output, found)
    if truth is not None:
        click.echo(f"PSNR: {psnr(noisy, truth):.2f} dB with noise, {psnr(found, truth):.2f} dB denoised")
