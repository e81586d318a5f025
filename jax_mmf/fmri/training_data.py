"""The masked scans of a study in one file of the library, in a folder of files that are used again."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import joblib
import nilearn
import numpy as np
from nilearn.surface import SurfaceImage
from tqdm.auto import tqdm

from jax_mmf.core import warn
from jax_mmf.fmri.masking import MaskedScans
from jax_mmf.fmri.scans import Scan
from jax_mmf.io import BadFileError, HDF5Source, convert, open_source
from jax_mmf.training import deferred_interrupt

_ROWS_PER_CHUNK = 32  # frames that follow each other are alike, so few are read together
_BLOCK_WIDTH = 1024
_MEMORY = 2**27  # bytes of frames that are written at a time
_NOT_IN_NUMBERS = ("mask_img", "memory", "memory_level", "n_jobs", "verbose", "reports", "cmap")
_LAYOUT = 1  # of the files; another number makes new ones


@contextmanager
def folder_for(folder: Path | None) -> Iterator[Path]:
    """Yield the folder of the files, which is created if it is missing; None is a temporary folder."""
    if folder is None:
        with TemporaryDirectory(prefix="jax-mmf-") as name:
            yield Path(name)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"cache must be a folder, got {folder}, which is a file or inside of a file; pass another folder"
        ) from error
    yield folder


def kept_folder(cache: Any, memory: Any) -> Path | None:
    """Return the folder of files to keep: that of ``cache``, or one in that of ``memory`` of nilearn; or None."""
    if cache is not None:
        return Path(cache).expanduser()
    location = getattr(memory, "location", memory)  # of a joblib.Memory, or a path
    return None if location is None else Path(os.fspath(location)) / "jax_mmf"


def masked_file(folder: Path, masker: Any, scans: Sequence[Scan], n_jobs: int, *, verbose: int = 0) -> Path:
    """Write the frames of all scans to a file, unless the folder has it.

    Args:
      folder: of the files. The name of the file is made of a hash of the scans, the mask and the options of masking.
      masker: fitted.
      scans: to mask.
      n_jobs: number of scans that are masked together.
      verbose: whether to show a progress bar.

    Returns:
      the path of the file, whose features are permuted.

    Raises:
      ValueError: with the name of a scan that can't be masked.
      OSError: if the file can't be written.
      KeyboardInterrupt: after Ctrl-C, when some more frames are written.
    """
    path = folder / f"masked-{key_of(masker, scans)}.h5"
    if path.is_file() and _is_whole(path):
        return path
    note = "DictLearning: stopping after these frames; press Ctrl-C again to stop immediately"
    n_frames = sum(scan.n_frames for scan in scans)
    with (
        deferred_interrupt(note) as interrupted,
        tqdm(total=n_frames, unit="frame", desc="masking", disable=not verbose) as bar,
    ):

        def show(done: int, _: int | None) -> None:
            bar.update(done - bar.n)
            if interrupted():
                raise KeyboardInterrupt

        convert(
            MaskedScans(masker, scans, n_jobs), path, key=jax.random.key(0), block_width=_BLOCK_WIDTH,
            rows_per_chunk=_ROWS_PER_CHUNK, memory=_MEMORY, on_progress=show,
        )  # fmt: skip
    return path


def key_of(masker: Any, scans: Sequence[Scan]) -> str:
    """Return a hash of all that determines the numbers in the file."""
    options = {name: value for name, value in masker.get_params().items() if name not in _NOT_IN_NUMBERS}
    mask = masker.mask_img_
    parts = mask.data.parts if isinstance(mask, SurfaceImage) else {"": np.asanyarray(mask.dataobj)}
    place = None if isinstance(mask, SurfaceImage) else np.asarray(mask.affine)
    voxels = joblib.hash([{name: np.asarray(part, bool) for name, part in parts.items()}, place])
    everything = [_LAYOUT, nilearn.__version__, type(masker).__name__, voxels, joblib.hash(options)]
    return str(joblib.hash([everything, [scan.identity for scan in scans]]))


def _is_whole(path: Path) -> bool:
    """Whether a file can be used again. The chunks of its numbers have checksums, which are compared on reading."""
    try:
        with open_source(path) as source:
            return isinstance(source, HDF5Source)
    except BadFileError as error:
        warn(f"{path} is damaged and written again: {error}")
        return False
