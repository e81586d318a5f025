"""Images and hyperspectral cubes: patches, denoising, inpainting and unmixing (extra ``images`` for files)."""

from jax_mmf.images.denoising import denoise
from jax_mmf.images.endmembers import successive_projection, vertex_components
from jax_mmf.images.files import WRITABLE as WRITABLE
from jax_mmf.images.files import check_writable as check_writable
from jax_mmf.images.files import read_image, write_image
from jax_mmf.images.inpainting import inpaint
from jax_mmf.images.learning import learn_patches
from jax_mmf.images.noise import estimate_sigma
from jax_mmf.images.patches import PatchSource, from_patches
from jax_mmf.images.unmixing import Unmixing, spectral_angles, unmix

__all__ = [
    "PatchSource",
    "Unmixing",
    "denoise",
    "estimate_sigma",
    "from_patches",
    "inpaint",
    "learn_patches",
    "read_image",
    "spectral_angles",
    "successive_projection",
    "unmix",
    "vertex_components",
    "write_image",
]
