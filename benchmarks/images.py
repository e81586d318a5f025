"""Denoising, inpainting and unmixing beside scikit-image, BM3D, scikit-learn and SPAMS.

Pictures are those of scikit-image in gray, with Gaussian noise or missing pixels. Values of peers are tuned on the true
picture, which favours them: total variation over 5 weights, non-local means over 3 strengths and 2 patch sizes. Their
seconds are those of all trials. Ours are the defaults, with the true sigma. Mixtures are those of mean spectra of
classes of Indian Pines, with uniform abundances and white noise. ``angle`` is the mean angle of matched spectra in
degrees, and ``rmse`` the error of the abundances.
"""

from collections.abc import Sequence
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contestant, race
from benchmarks.report import Record, records_of

SIGMAS, SHARES, SNRS = (10, 25, 50), (0.5, 0.8), (20, 30, 40)
DENOISERS = ("jax_mmf", "sklearn_patches", "total_variation", "non_local_means", "wavelets", "bm3d")
INPAINTERS = ("jax_mmf", "biharmonic")
UNMIXERS = ("jax_mmf", "vca_nnls", "sklearn_nmf", "spams_archetypes")
M, SIDE = 4, 50


def picture(name: str, side: int | None) -> np.ndarray:
    from skimage import color, data

    image = getattr(data, name)()
    gray = color.rgb2gray(image) if image.ndim == 3 else image / 255
    return gray[100 : 100 + side, 100 : 100 + side] if side else gray


def with_noise(truth: np.ndarray, sigma: float) -> np.ndarray:
    return truth + np.random.default_rng(0).normal(0, sigma / 255, truth.shape)


def holes(shape: tuple[int, ...], what: str) -> np.ndarray:
    """Missing pixels: a share of them, or a text."""
    if what != "text":
        return np.random.default_rng(0).random(shape) < float(what)
    from PIL import Image, ImageDraw

    page = Image.new("L", shape[::-1])
    for row in range(4, shape[0], 16):
        ImageDraw.Draw(page).text((4, row), "the quick brown fox jumps over the lazy dog " * 4, fill=255)
    return np.asarray(page) > 127


