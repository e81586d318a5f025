"""Semi-synthetic subjects: planted sparse maps and time courses in the grey matter of the MNI template."""

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_mmf.core import check_choice, check_count, check_real
from jax_mmf.io import written_aside
from jax_mmf.typing import HostArray

_MISSING = "synthetic subjects need nilearn and nibabel: pip install 'jax-mmf[fmri]'"
_BASELINE = 100.0  # mean of a voxel: fluctuations are in percent
_RADIUS = (15.0, 30.0)  # of a bump, in mm along the grey matter
_N_TRIED = 3  # points for the centre of a bump: more of them give maps that overlap less
_N_FIELDS = 4  # of physiological noise
_FIELD_FWHM = 25.0  # in mm
_INT16_STEP = 5e-3  # in percent: 0 to 163 fit into 16 bits
_DTYPES = ("int16", "float32")


class SyntheticSubjects(NamedTuple):
    """Scans on disk, and the truth behind them.

    Attributes:
      paths: the NIfTI file of each subject.
      mask_img: the grey matter, a 3D image of zeros and ones.
      maps_img: the planted maps, a 4D image ``(x, y, z, n_maps)`` of values in [0, 1].
      time_courses: for each subject, ``(n_frames, n_maps)``, each of mean 0 and variance 1.

    Example:
      >>> import tempfile
      >>> from jax_mmf.fmri import make_subjects
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     subjects = make_subjects(folder, n_subjects=1, n_frames=5, n_maps=2, resolution=8)
      >>> subjects.maps_img.shape[3], subjects.mask_img.shape == subjects.maps_img.shape[:3]
      (2, True)
    """

    paths: list[Path]
    mask_img: Any
    maps_img: Any
    time_courses: list[HostArray]


def make_subjects(
    folder: str | Path,
    *,
    n_subjects: int = 8,
    n_frames: int = 400,
    n_maps: int = 20,
    resolution: int = 3,
    t_r: float = 2.0,
    signal: float = 1.0,
    physiological: float = 0.2,
    noise: float = 1.0,
    dtype: str = "int16",
    seed: int = 0,
) -> SyntheticSubjects:
    """Write scans of synthetic subjects, whose maps and time courses are known.

    The mask is the MNI152 grey-matter template that nilearn ships. A map has one to three bumps. A bump decreases
    smoothly with the distance along the grey matter, and reaches zero at 15 to 30 mm. The signal of a subject is the
    product of the subject's time courses, AR(1) processes, and the maps that all subjects share. Physiological noise is
    smooth in space, and consists of slow drifts and of oscillations at the rates of breathing and of the heart, aliased
    by the repetition time. White noise is independent between voxels and frames. Voxels fluctuate around 100:
    ``signal``, ``physiological`` and ``noise`` are in percent of the mean. Outside of the mask, images are zero.

    Subject i depends on ``seed`` and i, not on the number of subjects. One subject at a time is in memory.

    Args:
      folder: where ``sub-01_bold.nii.gz`` and so on are written; created if missing. Files of this name are replaced.
      n_subjects: number of subjects, one file each.
      n_frames: frames per subject.
      n_maps: number of planted maps, at most one for 60 voxels of the mask.
      resolution: side of a voxel in mm, an integer from 2 to 8.
      t_r: repetition time in seconds.
      signal: standard deviation of a time course at the peak of its map.
      physiological: mean standard deviation of the physiological noise.
      noise: standard deviation of the white noise.
      dtype: of the files: ``"int16"``, as scanners write them, in steps of 0.005 and clipped at 163; or ``"float32"``.
      seed: of all random numbers.

    Returns:
      paths, mask, maps and time courses.

    Raises:
      ImportError: if nilearn is not installed.
      ValueError: for numbers out of range.

    Example:
      >>> import tempfile
      >>> from jax_mmf.fmri import make_subjects
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     subjects = make_subjects(folder, n_subjects=1, n_frames=5, n_maps=2, resolution=8)
      >>> [path.name for path in subjects.paths], subjects.time_courses[0].shape
      (['sub-01_bold.nii.gz'], (5, 2))
    """
    sizes = {"n_subjects": n_subjects, "n_frames": n_frames, "n_maps": n_maps, "resolution": resolution}
    for name, size in sizes.items():
        check_count(name, size, low=2 if name in ("resolution", "n_frames") else 1)
    if resolution > 8:
        raise ValueError(f"resolution must be at most 8 mm, where bumps are 2 voxels wide; got {resolution}")
    check_choice("dtype", dtype, _DTYPES)
    check_real("t_r", t_r, low=0.0, open_low=True)
    for name, level in (("signal", signal), ("physiological", physiological), ("noise", noise)):
        check_real(name, level, low=0.0)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mask_img = _grey_matter(resolution)
    mask = np.asarray(mask_img.dataobj) > 0
    if n_maps > mask.sum() // 60:
        raise ValueError(f"n_maps must be at most {mask.sum() // 60} at {resolution} mm, got {n_maps}; use fewer")
    seeds = np.random.SeedSequence(seed).spawn(1 + n_subjects)
    maps = planted_maps(np.random.default_rng(seeds[0]), mask, resolution, n_maps)
    paths = [folder / f"sub-{i:02d}_bold.nii.gz" for i in range(1, n_subjects + 1)]
    time_courses = []
    for path, subject_seed in zip(paths, seeds[1:], strict=True):
        rng = np.random.default_rng(subject_seed)
        courses = autoregressive(rng, n_frames, n_maps, rng.uniform(0.3, 0.8, n_maps))
        frames = np.float32(signal) * (courses @ maps)
        frames += np.float32(physiological) * _physiological_noise(rng, mask, resolution, n_frames, t_r)
        for t in range(n_frames):  # frame by frame, because a subject is large
            frames[t] += np.float32(_BASELINE) + np.float32(noise) * rng.standard_normal(mask.sum(), np.float32)
        write_frames(path, frames, mask, mask_img.affine, t_r, dtype)
        time_courses.append(courses)
    return SyntheticSubjects(paths, mask_img, _image(_unmask(maps, mask), mask_img.affine), time_courses)


