"""Eight devices on one CPU: a mesh of 2 x 4 learns the dictionary that one device learns.

XLA simulates eight devices on the processor. `fit` spreads samples over two of them and features over four, and each
device has a block of the mini-batch and a part of the dictionary. Run the same script on eight GPUs without the flag.
"""

import argparse
import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jax_mmf as mmf

LAYOUTS = {"mini-batch": ("data", "features"), "dictionary": (None, "features")}


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Learn on one device and on a mesh; ``quick`` takes fewer samples."""
    if jax.device_count() < 8:
        raise RuntimeError(f"this example needs 8 devices, got {jax.device_count()}; set XLA_FLAGS before jax starts")
    x = mmf.datasets.make_sparse_codes(jax.random.key(0), 2000 if quick else 8000, 256, 16, noise=0.05).x
    solver = mmf.OnlineFactorization(
        n_components=16,
        penalty=mmf.Lasso(0.1),
        constraint=mmf.L2Ball(),
        dictionary_update=mmf.ProjectedGradient(4),  # a few sums over the devices, for all atoms together
    )
    mesh = jax.make_mesh((2, 4), ("data", "features"), devices=jax.devices()[:8])
    options = {"key": jax.random.key(1), "n_epochs": 2, "held_out": 0.1}
    one = mmf.fit(solver, np.asarray(x), **options)
    eight = mmf.fit(solver, np.asarray(x), mesh=mesh, **options)
    difference = float(np.abs(np.asarray(one.dictionary) - np.asarray(eight.dictionary)).max())
    print(f"held-out objective on 1 device {one.objective:.6f}, on 8 devices {eight.objective:.6f}")
    print(f"largest difference between entries of the dictionaries: {difference:.1e}")
    if figure is not None:
        draw(figure, mesh, one, eight)
    return {"difference": difference, "objectives": (one.objective, eight.objective)}


def draw(path, mesh, one, eight):
    """Draw the block of each device, and the objective of both runs."""
    from jax_mmf.plotting import COLORS, new_figure, save_figure

    figure, axes = new_figure(1, 3, figsize=(11, 3.2))
    for ax, (name, spec) in zip(axes[0], LAYOUTS.items(), strict=False):
        owners(ax, NamedSharding(mesh, PartitionSpec(*spec)))
        ax.set_title(f"{name}: blocks of the devices", fontsize=10)
    curves = axes[0][2]
    for run, name, style, color in ((one, "1 device", "-", COLORS[0]), (eight, "8 devices", "--", COLORS[1])):
        curves.plot(
            [r.n_samples for r in run.history], [r.objective for r in run.history], style, color=color, lw=2, label=name
        )
    curves.set(xlabel="samples seen", ylabel="held-out objective")
    curves.legend(frameon=False)
    save_figure(figure, path)


def owners(ax, sharding, shape=(8, 16)):
    """Draw the devices that hold each block of an array."""
    holders = np.full(shape, "", dtype=object)
    for device, block in sharding.devices_indices_map(shape).items():
        holders[block] += f" {device.id}"
    names, numbers = np.unique(holders.astype(str), return_inverse=True)
    numbers = numbers.reshape(shape)
    first = np.array([int(name.split()[0]) for name in names])
    ax.imshow(first[numbers], cmap="Pastel2", vmin=0, vmax=7, aspect="auto")
    for number, name in enumerate(names):
        rows, columns = np.nonzero(numbers == number)
        ax.text(columns.mean(), rows.mean(), name.strip().replace(" ", ", "), ha="center", va="center")
    ax.set(xticks=[], yticks=[], xlabel="features")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
