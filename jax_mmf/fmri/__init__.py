"""Brain imaging: sparse maps from 4D images, with nilearn and nibabel (extra ``fmri``)."""

try:
    import nibabel  # noqa: F401  # reported here if it is missing, not in the middle of a run
    import nilearn  # noqa: F401
except ImportError as missing:  # pragma: no cover - depends on what is installed
    raise ImportError(f"jax_mmf.fmri needs {missing.name}: pip install 'jax-mmf[fmri]'") from missing

from jax_mmf.fmri.dict_learning import DictLearning
from jax_mmf.fmri.synthetic import SyntheticSubjects, make_subjects

__all__ = ["DictLearning", "SyntheticSubjects", "make_subjects"]