def mixtures(snr: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spectra of classes, abundances, and the pixels of the noisy cube."""
    from jax_mmf.datasets import load_indian_pines
    from jax_mmf.images import successive_projection

    labels = np.load(str(next(f for f in files("tensorly") or [] if f.name == "Indian_pines_gt.npy").locate()))
    means = np.stack([load_indian_pines()[labels == c].mean(0) for c in range(1, 17)])
    spectra = means[successive_projection(means, M)]
    rng = np.random.default_rng(0)
    abundances = rng.dirichlet(np.ones(M), SIDE * SIDE)
    pixels = abundances @ spectra
    return spectra, abundances, pixels + rng.normal(0, np.sqrt((pixels**2).mean() / 10 ** (snr / 10)), pixels.shape)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((np.clip(image, 0, 1) - truth) ** 2)))


def denoiser(method: str, scene: str, side: int | None, sigma: float) -> Any:
    """Factory of a contestant: a denoised picture."""
    truth = picture(scene, side)
    noisy, level = with_noise(truth, sigma), sigma / 255
    return (lambda: _denoised(method, noisy, truth, level)), lambda image: {"image": image}


def _denoised(method: str, noisy: np.ndarray, truth: np.ndarray, sigma: float) -> np.ndarray:
    if method == "jax_mmf":
        from jax_mmf import images

        return images.denoise(noisy, sigma)
    if method == "bm3d":
        import bm3d

        return bm3d.bm3d(noisy, sigma)
    if method == "sklearn_patches":
        return _sklearn_patches(noisy, sigma)
    from skimage import restoration

    if method == "wavelets":
        options = {"sigma": sigma, "rescale_sigma": True, "wavelet": "db2"}
        return restoration.cycle_spin(noisy, restoration.denoise_wavelet, max_shifts=3, func_kw=options)
    if method == "total_variation":
        tried = [restoration.denoise_tv_chambolle(noisy, weight=w * sigma) for w in (0.6, 0.8, 1.0, 1.2, 1.5)]
    else:
        tried = [
            restoration.denoise_nl_means(noisy, patch_size=size, patch_distance=11, h=h * sigma, sigma=sigma)
            for size in (5, 7)
            for h in (0.6, 0.8, 1.0)
        ]
    return max(tried, key=lambda image: psnr(image, truth))


def _sklearn_patches(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """As the example of scikit-learn: MiniBatchDictionaryLearning, then matching pursuit to the error of the noise."""
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.linear_model import orthogonal_mp

    from jax_mmf.images import PatchSource, from_patches

    source = PatchSource(noisy / sigma, 7, stride=2, center=False)
    patches = source.read(np.arange(source.n_samples)).astype(np.float64)
    means = patches.mean(1, keepdims=True)
    patches -= means
    chosen = patches[np.random.default_rng(0).permutation(len(patches))[:20_000]]
    model = MiniBatchDictionaryLearning(100, alpha=1, batch_size=200, max_iter=2, random_state=0)
    atoms = model.fit(chosen).components_
    atoms /= np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)
    codes = orthogonal_mp(atoms.T, patches.T, tol=7**2 * 1.15**2).T  # the gain of 1.15 is that of Elad and Aharon
    return from_patches(codes @ atoms + means, noisy.shape, places=source.places) * sigma


def inpainter(method: str, scene: str, side: int | None, what: str) -> Any:
    """Factory of a contestant: a filled picture."""
    truth = picture(scene, side)
    missing = holes(truth.shape, what)
    image = np.where(missing, 0, truth)

    def fill() -> np.ndarray:
        if method == "jax_mmf":
            from jax_mmf import images

            return images.inpaint(image, missing)
        from skimage.restoration import inpaint_biharmonic

        return inpaint_biharmonic(image, missing)

    return fill, lambda image: {"image": image}


def unmixer(method: str, snr: float) -> Any:
    """Factory of a contestant: spectra and abundances."""
    pixels = mixtures(snr)[2]
    return (lambda: _unmixed(method, pixels)), lambda out: {"spectra": out[0], "abundances": out[1]}


def _unmixed(method: str, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if method == "jax_mmf":
        import jax

        from jax_mmf import images

        out = images.unmix(pixels.reshape(SIDE, SIDE, -1), M, key=jax.random.key(0))
        return out.endmembers, out.abundances.reshape(-1, M)
    if method == "vca_nnls":
        from scipy.optimize import nnls

        from jax_mmf.images import vertex_components

        spectra = pixels[vertex_components(pixels, M, np.random.default_rng(0))]
        return spectra, np.stack([nnls(spectra.T, pixel)[0] for pixel in pixels])
    if method == "sklearn_nmf":
        from sklearn.decomposition import NMF

        model = NMF(M, init="nndsvda", max_iter=1000)
        codes = model.fit_transform(np.maximum(pixels, 0))
        return model.components_, codes / codes.sum(1, keepdims=True)
    import spams

    atoms, codes, _ = spams.archetypalAnalysis(
        np.asfortranarray(pixels.T), p=M, robust=False, numThreads=1, returnAB=True
    )
    return atoms.T, np.asarray(codes.todense()).T


def _image_quality(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    from skimage.metrics import structural_similarity

    similarity = structural_similarity(np.clip(image, 0, 1), truth, data_range=1)
    return {"psnr": psnr(image, truth), "ssim": float(similarity)}


def _mixture_quality(arrays: dict[str, np.ndarray], snr: float) -> dict[str, float]:
    from scipy.optimize import linear_sum_assignment

    from jax_mmf.images import spectral_angles

    spectra, abundances, _ = mixtures(snr)
    angles = spectral_angles(spectra, arrays["spectra"])
    rows, columns = linear_sum_assignment(angles)
    error = arrays["abundances"][:, columns] - abundances
    return {"angle": float(angles[rows, columns].mean()), "rmse": float(np.sqrt(np.mean(error**2)))}


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    side = 96 if quick else None
    for name in ("camera",) if quick else ("camera", "astronaut"):
        for sigma in SIGMAS[1:2] if quick else SIGMAS:
            own = {"scene": name, "side": side, "sigma": sigma}
            records += _race("denoiser", DENOISERS, f"{name}, sigma {sigma}", own, threads, name, side)
        for what in ("0.5",) if quick else (*map(str, SHARES), "text"):
            own = {"scene": name, "side": side or 256, "what": what}
            records += _race("inpainter", INPAINTERS, f"{name}, missing: {what}", own, threads, name, side or 256)
    for snr in SNRS[1:2] if quick else SNRS:
        records += _race("unmixer", UNMIXERS, f"{M} endmembers, {snr} dB", {"snr": snr}, threads)
    return records


def _race(
    factory: str,
    methods: Sequence[str],
    problem: str,
    arguments: dict[str, Any],
    threads: Sequence[int],
    name: str = "",
    side: int | None = None,
) -> list[Record]:
    def evaluate(_: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        found = (
            _image_quality(arrays["image"], picture(name, side)) if name else _mixture_quality(arrays, arguments["snr"])
        )
        return {"quality": found}

    records: list[Record] = []
    for n in threads:
        contestants = [
            Contestant(m, f"benchmarks.images:{factory}", n, jax=m == "jax_mmf", method=m, **arguments) for m in methods
        ]
        outcomes = race(contestants, 1, evaluate=evaluate, limit=600)
        records += records_of("images", problem, factory, outcomes)
    return records
