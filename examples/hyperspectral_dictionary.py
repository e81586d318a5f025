"""Dictionary of hyperspectral patches: texture and spectrum in one atom.

Patches of 8 x 8 pixels and 200 bands of Indian Pines have 12,800 features. They are read from the cube when they are
needed, and each step sees a quarter of the features. The scene is part of the package tensorly
(pip install 'jax-mmf[demo]').
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf import images

SIZE, K = 8, 36
BANDS = (29, 19, 9)  # red, green and blue


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Learn the dictionary; ``quick`` takes fewer patches."""
    cube = mmf.datasets.load_indian_pines().astype("float32")
    cube = (cube - cube.mean((0, 1))) / cube.std()
    source = images.PatchSource(cube, SIZE, n_patches=1_500 if quick else 10_000, key=jax.random.key(0))
    solver = mmf.OnlineFactorization(
        n_components=K,
        penalty=mmf.Lasso(mmf.RelativeAlpha(0.1)),
        constraint=mmf.L2Ball(),
        subset=mmf.UniformSubset(4),
    )
    result = mmf.fit(solver, source, key=jax.random.key(1), batch_size=100)
    held_out = source.read(np.arange(0, source.n_samples, 20))
    codes = result.encode(held_out)
    explained = float(mmf.explained_variance(result.dictionary, held_out, codes))
    print(f"{source.n_samples} patches of {source.n_features} features; {explained:.1%} of the variance is explained")
    if figure is not None:
        draw(figure, np.asarray(result.dictionary))
    return {"dictionary": result.dictionary, "explained": explained}


def draw(path, dictionary):
    """Draw the atoms in three bands, and the spectra of four of them."""
    from jax_mmf.plotting import new_figure, plot_patches, plot_spectra, save_figure

    patches = dictionary.reshape(K, SIZE, SIZE, -1)
    figure, _ = new_figure(0, 0, figsize=(9, 4))
    figure.get_layout_engine().set(h_pad=0.1)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    plot_patches(patches[..., BANDS].reshape(K, -1), SIZE, ax=left)
    left.set_title("atoms, in three bands as RGB", fontsize=10)
    spread = np.abs(patches).mean((1, 2))
    chosen = np.linspace(0, K - 1, 4).astype(int)
    plot_spectra(spread[np.argsort(-spread.sum(1))][chosen], ax=right)
    for line, number in zip(right.lines, chosen, strict=True):
        line.set_label(f"atom {number + 1} by size")
    right.legend(fontsize=8, frameon=False)
    right.set(ylabel="mean absolute value over the pixels")
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer patches")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
