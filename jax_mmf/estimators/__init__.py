"""Estimators of scikit-learn: dictionary learning, NMF, sparse PCA, sparse codes, and matrix completion."""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("jax_mmf.estimators needs scikit-learn: pip install 'jax-mmf[sklearn]'") from error

from jax_mmf.estimators.dictionary_learning import OnlineDictionaryLearning
from jax_mmf.estimators.matrix_completion import MatrixCompletion
from jax_mmf.estimators.nmf import OnlineNMF
from jax_mmf.estimators.sparse_coder import SparseCoder
from jax_mmf.estimators.sparse_pca import OnlineSparsePCA

__all__ = ["MatrixCompletion", "OnlineDictionaryLearning", "OnlineNMF", "OnlineSparsePCA", "SparseCoder"]
