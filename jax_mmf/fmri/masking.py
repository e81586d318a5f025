"""Masking: images to a matrix of frames and voxels, by nilearn's maskers."""

from collections.abc import Sequence
from typing import Any

import nibabel
import numpy as np
from joblib import Parallel, delayed
from nibabel.arrayproxy import ArrayProxy
from nilearn.maskers import MultiNiftiMasker, MultiSurfaceMasker, NiftiMasker, SurfaceMasker
from nilearn.maskers.masker_validation import check_embedded_masker
from nilearn.signal import clean
from nilearn.surface import SurfaceImage
from sklearn.base import clone

from jax_mmf.fmri.scans import Scan
from jax_mmf.io import MatrixSource
from jax_mmf.typing import HostArray

_PART = 2**24  # bytes of an image that are smoothed at a time
_TRUNCATION = 4.0  # standard deviations to which nilearn computes Gaussian kernels
_DIFFERENT_SPACES = "images that differ in shape or affine need a mask, or target_affine and target_shape"


def fitted_masker(estimator: Any, scans: Sequence[Scan]) -> Any:
    """Make the masker of an estimator, as nilearn's own estimators do, and compute the mask if there is none.

    Args:
      estimator: with the parameters of masking; its ``mask`` is an image, a masker or None.
      scans: to compute the mask from.

    Returns:
      a fitted masker.

    Raises:
      ValueError: if the mask is empty or can't be computed; the message names the scan that can't be read.
    """
    masker = check_embedded_masker(estimator, masker_type=_kind(estimator.mask, scans))
    masker.memory_level = estimator.memory_level
    double = estimator.dtype not in (None, "auto") and np.dtype(estimator.dtype) == np.float64
    masker.dtype = np.float64 if double else np.float32
    masker.reports = False  # which would keep images in memory
    images = None if masker.mask_img is not None else [_mean(scan) for scan in scans]
    try:
        masker.fit(images)
    except MemoryError:
        raise
    except Exception as error:  # nilearn raises errors of any kind
        text = f"{error or type(error).__name__}"
        advice = "" if images is None else f"; {_DIFFERENT_SPACES}"
        raise ValueError(f"the mask can't be {'computed' if advice else 'used'}: {text}{advice}") from error
    if masker.n_elements_ == 0:
        raise ValueError("the mask is empty; pass another mask, or another mask_strategy or mask_args to compute it")
    return masker


def masked(masker: Any, scan: Scan) -> HostArray:
    """Mask a scan, and clean its signals.

    Args:
      masker: fitted.
      scan: to read.

    Returns:
      ``(n_frames, n_voxels)`` float32.

    Raises:
      ValueError: with the name of the scan, if it can't be read or masked, or gives NaN or infinity.
    """
    in_parts = isinstance(masker, NiftiMasker) and not masker.high_variance_confounds
    try:
        x = np.atleast_2d(_cleaned_in_parts(masker, scan) if in_parts else _cleaned(masker, scan))
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{scan.name} can't be masked: {error or type(error).__name__}") from error
    if len(x) != scan.n_frames:
        raise ValueError(f"{scan.name} gives {len(x)} frames after masking where {scan.n_frames} were expected")
    x = np.asarray(x, np.float32, order="C")
    if not np.isfinite([x.min(), x.max()]).all():
        frame, voxel = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(
            f"{scan.name} gives {x[frame, voxel]} after masking, in frame {frame}, voxel {voxel} of the mask; check "
            "its values there, and the options standardize, low_pass and high_pass"
        )
    return x


def unprocessed(masker: Any, *, smoothing_fwhm: float | None = None) -> Any:
    """Return a fitted masker that masks, resamples and smooths images, and leaves their signals as they are."""
    options = {"standardize": None, "detrend": False, "low_pass": None, "high_pass": None, "clean_args": None}
    options |= {name: None for name in ("target_affine", "target_shape") if hasattr(masker, name)}  # as the mask has
    return clone(masker).set_params(mask_img=masker.mask_img_, smoothing_fwhm=smoothing_fwhm, **options).fit()


def _box_of(mask: Any, fwhm: float | None) -> tuple[slice, ...]:
    """Return the part of a volume that holds the mask and all voxels that smoothing mixes with it."""
    sigmas = (fwhm or 0.0) / np.sqrt(8 * np.log(2)) / np.linalg.norm(mask.affine[:3, :3], axis=0)
    margin = np.ceil(_TRUNCATION * sigmas).astype(int) + 1
    places = np.argwhere(np.asarray(mask.dataobj) > 0)
    low, high = np.maximum(places.min(axis=0) - margin, 0), places.max(axis=0) + margin + 1
    return tuple(slice(a, min(b, n)) for a, b, n in zip(low.tolist(), high.tolist(), mask.shape, strict=True))


