"""Sources of samples, matrix files, permutations of features, and model files."""

from jax_mmf.core import renamed
from jax_mmf.io.bad_file import BadFileError
from jax_mmf.io.bad_file import NoDataSetError as NoDataSetError
from jax_mmf.io.chunk_cache import ChunkCache as ChunkCache
from jax_mmf.io.compression import COMPRESSIONS as COMPRESSIONS
from jax_mmf.io.conversion.convert import Conversion, convert, write_permuted
from jax_mmf.io.conversion.partial_file import folder_of as folder_of
from jax_mmf.io.derived import CentredSource, NonNegativeSource, ObservedEntries
from jax_mmf.io.device_source import DeviceSource
from jax_mmf.io.files import files_of as files_of
from jax_mmf.io.files import open_source
from jax_mmf.io.hdf5 import HDF5Source
from jax_mmf.io.hdf5_checks import MAX_EXPANSION as MAX_EXPANSION
from jax_mmf.io.hdf5_checks import check_data_set as check_data_set
from jax_mmf.io.hdf5_checks import find_data_set as find_data_set
from jax_mmf.io.joined import JoinedSource
from jax_mmf.io.matrix_source import MatrixSource
from jax_mmf.io.model_file import SavedModel, load_model, save_model
from jax_mmf.io.model_file import build as build
from jax_mmf.io.model_file import describe as describe
from jax_mmf.io.model_file import needs_x64 as needs_x64
from jax_mmf.io.model_file import read_array as read_array
from jax_mmf.io.model_file import read_data_set as read_data_set
from jax_mmf.io.model_file import write_array as write_array
from jax_mmf.io.output.atomic import HDF5_ENDINGS as HDF5_ENDINGS
from jax_mmf.io.output.atomic import check_outputs as check_outputs
from jax_mmf.io.output.atomic import hdf5_written_aside as hdf5_written_aside
from jax_mmf.io.output.atomic import written_aside as written_aside
from jax_mmf.io.permutation import FeaturePermutation
from jax_mmf.io.raw_source import RawSource
from jax_mmf.io.record import Record
from jax_mmf.io.run_file import Best as Best
from jax_mmf.io.run_file import SavedRun
from jax_mmf.io.run_file import load_run as load_run
from jax_mmf.io.run_file import save_run as save_run
from jax_mmf.io.sealed import opened_model as opened_model
from jax_mmf.io.sealed import sealed_hdf5 as sealed_hdf5
from jax_mmf.io.sources import ArraySource, BatchSource, SlicedSource, Source, SparseSource, as_source

__getattr__ = renamed(__name__, {"Model": "SavedModel"})

# Public. Other packages of jax_mmf import the rest from here, too.
__all__ = [
    "ArraySource",
    "BadFileError",
    "BatchSource",
    "CentredSource",
    "Conversion",
    "DeviceSource",
    "FeaturePermutation",
    "HDF5Source",
    "JoinedSource",
    "MatrixSource",
    "NonNegativeSource",
    "ObservedEntries",
    "RawSource",
    "Record",
    "SavedModel",
    "SavedRun",
    "SlicedSource",
    "Source",
    "SparseSource",
    "as_source",
    "convert",
    "load_model",
    "open_source",
    "save_model",
    "write_permuted",
]
