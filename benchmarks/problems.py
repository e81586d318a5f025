"""Problems as .npy files, made once and kept in a cache, so that all contestants read the same bytes.

Each function returns a dict of paths. The pictures are part of scikit-image, the scene of tensorly (CC BY), the fMRI
series of brainspace (BSD-3).
"""

import gzip
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

_VERSION = 1  # of the problems; another one makes them afresh
_PICTURES = ("camera", "astronaut", "brick", "grass", "gravel", "coins")
_HELD_OUT_ROWS = 0.2  # of each picture, at its bottom

Paths = dict[str, Path]


def default_cache() -> Path:
    """The user's cache folder of the platform."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    return base / "jax_mmf_benchmarks"


def cached(cache: Path, name: str, write: Callable[[Path], None]) -> Paths:
    """Arrays of a problem; ``write(folder)`` makes them if they are not there. The folder is written aside."""
    folder = cache / f"{name}-v{_VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="partial-") as aside:
            made = Path(aside) / "problem"
            made.mkdir()
            write(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.exists():  # else another run was first
                    raise
    return {path.stem: path for path in sorted(folder.glob("*.npy"))}


def codes_problem(k: int, b: int, cache: Path) -> Paths:
    """``dictionary`` (k, p) of unit atoms, learned on patches, and ``samples`` (b, p): patches from elsewhere."""
    side = 12 if k > 512 else 8

    def write(folder: Path) -> None:
        train, samples = _train_and_held_out(side, max(20_000, 30 * k), b)
        np.save(folder / "dictionary.npy", _learn_dictionary(train, k))
        np.save(folder / "samples.npy", samples)

    return cached(cache, f"codes-{k}-{b}", write)


def patches_problem(side: int, k: int, cache: Path, *, n: int = 100_000, n_held_out: int = 4096) -> Paths:
    """``train`` (n, side^2), ``held_out``, and ``init`` (k, side^2): the dictionary that all contestants start from."""

    def write(folder: Path) -> None:
        train, held_out = _train_and_held_out(side, n, n_held_out)
        _save_split(folder, train, held_out, k)

    return cached(cache, f"patches-{side}-{k}-{n}", write)


def indian_pines_problem(k: int, cache: Path, *, quick: bool = False) -> Paths:
    """``train``, ``held_out`` (a tenth) and ``init`` of the 8 x 8 patches of 200 bands, standardized: p = 12,800."""
    from jax_mmf.datasets import standardize_bands

    return _scene_problem("indian-pines", standardize_bands, k, cache, quick)


def reflectance_problem(k: int, cache: Path, *, quick: bool = False) -> Paths:
    """As `indian_pines_problem`, with counts over the largest one: nothing is negative."""
    return _scene_problem("reflectance", lambda cube: cube / np.float32(cube.max()), k, cache, quick)


def _scene_problem(name: str, prepare: Callable[[np.ndarray], np.ndarray], k: int, cache: Path, quick: bool) -> Paths:
    from jax_mmf.datasets import iter_patches, load_indian_pines

    side, n = (4, 2000) if quick else (8, 138 * 138)

    def write(folder: Path) -> None:
        cube = prepare(load_indian_pines())
        p = side * side * cube.shape[2]
        cube /= np.sqrt(np.float32(p))
        order = np.random.default_rng(0).permutation((cube.shape[0] - side + 1) * (cube.shape[1] - side + 1))[:n]
        for part, rows in (("held_out", order[: n // 10]), ("train", order[n // 10 :])):
            _write_rows(folder / f"{part}.npy", iter_patches(cube, side, order=rows), (rows.size, p))
        _save_init(folder, k)

    return cached(cache, f"{name}-{side}-{n}-{k}", write)


def cortical_fmri_problem(k: int, cache: Path, *, quick: bool = False) -> Paths:
    """``train``, ``held_out`` and ``init``: frames of a cortical surface at rest, standardized per vertex.

    Blocks of 20 consecutive frames; each eighth is held out.
    """

    def write(folder: Path) -> None:
        x = np.concatenate([_read_mgz(path) for path in _brainspace_series()], axis=1)
        x = x[:, x.std(0) > 1e-6 * np.abs(x).max()]
        x = x[:, ::20] if quick else x
        x = (x - x.mean(0)) / x.std(0) / np.sqrt(x.shape[1])
        held_out = np.arange(len(x)) // 20 % 8 == 7
        _save_split(folder, x[~held_out].astype(np.float32), x[held_out].astype(np.float32), k)

    return cached(cache, f"cortical-fmri-{'quick-' if quick else ''}{k}", write)


def synthetic_fmri_problem(k: int, cache: Path, *, n: int = 20_000, p: int = 200_000, n_held_out: int = 256) -> Paths:
    """``train`` (n, p), ``held_out`` and ``init``: 70 smooth, sparse maps with loadings correlated over frames.

    Noise has a structured part, broad maps whose loadings change fast, and a white one.

    Raises:
      OSError: if the disk has no room, with the bytes needed.
    """

    def write(folder: Path) -> None:
        needed, free = 4 * p * (n + n_held_out + 3 * k), shutil.disk_usage(folder).free
        if needed > 0.9 * free:
            raise OSError(f"the synthetic fMRI problem needs {needed:,} bytes in {cache}, {free:,} are free")
        rng = np.random.default_rng(0)
        maps, broad = _bumps(rng, 70, p, width=0.06), _bumps(rng, 12, p, width=0.4)
        loadings = _autoregressive(rng, n + n_held_out, 70, 0.9)
        for name, rows in (("train", loadings[:n]), ("held_out", loadings[n:])):
            chunks = (_frames(rng, part, maps, broad) for part in np.array_split(rows, -(-len(rows) // 256)))
            _write_rows(folder / f"{name}.npy", chunks, (len(rows), p))
        _save_init(folder, k)

    return cached(cache, f"synthetic-fmri-{n}-{p}-{k}", write)


def gaussian_maps_problem(
    k: int,
    cache: Path,
    *,
    grid: tuple[int, int, int] = (58, 60, 58),
    n: int = 4000,
    n_maps: int = 70,
    n_held_out: int = 256,
) -> Paths:
    """``train`` (n, p), ``held_out`` and ``init``: maps of one to three Gaussian bumps on a grid of p points.

    Their time courses are autoregressive, with innovations from a Laplace distribution. Noise is smooth in space, of
    rank 100 and white in time, and a little is white. The mean squared norm of frames is 1; their order is random.
    """
    p = int(np.prod(grid))

    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        maps, smooth = _gaussian_maps(rng, n_maps, grid), _smooth_fields(rng, 100, grid)
        total = n + n_held_out
        courses = _autoregressive(rng, total, n_maps, 0.7, lambda shape: rng.laplace(scale=0.5**0.5, size=shape))
        # Shares of the variance of a frame: 60 % from the maps, some stronger than others, 30 % smooth, 10 % white.
        strength = rng.lognormal(sigma=0.4, size=n_maps)
        courses *= np.sqrt(0.6 / np.sum(strength**2)) * strength
        fields = np.concatenate([maps, smooth])
        order = rng.permutation(total)
        for name, rows in (("train", order[:n]), ("held_out", order[n:])):
            chunks = (
                np.hstack([courses[part], np.sqrt(0.003) * rng.standard_normal((len(part), 100))]).astype(np.float32)
                @ fields
                + np.float32(np.sqrt(0.1 / p)) * rng.standard_normal((len(part), p), np.float32)
                for part in np.array_split(rows, -(-len(rows) // 256))
            )
            _write_rows(folder / f"{name}.npy", chunks, (len(rows), p))
        _save_init(folder, k)

    return cached(cache, f"gaussian-maps-{n}-{'x'.join(map(str, grid))}-{n_maps}-{k}", write)


def _pictures() -> list[np.ndarray]:
    import skimage

    loaded = [skimage.util.img_as_float32(getattr(skimage.data, name)()) for name in _PICTURES]
    return [skimage.color.rgb2gray(picture) if picture.ndim == 3 else picture for picture in loaded]


def _train_and_held_out(side: int, n: int, n_held_out: int) -> tuple[np.ndarray, np.ndarray]:
    rng, pictures = np.random.default_rng(0), _pictures()
    cuts = [round(len(picture) * (1 - _HELD_OUT_ROWS)) for picture in pictures]
    train = _random_patches(rng, [p[:cut] for p, cut in zip(pictures, cuts, strict=True)], side, n)
    held_out = _random_patches(rng, [p[cut:] for p, cut in zip(pictures, cuts, strict=True)], side, n_held_out)
    return train, held_out


def _random_patches(rng: np.random.Generator, pictures: list[np.ndarray], side: int, n: int) -> np.ndarray:
    """Patches without their mean, divided by their norm or 0.1 if that is more: ``(n, side^2)`` float32."""
    parts = []
    for picture, numbers in zip(pictures, np.array_split(np.arange(n), len(pictures)), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side))
        height, width = windows.shape[:2]
        row, column = np.divmod(rng.choice(height * width, numbers.size, replace=False), width)
        parts.append(windows[row, column].reshape(numbers.size, -1))
    x = rng.permutation(np.concatenate(parts).astype(np.float64))
    x -= x.mean(1, keepdims=True)
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 0.1)).astype(np.float32)


def _learn_dictionary(train: np.ndarray, k: int) -> np.ndarray:
    import jax

    import jax_mmf as mmf

    solver = mmf.OnlineFactorization(n_components=k, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball())
    fitted = mmf.fit(solver, train, key=jax.random.key(0), n_epochs=2, batch_size=256, revive_every=20)
    return _unit(np.asarray(fitted.state.dictionary))


def _unit(atoms: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(atoms.astype(np.float64), axis=1, keepdims=True)
    return (atoms / np.where(norms > 0, norms, 1)).astype(np.float32)


def _save_split(folder: Path, train: np.ndarray, held_out: np.ndarray, k: int) -> None:
    np.save(folder / "train.npy", train)
    np.save(folder / "held_out.npy", held_out)
    _save_init(folder, k)


def _save_init(folder: Path, k: int) -> None:
    """Distinct random samples of unit norm."""
    train = np.load(folder / "train.npy", mmap_mode="r")
    rows = np.sort(np.random.default_rng(1).choice(len(train), k, replace=False))
    np.save(folder / "init.npy", _unit(train[rows]))


def _write_rows(path: Path, chunks, shape: tuple[int, int]) -> None:
    out, first = open_memmap(path, mode="w+", dtype=np.float32, shape=shape), 0
    for chunk in chunks:
        out[first : first + len(chunk)] = chunk
        first += len(chunk)
    out.flush()


def _brainspace_series() -> list[Path]:
    try:
        found = sorted(str(f.locate()) for f in files("brainspace") or [] if f.name.endswith("h.mgz"))
    except PackageNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError("the cortical series come with brainspace; pip install --no-deps brainspace")
    return [Path(name) for name in found]


def _read_mgz(path: Path) -> np.ndarray:
    """Frames of a FreeSurfer volume: ``(frames, vertices)``. Big-endian, a header of 284 bytes, vertices first."""
    content = gzip.decompress(path.read_bytes())
    _, *sizes, n_frames, kind = np.frombuffer(content, ">i4", 6).tolist()
    dtype = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2"}[kind]
    n = int(np.prod(sizes))
    return np.frombuffer(content, dtype, n * n_frames, 284).reshape(n_frames, n).astype(np.float64)


def _bumps(rng: np.random.Generator, k: int, p: int, width: float) -> np.ndarray:
    """Maps on p points of a cube: each two Gaussian bumps of either sign, cut where they are small; unit norm."""
    side = int(np.ceil(p ** (1 / 3)))
    axis = np.linspace(0, 1, side, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)[:p]
    maps = np.zeros((k, p), np.float32)
    for j in range(k):
        for centre in rng.uniform(0, 1, (2, 3)).astype(np.float32):
            maps[j] += rng.choice([-1, 1]) * np.exp(-np.sum((grid - centre) ** 2, 1) / (2 * width**2))
    return _unit(np.where(np.abs(maps) < 0.1, 0, maps))


def _gaussian_maps(rng: np.random.Generator, k: int, grid: tuple[int, int, int]) -> np.ndarray:
    """Maps of one to three Gaussian bumps, in the unit of the longest side: ``(k, p)`` of unit norm."""
    axes = [(np.arange(side) + 0.5) / max(grid) for side in grid]
    maps = np.zeros((k, *grid), np.float32)
    for j in range(k):
        for _ in range(rng.integers(1, 4)):
            width, sign, centre = rng.uniform(0.03, 0.09), rng.choice([-1, 1], p=[0.3, 0.7]), rng.uniform(size=3)
            bumps = [
                np.exp(-((axis - axis[-1] * place) ** 2) / (2 * width**2))
                for axis, place in zip(axes, centre, strict=True)
            ]
            maps[j] += sign * np.einsum("i,j,k->ijk", *bumps)
    return _unit(maps.reshape(k, -1))


def _smooth_fields(rng: np.random.Generator, k: int, grid: tuple[int, int, int]) -> np.ndarray:
    """White noise smoothed over a fifteenth of the longest side: ``(k, p)`` of unit norm."""
    from scipy.ndimage import gaussian_filter

    fields = [
        gaussian_filter(rng.standard_normal(grid, np.float32), max(grid) / 15, mode="wrap").ravel() for _ in range(k)
    ]
    return _unit(np.stack(fields))


def _autoregressive(
    rng: np.random.Generator,
    n: int,
    k: int,
    correlation: float,
    draw: Callable[[tuple[int, int]], np.ndarray] | None = None,
) -> np.ndarray:
    """Loadings of unit variance: ``(n, k)``, each frame correlated with the one before; innovations are Gaussian."""
    from scipy.signal import lfilter

    noise = np.sqrt(1 - correlation**2) * (draw or rng.standard_normal)((n, k))
    return lfilter([1], [1, -correlation], noise, axis=0).astype(np.float32)


def _frames(rng: np.random.Generator, loadings: np.ndarray, maps: np.ndarray, broad: np.ndarray) -> np.ndarray:
    n, p = len(loadings), maps.shape[1]
    structured = rng.standard_normal((n, len(broad)), np.float32) @ broad
    white = rng.standard_normal((n, p), np.float32) / np.float32(np.sqrt(p))
    # The variance of a frame: 70 from the maps, 12 from the structured noise, 40 from the white one.
    return (loadings @ maps + structured + np.float32(np.sqrt(40)) * white) / np.float32(np.sqrt(122))
