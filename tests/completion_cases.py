"""Small ratings, random factors, and the models that tests of completion run over."""

import jax
import jax.numpy as jnp
import numpy as np

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.completion.explicit import Side

N_USERS, N_ITEMS, K = 6, 5, 3
KEY = jax.random.key(0)
TIGHT = mmf.CoordinateDescent(tol=1e-12, max_iter=20000)
half_step = jax.jit(lambda model, *args: model.half_step(*args))


def make_ratings(seed=0, n_users=N_USERS, n_items=N_ITEMS, *, weighted=False, counts=False, full=0.6):
    """Ratings, and their values and weights as dense arrays in float64."""
    rng = np.random.default_rng(seed)
    there = rng.random((n_users, n_items)) < full
    there[np.arange(n_users), rng.integers(n_items, size=n_users)] = True
    there[rng.integers(n_users, size=n_items), np.arange(n_items)] = True
    users, items = np.nonzero(there)
    values = rng.integers(1, 6, len(users)).astype(float) if counts else rng.normal(3, 1, len(users))
    weights = rng.uniform(0.5, 2.0, len(users)) if weighted else None
    ratings = completion.Ratings.from_triplets(users, items, values, weights=weights)
    return ratings, *dense_of(ratings)


def dense_of(ratings):
    values, weights = np.zeros(ratings.shape), np.zeros(ratings.shape)
    values[ratings.users, ratings.items] = ratings.values
    weights[ratings.users, ratings.items] = 1 if ratings.weights is None else ratings.weights
    return values, weights


def random_sides(ratings, k=K, seed=1, *, variance=False):
    rng = np.random.default_rng(seed)
    total = len(ratings) if ratings.weights is None else ratings.weights.astype(float).sum()

    def side(n):
        return Side(
            jnp.asarray(rng.normal(size=(n, k))),
            jnp.asarray(rng.normal(size=n)),
            jnp.asarray(rng.uniform(0, 0.3, size=(n, k))) if variance else None,
            jnp.asarray(total / n),
        )

    return side(ratings.n_users), side(ratings.n_items)


def strengths(model, weights):
    """Strength of the penalty of each row of a matrix of weights, as the docstrings say."""
    n = weights.sum(1)
    return model.alpha * n.mean() * (n / n.mean()) ** model.scaling


EXPLICIT = {
    "learned": completion.ExplicitALS(2, alpha=0.1),
    "variational": completion.ExplicitALS(2, alpha=0.1, learned_prior=False),
    "ridge": completion.ExplicitALS(2, alpha=0.1, variational=False),
    "elastic net": completion.ExplicitALS(2, alpha=0.1, l1_ratio=0.5),
    "nonneg": completion.ExplicitALS(2, alpha=0.1, nonneg=True),
    "online": completion.ExplicitOnline(2, batch_size=3),
    "online, items": completion.ExplicitOnline(2, batch_size=3, streamed="items"),
}
IMPLICIT = {
    "implicit": completion.ImplicitALS(2, alpha=0.2),
    "implicit, blocks": completion.ImplicitALS(2, alpha=0.2, block_size=1),
    "bpr": completion.BPR(2, batch_size=8),
}
EVERY = EXPLICIT | IMPLICIT
MAIN = ("learned", "variational", "elastic net", "online", "implicit", "bpr")  # one of each kind
