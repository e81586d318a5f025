"""``jax-mmf encode``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from tqdm import tqdm

import jax_mmf as mmf
from jax_mmf.cli.options import Command, Output, cache, check_outputs, dataset, open_data, option, quiet
from jax_mmf.core import filled_up
from jax_mmf.io import HDF5_ENDINGS, hdf5_written_aside, needs_x64, written_aside
from jax_mmf.training import SampleReader
from jax_mmf.typing import HostArray

_EPILOG = """\b
Example:
  jax-mmf encode model.h5 data.h5 --dataset X -o codes.h5
"""


@click.command("encode", cls=Command, epilog=_EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@dataset
@option("-o", "--output", type=Output("an HDF5 file or a NumPy array", (*HDF5_ENDINGS, ".npy")), required=True,
        help="File for the codes (n, k): .h5, data set “codes”, or .npy.")  # fmt: skip
@option("--batch-size", type=click.IntRange(min=1), default=1024, help="Samples per batch.")
@cache
@quiet
def command(model: Path, data: Path, dataset: str | None, output: Path, batch_size: int, quiet: bool) -> None:
    """Compute codes of the samples in DATA, with the dictionary and the penalty of MODEL."""
    check_outputs({"--output": output}, data, model)
    if needs_x64(model):
        jax.config.update("jax_enable_x64", True)
    solver, state, *_ = mmf.load_model(model)
    source = open_data(data, dataset)
    dictionary = state.dictionary
    if source.n_features != dictionary.shape[1]:
        raise ValueError(f"{data} has {source.n_features} features, and {model} was trained on {dictionary.shape[1]}")
    if source.permutation is not None:
        dictionary = dictionary[:, source.permutation]
    dtype = np.dtype(dictionary.dtype)
    reader = SampleReader(source, dtype)
    n, k = source.n_samples, solver.n_components
    with (
        _codes_file(output, (n, k), dtype, model) as write,
        tqdm(total=n, unit="sample", desc="compiling", disable=quiet or None) as bar,
    ):
        for first in range(0, n, batch_size):
            rows = np.arange(first, min(first + batch_size, n))
            x = reader.read(rows)
            x = filled_up(x, min(batch_size, n))
            write(first, np.asarray(mmf.encode(dictionary, x, solver.penalty))[: rows.size])
            bar.set_description("encoding", refresh=False)
            bar.update(rows.size)
    click.echo(f"codes of {n:,} samples, {k} atoms: {output}")


@contextmanager
def _codes_file(
    path: Path, shape: tuple[int, int], dtype: np.dtype[Any], model: Path
) -> Iterator[Callable[[int, HostArray], Any]]:
    """Open the file, and yield a function that writes the next codes, given the number of their first row."""
    if path.suffix.lower() == ".npy":
        header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        with written_aside(path) as aside, aside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            yield lambda _, codes: file.write(np.ascontiguousarray(codes).data)
    else:
        with hdf5_written_aside(path) as file:
            file.attrs["model"] = str(model)
            data = file.create_dataset("codes", shape, dtype)

            def write(first: int, codes: HostArray) -> None:
                data[first : first + len(codes)] = codes

            yield write
