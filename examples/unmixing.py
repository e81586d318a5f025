"""Unmixing of a hyperspectral scene: spectra of its materials, and maps of their abundances.

Mixtures of mean spectra of four classes of Indian Pines, with noise, show what is found beside extreme pixels. Then the
scene itself is unmixed. The scene is part of the package tensorly (pip install 'jax-mmf[demo]').
"""

import argparse
from importlib.metadata import files
from pathlib import Path

import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf import images


def class_means(cube):
    """Mean spectra of the four classes that differ most, ``(4, bands)``."""
    labels = np.load(str(next(f for f in files("tensorly") or [] if f.name == "Indian_pines_gt.npy").locate()))
    means = np.stack([cube[labels == label].mean(0) for label in range(1, 17)])
    return means[images.successive_projection(means, 4)]


def mixtures(spectra, side, snr):
    """Mix spectra with uniform abundances, none of which is above 0.9, and add noise."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(len(spectra)), 4 * side * side)
    shares = shares[shares.max(1) < 0.9][: side * side].reshape(side, side, -1)
    mixed = shares @ spectra
    return mixed + rng.normal(0, np.sqrt((mixed**2).mean() / 10 ** (snr / 10)), mixed.shape)


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Unmix known mixtures and a scene; return the mean spectral angles in degrees, and the unmixed scene."""
    cube = mmf.datasets.load_indian_pines().astype(float)
    spectra = class_means(cube)
    known = mixtures(spectra, 30 if quick else 60, snr=30)
    found = {}
    for name, refine in (("extreme pixels", False), ("refined", True)):
        out = images.unmix(known, 4, key=jax.random.key(0), refine=refine)
        found[name] = float(images.spectral_angles(spectra, out.endmembers).min(1).mean())
        print(f"{name:15s} {found[name]:5.2f} degrees from the true spectra")
    assert found["refined"] < found["extreme pixels"] / 2
    scene = cube[::3, ::3] if quick else cube
    found["scene"] = images.unmix(scene, 4, key=jax.random.key(0))
    print("mean abundances in the scene:", np.round(found["scene"].abundances.mean((0, 1)), 3))
    if figure is not None:
        plot(figure, found["scene"])
    return found


def plot(path, out):
    """Draw the spectra and the maps."""
    from jax_mmf.plotting import new_figure, plot_abundance, plot_spectra, save_figure

    figure, _ = new_figure(0, 0, figsize=(7.1, 5.4))
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2.2))
    plot_spectra(out.endmembers, ax=upper.subplots())
    for i, ax in enumerate(lower.subplots(1, 4)):
        plot_abundance(out.abundances[..., i], title=f"endmember {i + 1}", ax=ax)
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pixels")
    parser.add_argument("--figure", type=Path, help="where to write a picture")
    main(**vars(parser.parse_args()))
