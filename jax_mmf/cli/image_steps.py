"""Steps of ``jax-mmf denoise``, ``inpaint`` and ``unmix``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from jax_mmf.cli.options import Output, option
from jax_mmf.images import WRITABLE, Unmixing, write_image
from jax_mmf.io import written_aside
from jax_mmf.typing import HostArray

OUTPUT = Output("an image", WRITABLE)
dataset = option("--dataset", metavar="NAME", help="Array inside of a .mat or .h5 file. [default: the only one]")


def demo_picture() -> HostArray:
    """Return the upper half of the picture of a cameraman: ``(256, 512)`` uint8."""
    try:
        from skimage.data import camera
    except ImportError as missing:
        raise ImportError("--demo needs the pictures of scikit-image; pip install 'jax-mmf[images]'") from missing
    picture: HostArray = camera()[:256]
    return picture


def with_noise(picture: HostArray, seed: int, sigma: float = 25.0) -> HostArray:
    """Add Gaussian noise to an 8-bit picture."""
    noise = np.random.default_rng(abs(seed)).normal(0, sigma, picture.shape)
    noisy: HostArray = np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)
    return noisy


def psnr(picture: HostArray, truth: HostArray) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures, in dB."""
    return float(10 * np.log10(255**2 / np.mean((picture.astype(float) - truth) ** 2)))


@contextmanager
def progress_bar(what: str, quiet: bool, unit: str = "patch") -> Iterator[Callable[[int, int], Any]]:
    """Show a bar, and yield a function that takes the numbers of units that are done and that there are."""
    with tqdm(unit=unit, desc=what, disable=quiet or None) as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield told


def write_result(path: Path, found: HostArray) -> None:
    """Write an image, and say what it is."""
    write_image(path, found)
    click.echo(f"{path}: {' x '.join(map(str, found.shape))} {found.dtype}")


def write_unmixing(folder: Path, found: Unmixing) -> list[Path]:
    """Write spectra, abundances, maps and a figure, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    m = len(found.endmembers)
    table, figure = folder / "endmembers.csv", folder / "figure.png"
    with written_aside(table) as aside:
        head = ",".join(["band", *(f"endmember_{i + 1}" for i in range(m))])
        bands = np.arange(found.endmembers.shape[1])
        np.savetxt(aside, np.c_[bands, found.endmembers.T], fmt=["%d", *["%.7g"] * m], delimiter=",", header=head,
                   comments="")  # fmt: skip
    maps = [folder / f"abundance_{i + 1}.png" for i in range(m)]
    for i, path in enumerate(maps):
        write_image(path, np.rint(255 * found.abundances[..., i]).astype(np.uint8))
    write_image(folder / "abundances.npy", found.abundances.astype(np.float32))
    _draw(figure, found)
    return [table, folder / "abundances.npy", *maps, figure]


def _draw(path: Path, found: Unmixing) -> None:
    from jax_mmf.plotting import new_figure, plot_abundance, plot_spectra, save_figure

    m = len(found.endmembers)
    columns = min(m, 4)
    rows = -(-m // columns)
    figure, _ = new_figure(0, 0, figsize=(8.3, 3.2 + 2.2 * rows))
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2.2 * rows))
    plot_spectra(found.endmembers, ax=upper.subplots())
    axes = lower.subplots(rows, columns, squeeze=False).ravel()
    for i, ax in enumerate(axes):
        if i < m:
            plot_abundance(found.abundances[..., i], title=f"endmember {i + 1}", ax=ax)
        else:
            ax.set_axis_off()
    save_figure(figure, path)
