"""``jax-mmf inpaint``."""

from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from jax_mmf.cli.image_steps import OUTPUT, dataset, demo_picture, progress_bar, psnr, write_result
from jax_mmf.cli.options import Command, cache, option, quiet, seed
from jax_mmf.io import check_outputs

_EPILOG = """\b
Example:
  jax-mmf inpaint photo.png --mask scratches.png -o whole.png
"""


@click.command("inpaint", cls=Command, epilog=_EPILOG)
@click.argument("image", type=click.Path(path_type=Path), required=False)
@option("--mask", type=click.Path(path_type=Path), help="Image of the same size, nonzero where pixels are missing.")
@option("--mask-dataset", metavar="NAME", help="Array inside of a .mat or .h5 mask. [default: the only one]")
@option(
    "--output", "-o", type=OUTPUT, default=Path("inpainted.png"), help="File for the image: .png, .tif, .npy, .jpg."
)
@option("--demo", is_flag=True, help="Use a picture of scikit-image without half of its pixels instead of IMAGE.")
@option("--patch-size", type=click.IntRange(min=2), default=8, help="Side of a patch.")
@option("-k", "--components", type=click.IntRange(min=1), default=256, help="Number of atoms.")
@option("--rounds", type=click.IntRange(min=1), default=3, help="Rounds of learning and filling.")
@dataset
@seed
@cache
@quiet
def command(image: Path | None, mask: Path | None, output: Path, demo: bool, **options: Any) -> None:
    """Fill the missing pixels of IMAGE with a dictionary of its own patches.

    IMAGE and the mask are .png, .jpg, .tif, .npy, .mat, .h5 or ENVI files. Without --mask, NaN pixels are missing.
    OUTPUT has the shape and dtype of IMAGE. Pixels that are not missing do not change.
    """
    from jax_mmf import images

    if demo == (image is not None) or (demo and mask is not None):
        raise click.UsageError("give IMAGE, or --demo instead, which has a mask of its own")
    if options["mask_dataset"] is not None and mask is None:
        raise click.UsageError("--mask-dataset needs --mask, the file that holds the array")
    check_outputs({"--output": output}, *(path for path in (image, mask) if path is not None))
    truth = demo_picture() if image is None else None
    given = images.read_image(image or "", options["dataset"]) if truth is None else truth
    images.check_writable(output, given.shape, given.dtype)
    if truth is not None:
        missing = np.random.default_rng(abs(options["seed"])).random(truth.shape) < 0.5
    elif mask is not None:
        if mask.suffix.lower() in (".jpg", ".jpeg"):
            raise click.UsageError(f"{mask} can't be a mask, since JPEG changes zeros near edges; save it as .png")
        missing = images.read_image(mask, options["mask_dataset"]) != 0
        if missing.ndim == 3 and missing.shape != given.shape:
            missing = missing.any(2)
    elif given.dtype.kind == "f":
        missing = np.isnan(given)
    else:
        raise click.UsageError(f"give --mask: pixels of {given.dtype} can't be NaN, which marks missing ones")
    click.echo(f"{missing.mean():.1%} of the pixels are missing")
    with progress_bar("inpainting", options["quiet"]) as told:
        found = images.inpaint(
            given, missing, patch_size=options["patch_size"], n_components=options["components"],
            n_rounds=options["rounds"], key=jax.random.key(options["seed"]), progress=told,
        )  # fmt: skip
    write_result(output, found)
    if truth is not None:
        click.echo(f"PSNR: {psnr(found, truth):.2f} dB")
