"""The scans of a study: images of subjects with their confounds, checked before anything is read."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage
from nilearn.surface import SurfaceImage

_MOST_NAMED = 3  # files in a message


class Scan(NamedTuple):
    """One subject, or one run of a subject.

    Attributes:
      image: path, 4D image or `SurfaceImage`.
      name: for messages.
      n_frames: number of frames that are learned from, those of the sample mask if there is one.
      confounds: list of tables, or None.
      sample_mask: frames to keep, or None for all.
    """

    image: Any
    name: str
    n_frames: int
    confounds: list[Any] | None = None
    sample_mask: Any = None

    @property
    def identity(self) -> list[Any]:
        """What determines the result of masking: paths, sizes and times of files, hashes of the rest."""
        tables = None if self.confounds is None else [_identity(table) for table in self.confounds]
        return [_identity(self.image), tables, joblib.hash(self.sample_mask)]

    @property
    def path(self) -> Path | None:
        """Path of the file, or None for an image in memory."""
        return Path(self.image) if isinstance(self.image, str | Path) else None


def scans_of(imgs: Any, confounds: Any = None, sample_mask: Any = None) -> list[Scan]:
    """Check images and their confounds, reading headers only.

    Args:
      imgs: a path, a pattern with wildcards, a 4D image or a `SurfaceImage`; or a list of paths and images.
      confounds: for each image a table, a list of tables, or None. A table is a path, an array or a frame.
      sample_mask: for each image the frames to keep, as numbers or as booleans, or None.

    Returns:
      a scan for each image.

    Raises:
      FileNotFoundError: if a file is missing, and if nothing matches a pattern.
      ValueError: without images, for images that are not 4D, damaged headers, and confounds or sample masks of
        another length.
      TypeError: for anything else than paths and images.
    """
    images = _listed(imgs)
    _check_files([image for image in images if isinstance(image, str | Path)], "imgs")
    tables = _for_each("confounds", confounds, len(images))
    masks = _for_each("sample_mask", sample_mask, len(images))
    scans = []
    for number, (image, table, mask) in enumerate(zip(images, tables, masks, strict=True)):
        name = str(image) if isinstance(image, str | Path) else f"imgs[{number}]"
        n_frames = _number_of_frames(image, name)
        checked = None if table is None else _checked_tables(table, n_frames, f"confounds[{number}]", name)
        scans.append(Scan(image, name, _number_kept(mask, n_frames, f"sample_mask[{number}]"), checked, mask))
    return scans


def _listed(imgs: Any) -> list[Any]:
    if isinstance(imgs, str | Path) and glob.has_magic(str(imgs)):
        found = sorted(glob.glob(str(Path(imgs).expanduser())))  # noqa: PTH207  # patterns may be absolute
        if not found:
            raise FileNotFoundError(f"no file matches imgs {str(imgs)!r}")
        return list(found)
    if isinstance(imgs, str | Path | SpatialImage | SurfaceImage):
        return [imgs]
    if not isinstance(imgs, Sequence):
        raise TypeError(f"imgs must be a path, an image, or a list with one for each scan; got {type(imgs).__name__}")
    if len(imgs) == 0:
        raise ValueError("imgs must hold at least one image, got an empty list")
    return list(imgs)


def _check_files(paths: Sequence[str | Path], name: str) -> None:
    folders = [path for path in paths if Path(path).is_dir()]
    if folders:
        raise ValueError(f"{name}: {folders[0]} is a folder; pass its files, such as '{folders[0]}/*.nii.gz'")
    missing = [str(path) for path in paths if not Path(path).is_file()]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise FileNotFoundError(
            f"{name}: no file {', '.join(missing[:_MOST_NAMED])}{more}; {len(missing)} of {len(paths)} are missing"
        )


def _for_each(name: str, values: Any, n: int) -> list[Any]:
    """Return one value for each image."""
    if values is None:
        return [None] * n
    if isinstance(values, str | Path | np.ndarray) or not isinstance(values, Sequence):
        values = [values]  # of the only image
    if len(values) != n:
        raise ValueError(f"{name} must be a list with an entry for each of {n} images, got {len(values)}")
    return list(values)


def _number_of_frames(image: Any, name: str) -> int:
    if isinstance(image, str | Path):
        try:
            image = nibabel.load(image)
        except Exception as error:  # nibabel raises errors of any kind for damaged files
            raise ValueError(f"{name} can't be read as an image: {error or type(error).__name__}") from error
    if isinstance(image, SurfaceImage):
        shape: tuple[int, ...] = image.shape
        n_axes, what = 2, "vertices and frames"
    elif isinstance(image, SpatialImage):
        shape, n_axes, what = image.shape, 4, "three axes of space and one of time"
    else:
        raise TypeError(f"{name} must be a path, an image or a SurfaceImage; got {type(image).__name__}")
    if len(shape) != n_axes:
        raise ValueError(f"{name} must have {what}, got shape {tuple(shape)}; pass one image with all frames of a scan")
    return int(shape[-1])


def _checked_tables(tables: Any, n_frames: int, name: str, image: str) -> list[Any]:
    tables = list(tables) if isinstance(tables, list | tuple) else [tables]
    _check_files([table for table in tables if isinstance(table, str | Path)], name)
    for table in tables:
        lengths = _lengths(table, name)
        if n_frames not in lengths:
            raise ValueError(f"{name} must have a row for each of the {n_frames} frames of {image}, got {lengths[-1]}")
    return tables


def _lengths(table: Any, name: str) -> tuple[int, ...]:
    """Return the number of rows of a table; of a file both with and without its first line, which may be a header."""
    if isinstance(table, str | Path):
        with Path(table).open("rb") as file:
            n_lines = sum(1 for line in file if line.strip())
        return n_lines, n_lines - 1
    shape = getattr(table, "shape", None)
    if not shape:
        raise TypeError(f"{name} must be a path, an array or a frame, got {type(table).__name__}")
    return (int(shape[0]),)


def _number_kept(mask: Any, n_frames: int, name: str) -> int:
    if mask is None:
        return n_frames
    mask = np.asarray(mask)
    if mask.dtype == bool:
        if mask.shape != (n_frames,):
            raise ValueError(f"{name} must hold {n_frames} booleans, one for each frame; got shape {mask.shape}")
        mask = np.flatnonzero(mask)
    if mask.ndim != 1 or mask.size == 0 or mask.min() < 0 or mask.max() >= n_frames:
        raise ValueError(f"{name} must hold frame numbers from 0 to {n_frames - 1}, got {mask}")
    return int(mask.size)


def _identity(part: Any) -> list[Any]:
    if isinstance(part, str | Path):
        facts = Path(part).stat()
        return [str(Path(part).absolute()), facts.st_size, facts.st_mtime_ns]
    if isinstance(part, SpatialImage):
        file = part.get_filename()
        if file is not None and nibabel.is_proxy(part.dataobj):  # its numbers are still in the file
            return [*_identity(file), joblib.hash(np.asarray(part.affine))]
        return [joblib.hash(np.asanyarray(part.dataobj)), joblib.hash(np.asarray(part.affine))]
    if isinstance(part, SurfaceImage):
        return [joblib.hash({name: np.asarray(values) for name, values in part.data.parts.items()})]
    return [joblib.hash(part)]
