"""Data in, models out: sources of samples, the order they are read in, reading ahead, and model files."""

from jax_mmf.io.files import open_source
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.model_file import Checkpoint, Model, load_model, save_model
from jax_mmf.io.permutation import FeaturePermutation, write_permuted
from jax_mmf.io.sources import ArraySource, BatchSource, RawSource, SlicedSource, Source, SparseSource, as_source

__all__ = [
    "ArraySource",
    "BatchSource",
    "Checkpoint",
    "FeaturePermutation",
    "HDF5Source",
    "MatrixSource",
    "Model",
    "RawSource",
    "SlicedSource",
    "Source",
    "SparseSource",
    "as_source",
    "load_model",
    "open_source",
    "save_model",
    "write_permuted",
]
