"""Sources of samples, files of matrices, permutations of features, model files: all that opens a file."""

from jax_mmf.io.atomic import HDF5_ENDINGS, hdf5_written_aside, written_aside
from jax_mmf.io.files import open_source
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.model_file import (
    Checkpoint,
    Model,
    build,
    describe,
    load_model,
    needs_x64,
    read_array,
    save_model,
    write_array,
)
from jax_mmf.io.permutation import FeaturePermutation, write_permuted
from jax_mmf.io.record import Record
from jax_mmf.io.sources import ArraySource, BatchSource, RawSource, SlicedSource, Source, SparseSource, as_source

__all__ = [
    "HDF5_ENDINGS",
    "ArraySource",
    "BatchSource",
    "Checkpoint",
    "FeaturePermutation",
    "HDF5Source",
    "MatrixSource",
    "Model",
    "RawSource",
    "Record",
    "SlicedSource",
    "Source",
    "SparseSource",
    "as_source",
    "build",
    "describe",
    "hdf5_written_aside",
    "load_model",
    "needs_x64",
    "open_source",
    "read_array",
    "save_model",
    "write_array",
    "write_permuted",
    "written_aside",
]
