"""Denoising of a photograph: a dictionary of its own patches, beside total variation and non-local means.

The photograph of scikit-image has Gaussian noise with a standard deviation of 25 of 255 levels. The dictionary and the
groups of similar patches give a higher PSNR than both peers, whose parameters are the best on the true picture.
"""

import argparse
from pathlib import Path

import numpy as np
from skimage.data import camera
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from jax_mmf import images

SIGMA = 25 / 255


def psnr(image, truth):
    """Peak signal-to-noise ratio in dB."""
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - truth) ** 2)))


def best(candidates, truth):
    """Return the image of the highest PSNR."""
    return max(candidates, key=lambda image: psnr(image, truth))


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Denoise the photograph; ``quick`` takes a part of it."""
    truth = (camera()[100:228, 150:278] if quick else camera()) / 255
    noisy = truth + np.random.default_rng(0).normal(0, SIGMA, truth.shape)
    found = {
        "noisy": noisy,
        "total variation": best([denoise_tv_chambolle(noisy, weight=w * SIGMA) for w in (0.8, 1.0, 1.2)], truth),
        "non-local means": best(
            [denoise_nl_means(noisy, 5, 11, h=h * SIGMA, sigma=SIGMA) for h in (0.6, 0.8, 1.0)], truth
        ),
        "denoise, first step": images.denoise(noisy, SIGMA, refine=False),
        "denoise": images.denoise(noisy, SIGMA),
    }
    for name, image in found.items():
        print(f"{name:20s} {psnr(image, truth):.2f} dB")
    if figure is not None:
        draw(figure, found, truth)
    return {name: psnr(image, truth) for name, image in found.items()}


def draw(path, found, truth):
    """Draw a part of each image."""
    from jax_mmf.plotting import new_figure, save_figure

    figure, axes = new_figure(2, 3, figsize=(9, 6.4))
    shown = {"true": truth, **found}
    for ax, (name, image) in zip(axes.ravel(), shown.items(), strict=True):
        part = image if len(image) < 200 else image[60:220, 180:340]
        ax.imshow(part, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        quality = "" if name == "true" else f": {psnr(image, truth):.2f} dB"
        ax.set_title(name + quality, fontsize=10)
        ax.set_axis_off()
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a part of the photograph")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