def _grey_matter(resolution: int) -> Any:
    """Load the grey-matter mask of nilearn."""
    try:
        from nilearn.datasets import load_mni152_gm_mask
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return load_mni152_gm_mask(resolution=resolution)


def planted_maps(rng: np.random.Generator, mask: HostArray, resolution: float, n_maps: int) -> HostArray:
    """Draw maps of one to three bumps, with centres spread over the mask.

    Args:
      rng: random generator.
      mask: ``(x, y, z)`` boolean.
      resolution: side of a voxel in mm.
      n_maps: number of maps.

    Returns:
      ``(n_maps, n_voxels)`` float32, in [0, 1], each with maximum 1.
    """
    from scipy.sparse.csgraph import dijkstra

    graph = _voxel_graph(mask, resolution)
    n_bumps = rng.integers(1, 4, n_maps)
    centres = rng.permutation(_spread(rng, np.argwhere(mask) * float(resolution), n_bumps.sum()))
    radii = rng.uniform(*_RADIUS, centres.size)
    heights = rng.uniform(0.6, 1.0, centres.size)
    maps = np.zeros((n_maps, int(mask.sum())), np.float32)
    for owner, centre, radius, height in zip(
        np.repeat(np.arange(n_maps), n_bumps), centres, radii, heights, strict=True
    ):
        distance = dijkstra(graph, indices=centre, limit=radius)
        bump = height * np.maximum(1 - (distance / radius) ** 2, 0) ** 2  # zero where the distance is infinite
        maps[owner] = np.maximum(maps[owner], bump)
    return maps / maps.max(axis=1, keepdims=True)


def _voxel_graph(mask: HostArray, resolution: float) -> Any:
    """Make the graph of the voxels and their 26 neighbours in the mask, with distances in mm."""
    from scipy.sparse import coo_array

    number = np.full(np.add(mask.shape, 2), -1)
    number[1:-1, 1:-1, 1:-1][mask] = np.arange(mask.sum())
    place = np.argwhere(mask) + 1
    steps = [
        step for step in np.ndindex(3, 3, 3) if step > (1, 1, 1)
    ]  # half of the neighbours: distances are symmetric
    rows, columns, lengths = [], [], []
    for step in np.subtract(steps, 1):
        other = number[tuple((place + step).T)]
        inside = np.flatnonzero(other >= 0)
        rows.append(inside)
        columns.append(other[inside])
        lengths.append(np.full(inside.size, resolution * np.linalg.norm(step)))
    half = coo_array(
        (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), shape=(len(place),) * 2
    )
    return (half + half.T).tocsr()