def _mean(scan: Scan) -> Any:
    """Return the mean of a scan over time, from which nilearn computes masks; surfaces are returned as they are."""
    if isinstance(scan.image, SurfaceImage):
        return scan.image
    try:
        image, values, slope, inter = _unscaled(scan)
        mean = np.zeros(image.shape[:3])
        for frame in range(image.shape[3]):  # numbers of one frame at a time are converted
            mean += values[..., frame]
    except MemoryError:
        raise
    except Exception as error:  # libraries raise errors of any kind for damaged files
        raise ValueError(f"{scan.name} can't be read: {error or type(error).__name__}") from error
    return nibabel.Nifti1Image((mean / image.shape[3] * slope + inter).astype(np.float32), image.affine)


def _unscaled(scan: Scan) -> tuple[Any, Any, float, float]:
    """Return an image, its numbers as they are stored, and the slope and the intercept of their scale."""
    image: Any = scan.image if scan.path is None else nibabel.load(scan.path)
    values = image.dataobj
    if isinstance(values, ArrayProxy):  # read once, since compressed files can't be read in parts
        return image, values.get_unscaled(), float(values.slope), float(values.inter)
    return image, np.asanyarray(values), 1.0, 0.0


def _cleaned(masker: Any, scan: Scan) -> HostArray:
    confounds, frames = scan.confounds, scan.sample_mask
    if isinstance(masker, MultiNiftiMasker | MultiSurfaceMasker):  # which take lists
        confounds, frames = ([part] if part is not None else None for part in (confounds, frames))
    return masker.transform(scan.image, confounds=confounds, sample_mask=frames)


def _cleaned_in_parts(masker: Any, scan: Scan) -> HostArray:
    """Mask a few frames at a time, without what is far from the mask, and clean the signals of all.

    The numbers are those of ``masker.transform``, which smooths all of the frames together: at 3 mm, this takes four
    times as long and five times as much memory.
    """
    image, values, slope, inter = _unscaled(scan)
    extractor, affine = unprocessed(masker, smoothing_fwhm=masker.smoothing_fwhm), image.affine
    mask = masker.mask_img_
    if mask.shape == image.shape[:3] and np.array_equal(mask.affine, affine):
        box = _box_of(mask, masker.smoothing_fwhm)
        mask, values = mask.slicer[box], values[box]
        extractor, affine = extractor.set_params(mask_img=mask).fit(), mask.affine
    n_frames = image.shape[-1]
    signals = np.empty((n_frames, masker.n_elements_), masker.dtype or np.float32)
    height = max(1, _PART // (4 * int(np.prod(values.shape[:3]))))
    for first in range(0, n_frames, height):
        part = (values[..., first : first + height] * slope + inter).astype(signals.dtype)
        signals[first : first + height] = extractor.transform(nibabel.Nifti1Image(part, affine))
    return clean(
        signals, runs=masker.runs, detrend=masker.detrend, standardize=masker.standardize,
        standardize_confounds=masker.standardize_confounds, sample_mask=scan.sample_mask, confounds=scan.confounds,
        low_pass=masker.low_pass, high_pass=masker.high_pass, t_r=masker.t_r, **masker.clean_args_,
    )  # fmt: skip


class MaskedScans(MatrixSource):
    """Source of the frames of scans, which are masked when they are read: one, or ``n_jobs`` of them, at a time.

    Args:
      masker: fitted.
      scans: in row order.
      n_jobs: number of scans that are masked together, each in a process.
    """

    def __init__(self, masker: Any, scans: Sequence[Scan], n_jobs: int = 1) -> None:
        self._masker, self._scans, self._n_jobs = masker, scans, n_jobs
        self._ends = np.cumsum([scan.n_frames for scan in scans])
        self._ready: dict[int, HostArray] = {}
        self.paths = tuple(scan.path.absolute() for scan in scans if scan.path is not None)
        super().__init__("masked scans", (int(self._ends[-1]), int(masker.n_elements_)), np.float32)

    def _read_into(self, out: HostArray, rows: HostArray, columns: HostArray | None) -> None:
        owners = np.searchsorted(self._ends, rows, side="right")
        for index in np.unique(owners):
            places = np.flatnonzero(owners == index)
            x = self._scan(int(index))
            within = rows[places] - (self._ends[index] - len(x))
            out[places] = x[within] if columns is None else x[np.ix_(within, columns)]

    def _scan(self, index: int) -> HostArray:
        if index not in self._ready:
            self._ready.clear()  # before the next ones need memory
            some = range(index, min(index + self._n_jobs, len(self._scans)))
            if len(some) == 1:
                arrays = [masked(self._masker, self._scans[index])]
            else:
                arrays = Parallel(self._n_jobs)(delayed(masked)(self._masker, self._scans[i]) for i in some)
            self._ready = dict(zip(some, arrays, strict=True))
            self.bytes_read += sum(array.nbytes for array in arrays)
        return self._ready[index]


def _kind(mask: Any, scans: Sequence[Scan]) -> str:
    """Return the kind of masker, in nilearn's words."""
    if isinstance(mask, MultiSurfaceMasker | SurfaceImage):
        return "multi_surface"
    if isinstance(mask, SurfaceMasker):
        return "surface"
    if isinstance(mask, NiftiMasker) and not isinstance(mask, MultiNiftiMasker):
        return "nii"
    if mask is None and any(isinstance(scan.image, SurfaceImage) for scan in scans):
        return "multi_surface"
    return "multi_nii"
