"""Matrices with missing entries: ratings, clicks and counts of users and items, and recommendations from them."""

from jax_mmf.completion.bayesian import BayesianMF
from jax_mmf.completion.bpr import BPR
from jax_mmf.completion.ease import EASE
from jax_mmf.completion.explicit import ExplicitALS
from jax_mmf.completion.factors import Factors, predict
from jax_mmf.completion.fitted import Fitted
from jax_mmf.completion.implicit import ImplicitALS
from jax_mmf.completion.labels import Labels
from jax_mmf.completion.labels import kind_mismatch as kind_mismatch
from jax_mmf.completion.labels import label_array as label_array
from jax_mmf.completion.labels import whole_or_text as whole_or_text
from jax_mmf.completion.metrics import average_precision, coverage, mae, ndcg, recall, rmse
from jax_mmf.completion.model import EpochRecord, Model
from jax_mmf.completion.model_file import describe_model as describe_model
from jax_mmf.completion.model_file import is_recommender as is_recommender
from jax_mmf.completion.model_file import load_model, save_model
from jax_mmf.completion.movielens import Items, movielens_100k, read_movielens_items
from jax_mmf.completion.online import ExplicitOnline
from jax_mmf.completion.ragged import RaggedRows, padded_rows, ragged_rows
from jax_mmf.completion.ranking import Recommendations
from jax_mmf.completion.rating_files import read_ratings
from jax_mmf.completion.ratings import Ratings
from jax_mmf.completion.split import SearchResult, Trial, k_folds, search, train_test_split
from jax_mmf.completion.synthetic import PlantedRatings, make_ratings
from jax_mmf.completion.text_file import read_text as read_text
from jax_mmf.completion.training import CompletionEvent, fit, refit
from jax_mmf.core import renamed

__getattr__ = renamed(__name__, {"update": "refit", "read_movielens": "read_ratings"})

# Public. Other packages of jax_mmf import the rest from here, too.
__all__ = [
    "BPR",
    "EASE",
    "BayesianMF",
    "CompletionEvent",
    "EpochRecord",
    "ExplicitALS",
    "ExplicitOnline",
    "Factors",
    "Fitted",
    "ImplicitALS",
    "Items",
    "Labels",
    "Model",
    "PlantedRatings",
    "RaggedRows",
    "Ratings",
    "Recommendations",
    "SearchResult",
    "Trial",
    "average_precision",
    "coverage",
    "fit",
    "k_folds",
    "load_model",
    "mae",
    "make_ratings",
    "movielens_100k",
    "ndcg",
    "padded_rows",
    "predict",
    "ragged_rows",
    "read_movielens_items",
    "read_ratings",
    "recall",
    "refit",
    "rmse",
    "save_model",
    "search",
    "train_test_split",
]