def _spread(rng: np.random.Generator, places: HostArray, count: int) -> HostArray:
    """Choose points with some distance: each is the farthest of a few random points from those chosen before."""
    chosen = [int(rng.integers(len(places)))]
    nearest = np.linalg.norm(places - places[chosen[0]], axis=1)
    while len(chosen) < count:
        tried = rng.integers(len(places), size=_N_TRIED)
        chosen.append(int(tried[nearest[tried].argmax()]))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.array(chosen)


def autoregressive(rng: np.random.Generator, n_frames: int, n_series: int, coefficient: HostArray | float) -> HostArray:
    """Draw stationary AR(1) series, and standardize them.

    Args:
      rng: random generator.
      n_frames: length of a series.
      n_series: number of series.
      coefficient: correlation of successive frames, in [0, 1): a scalar or ``(n_series,)``.

    Returns:
      ``(n_frames, n_series)`` float32, each of mean 0 and variance 1.
    """
    innovations = rng.standard_normal((n_frames, n_series))
    series = np.empty_like(innovations)
    series[0] = innovations[0]
    for t in range(1, n_frames):
        series[t] = coefficient * series[t - 1] + np.sqrt(1 - np.square(coefficient)) * innovations[t]
    return _standardized(series)


def _standardized(series: HostArray) -> HostArray:
    series = series - series.mean(0)
    return np.asarray(series / series.std(0), np.float32)


def _physiological_noise(
    rng: np.random.Generator, mask: HostArray, resolution: float, n_frames: int, t_r: float
) -> HostArray:
    """Draw smooth noise ``(n_frames, n_voxels)`` with a mean variance of 1."""
    from scipy.ndimage import gaussian_filter

    sigma = _FIELD_FWHM / resolution / np.sqrt(8 * np.log(2))
    fields = np.stack([gaussian_filter(rng.standard_normal(mask.shape), sigma)[mask] for _ in range(_N_FIELDS)])
    fields /= np.sqrt(np.square(fields).sum(0).mean())
    seconds = t_r * np.arange(n_frames)[:, None]
    rates = np.array([rng.uniform(0.2, 0.4), rng.uniform(0.8, 1.3)])  # of breathing and of the heart, in Hz
    waves = _standardized(np.sin(2 * np.pi * (rates * seconds + rng.uniform(size=2))))
    drifts = autoregressive(rng, n_frames, _N_FIELDS - 2, 0.95)
    return np.concatenate([waves, drifts], axis=1) @ fields.astype(np.float32)


def write_frames(path: Path, frames: HostArray, mask: HostArray, affine: HostArray, t_r: float, dtype: str) -> None:
    """Write the voxels of a mask ``(n_frames, n_voxels)`` as a compressed 4D image."""
    from nibabel.fileholders import FileHolder

    step = _INT16_STEP if dtype == "int16" else 1.0
    if dtype == "int16":
        frames = np.clip(np.rint(frames / np.float32(step)), 0, np.iinfo(np.int16).max)
    image = _image(_unmask(frames.astype(dtype), mask), affine)
    image.header.set_slope_inter(step, 0.0)
    image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    image.header.set_xyzt_units("mm", "sec")
    options: Any = {
        "filename": "",
        "mode": "wb",
        "compresslevel": 1,
        "mtime": 0,
    }  # no temporary name, no time in the file
    with written_aside(path) as aside, aside.open("wb") as raw, gzip.GzipFile(fileobj=raw, **options) as file:
        image.to_file_map({"image": FileHolder(fileobj=file)})


def _image(values: HostArray, affine: HostArray) -> Any:
    from nibabel import Nifti1Image

    return Nifti1Image(values, affine)


def _unmask(rows: HostArray, mask: HostArray) -> HostArray:
    """Put rows of voxels ``(n, n_voxels)`` into a volume ``(x, y, z, n)``, in the memory order of NIfTI files."""
    volume = np.zeros((*mask.shape, len(rows)), rows.dtype, order="F")
    for i, row in enumerate(rows):
        volume[..., i][mask] = row
    return volume
