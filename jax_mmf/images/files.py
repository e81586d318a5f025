"""Files of images and cubes, read and written by the libraries of their formats."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jax_mmf.core import warn
from jax_mmf.io import MAX_EXPANSION, BadFileError, NoDataSetError, check_data_set, written_aside
from jax_mmf.typing import HostArray

_EXTRA = "pip install 'jax-mmf[images]'"
WRITABLE = (".png", ".tif", ".tiff", ".npy", ".jpg", ".jpeg", ".bmp")


def read_image(path: str | Path, dataset: str | None = None) -> HostArray:
    """Read an image or a cube, ``(rows, columns)`` or ``(rows, columns, bands)``.

    ========================= ============= ==============================================================
    file                      library       remarks
    ========================= ============= ==============================================================
    .png, .jpg, .bmp, .gif    Pillow        an alpha channel is left out, with a warning
    .tif, .tiff               tifffile      bands that are stored first become the last axis
    .npy                      NumPy
    .mat                      SciPy, h5py   version 7.3 is stored transposed, which is undone
    .h5, .hdf5                h5py
    .hdr, .img, .raw, .dat    spectral      ENVI: a header and a data file of the same name
    ========================= ============= ==============================================================

    Args:
      path: of the file; its ending gives the format.
      dataset: name of the array in a .mat or .h5 file; by default the only one with two or three axes.

    Returns:
      the array, in the dtype of the file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for an unknown ending, and if the array has other than two or three axes.
      BadFileError: if the file can't be read, refers to other files, or lacks some of its numbers.
      NoDataSetError: a `BadFileError` and a KeyError, if there is no array of this name, or it is ambiguous.
      ImportError: if the library is not installed.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path} must end in one of {', '.join(_READERS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        array = read(path, dataset)
    except ImportError as missing:
        raise ImportError(f"{path} needs {missing.name}; {_EXTRA}") from missing
    except (NoDataSetError, MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # libraries raise errors of any kind for damaged files
        raise BadFileError(f"{path} can't be read: {error}") from error
    array = np.asarray(array)
    if array.ndim not in (2, 3):
        raise ValueError(f"{path} must hold (rows, columns) or (rows, columns, bands); got shape {array.shape}")
    return array


def write_image(path: str | Path, image: HostArray) -> None:
    """Write an image to a file, which appears only when it is complete.

    Args:
      path: of the file. .tif and .npy hold any number of bands and any dtype. .png holds 8 bits in one or three bands,
        and 16 bits in one band; .jpg and .bmp hold 8 bits.
      image: ``(rows, columns)`` or ``(rows, columns, bands)``.

    Raises:
      ValueError: for another ending, and for an image that the format can't hold.
    """
    path = Path(path)
    check_writable(path, image.shape, image.dtype)
    ending = path.suffix.lower()
    pictures = ending not in (".npy", ".tif", ".tiff")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    with written_aside(path) as aside:
        if ending == ".npy":
            with aside.open("wb") as file:
                np.save(file, image)
        elif pictures:
            _library("PIL.Image").fromarray(image).save(aside, format=_FORMATS[ending])
        else:
            bands = {"planarconfig": "contig"} if image.ndim == 3 else {}
            color = "rgb" if image.ndim == 3 and image.shape[2] == 3 else "minisblack"
            _library("tifffile").imwrite(aside, image, photometric=color, **bands)


def check_writable(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless `write_image` can write an image of a shape and a dtype to a file of this name."""
    ending = path.suffix.lower()
    if ending not in WRITABLE:
        raise ValueError(f"{path} must end in one of {', '.join(WRITABLE)}")
    bands = shape[2] if len(shape) == 3 else 1
    wide = ending == ".png" and dtype == np.uint16 and bands == 1
    if ending not in (".npy", ".tif", ".tiff") and not (wide or (dtype == np.uint8 and bands in (1, 3))):
        raise ValueError(f"{path} can't hold an image of shape {shape} and {dtype}; write .tif or .npy")


_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as missing:
        raise ImportError(f"images in this format need {missing.name}; {_EXTRA}") from missing


def _picture(path: Path, _: str | None) -> HostArray:
    from PIL import Image

    with Image.open(path) as file:
        image: Image.Image = file
        if image.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB"):
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        if image.mode == "1":
            image = image.convert("L")
        array = np.asarray(image)
    if image.mode in ("RGBA", "LA", "PA"):
        warn(f"{path} has an alpha channel, which is left out")
        array = array[..., 0] if image.mode == "LA" else array[..., :-1]
    return array


def _tiff(path: Path, _: str | None) -> HostArray:
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        array: HostArray = series.asarray()
        bands_first = array.ndim == 3 and series.axes.endswith("YX")
        if series.axes.startswith("Q"):  # an axis of unknown meaning
            bands_first = bands_first and array.shape[0] < array.shape[2]
    return np.moveaxis(array, 0, -1) if bands_first else array


def _numpy(path: Path, _: str | None) -> HostArray:
    array: HostArray = np.load(path, allow_pickle=False)
    return array


def _matlab(path: Path, dataset: str | None) -> HostArray:
    if h5py.is_hdf5(path):  # version 7.3, with the axes of Fortran
        return _hdf5(path, dataset).T
    from scipy.io import loadmat, whosmat

    name = _chosen(path, {name: shape for name, shape, _ in whosmat(path)}, dataset)
    return np.asarray(loadmat(path, variable_names=[name])[name])


def _hdf5(path: Path, dataset: str | None) -> HostArray:
    with h5py.File(path, "r") as file:
        shapes: dict[str, tuple[int, ...]] = {}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                shapes[name] = item.shape

        file.visititems(note)
        found = file[_chosen(path, shapes, dataset)]
        check_data_set(
            found, f"{found.name} of {path}", follow_external=False, fill_missing=False, max_expansion=MAX_EXPANSION
        )
        array: HostArray = found[()]
    return array


def _envi(path: Path, _: str | None) -> HostArray:
    from spectral.io import envi

    header = path
    if path.suffix.lower() != ".hdr":
        candidates = [path.with_suffix(".hdr"), path.with_name(path.name + ".hdr")]
        header = next((c for c in candidates if c.is_file()), candidates[0])
        if not header.is_file():
            raise FileNotFoundError(f"{path} needs its ENVI header, {header}")
    image = envi.open(str(header), None if header == path else str(path))
    return np.array(image.open_memmap(interleave="bip"))


def _chosen(path: Path, shapes: dict[str, tuple[int, ...]], dataset: str | None) -> str:
    """Return the name that is asked for, or that of the only array with two or three axes."""
    if dataset is not None:
        if dataset not in shapes:
            raise NoDataSetError(f"{path} has no array {dataset!r}; it has {', '.join(shapes)}")
        return dataset
    fitting = {name: shape for name, shape in shapes.items() if len(shape) in (2, 3) and min(shape) > 1}
    if len(fitting) != 1:
        found = ", ".join(f"{name} {shape}" for name, shape in fitting.items()) or "none"
        raise NoDataSetError(
            f"{path}: pass dataset (--dataset), the name of the array with the image; candidates: {found}"
        )
    return next(iter(fitting))


_READERS: dict[str, Callable[[Path, str | None], HostArray]] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".gif"), _picture),
    **dict.fromkeys((".tif", ".tiff"), _tiff),
    ".npy": _numpy,
    ".mat": _matlab,
    **dict.fromkeys((".h5", ".hdf5"), _hdf5),
    **dict.fromkeys((".hdr", ".img", ".raw", ".dat"), _envi),
}
