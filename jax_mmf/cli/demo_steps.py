"""Steps of ``jax-mmf demo``: a hyperspectral scene, streamed from disk and factorized in three ways."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_mmf.constraints import L2Ball
from jax_mmf.datasets import iter_patches, load_indian_pines, standardize_bands
from jax_mmf.io import open_source, save_model, write_permuted
from jax_mmf.learning import BlockSubset, OnlineFactorization, PowerForgetting
from jax_mmf.penalties import Lasso
from jax_mmf.plotting import COLORS, composite, new_figure, plot_convergence, save_figure
from jax_mmf.training import Event, FitResult, Record, fit
from jax_mmf.typing import HostArray

PATCH = 8
_BATCH = 128
_HELD_OUT = 512
_RGB_BANDS = (28, 16, 9)  # about 670, 560 and 490 nm
_PAPER_EXPONENT = 0.917  # the forgetting of [TSP18], just inside the range of its proof
_REDUCTION = 4


class Variant(NamedTuple):
    """One of the three ways: its name in tables and legends, its solver, and its result."""

    name: str
    solver: OnlineFactorization
    result: FitResult


def solvers(n_components: int, alpha: float) -> dict[str, OnlineFactorization]:
    """Return the solvers of the three variants, by name; all solve the same problem."""
    problem: dict[str, Any] = {"n_components": n_components, "penalty": Lasso(alpha), "constraint": L2Ball()}
    return {
        "defaults": OnlineFactorization(**problem),
        f"r = {_REDUCTION}": OnlineFactorization(**problem, subset=BlockSubset(_REDUCTION), partial_b=True),
        f"u = {_PAPER_EXPONENT}": OnlineFactorization(**problem, forgetting=PowerForgetting(_PAPER_EXPONENT)),
    }


def write_data(path: Path, progress: Callable[[int], Any]) -> tuple[int, int]:
    """Write all patches of the scene to HDF5, in random order and with permuted features; return the shape."""
    cube = standardize_bands(load_indian_pines())
    height, width, bands = cube.shape
    n, p = (height - PATCH + 1) * (width - PATCH + 1), PATCH * PATCH * bands
    cube /= np.sqrt(np.float32(p))  # samples have a mean squared norm near 1, on which the scale of alpha depends

    def batches() -> Any:
        # Neighbouring patches share most of their pixels. In this random order, a mini-batch is one contiguous read.
        for batch in iter_patches(cube, PATCH, order=np.random.default_rng(0).permutation(n)):
            progress(len(batch))
            yield batch

    block_width, _, _ = BlockSubset(_REDUCTION).layout(p)
    write_permuted(path, batches(), key=jax.random.key(0), block_width=block_width, rows_per_chunk=_BATCH)
    return n, p


def compile_programs(data: Path, solver: OnlineFactorization) -> None:
    """Compile the programs of `run` in a run of one step; its clock then excludes compilation."""
    _fit(data, solver, lambda _: True)


def run(data: Path, solver: OnlineFactorization, seconds: float, progress: Callable[[Event], Any]) -> FitResult:
    """Fit for some seconds of reading and learning; call `compile_programs` first."""

    def out_of_time(event: Event) -> bool:
        return event.record is not None and event.record.seconds > seconds

    return _fit(data, solver, progress, out_of_time)


def _fit(data: Path, solver: OnlineFactorization, *callbacks: Callable[[Event], Any]) -> FitResult:
    return fit(
        solver,
        open_source(data),
        key=jax.random.key(1),
        n_epochs=1000,
        batch_size=_BATCH,
        held_out=_HELD_OUT,
        evaluate_every=10,
        callbacks=callbacks,
    )


def first_within(history: Sequence[Record], target: float) -> Record | None:
    """Return the first record whose objective is at most a target, or None."""
    return next((r for r in history if r.objective <= target), None)


def table(variants: Sequence[Variant]) -> str:
    """Format the results as a table, with a dash for a target that was not reached."""
    best = min(r.objective for variant in variants for r in variant.result.history)
    lines = [
        f"{'':<10} {'samples/s':>10} {'final objective':>16} {'to best + 1 %: s':>17} {'GB read':>8}",
    ]
    for name, _, result in variants:
        last, reached = result.history[-1], first_within(result.history, 1.01 * best)
        rate = last.n_samples / last.seconds
        seconds, read = ("-", "-") if reached is None else (f"{reached.seconds:.1f}", f"{reached.bytes_read / 1e9:.2f}")
        lines.append(f"{name:<10} {rate:>10,.0f} {last.objective:>16.5f} {seconds:>17} {read:>8}")
    return "\n".join(lines)


def figure(path: Path, variants: Sequence[Variant]) -> None:
    """Draw convergence curves, and the atoms of the best variant as colour composites and spectra."""
    fig, _ = new_figure(0, 0, figsize=(12, 7.2))
    top, bottom = fig.subfigures(2, 1, height_ratios=(1, 1.05))
    histories: Mapping[str, Sequence[Record]] = {v.name: v.result.history for v in variants}
    axes = top.subplots(1, 2, sharey=True)
    plot_convergence(histories, against="seconds", ax=axes[0])
    plot_convergence(histories, against="bytes_read", ax=axes[1])
    axes[0].legend(frameon=False, fontsize=9)
    axes[1].set_ylabel("")
    top.suptitle("Indian Pines, 19,044 patches of 8 x 8 pixels x 200 bands, streamed from disk")

    best = min(variants, key=lambda v: v.result.history[-1].objective)
    state = best.result.state
    usage = np.asarray(state.surrogate.c).diagonal()
    order = np.argsort(-usage)
    atoms = np.asarray(state.dictionary)[order].reshape(order.size, PATCH, PATCH, -1)
    left, right = bottom.subfigures(1, 2, width_ratios=(1.25, 1))
    _draw_composites(left, atoms)
    left.suptitle(f"{order.size} atoms of “{best.name}” by use: bands 29, 17, 10 as red, green, blue", fontsize=10)
    _draw_spectra(right, atoms)
    save_figure(fig, path)


def _draw_composites(fig: Any, atoms: HostArray) -> None:
    columns = 11
    grid = fig.subplots(-(-len(atoms) // columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture in zip(grid.flat, composite(atoms, _RGB_BANDS), strict=False):
        axes.imshow(picture, interpolation="nearest")


def _draw_spectra(fig: Any, atoms: HostArray) -> None:
    axes = fig.subplots()
    for color, atom in zip(COLORS, atoms, strict=False):
        # The pixel at which the atom is strongest has the clearest spectrum.
        pixels = atom.reshape(-1, atom.shape[-1])
        spectrum = pixels[np.square(pixels).sum(1).argmax()]
        axes.plot(np.arange(1, spectrum.size + 1), spectrum, color=color, lw=1.3)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set(xlabel="spectral band", ylabel="atom, at its strongest pixel")
    fig.suptitle("spectra of the six most used", fontsize=10)


def save(path: Path, variant: Variant) -> None:
    """Write the model of a variant."""
    save_model(path, variant.solver, variant.result.state, variant.result.history)
