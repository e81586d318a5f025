"""A custom training loop on a stream that is never stored, with constant forgetting and subsets of the features.

Each mini-batch is generated when it is needed, and only on the features of the step's subset.
"""

import jax
import jax.numpy as jnp

import jax_mmf as mmf

P, K, BATCH, STEPS = 6000, 6, 64, 600
truth = jnp.abs(jax.random.normal(jax.random.key(0), (K, P))) * (jax.random.uniform(jax.random.key(1), (K, P)) < 0.1)
truth = truth / jnp.linalg.norm(truth, axis=1, keepdims=True)


@jax.jit
def samples(step, indices):
    """Generate a mini-batch on some features: sparse non-negative mixtures of six hidden parts, plus noise."""
    key = jax.random.fold_in(jax.random.key(2), step)
    codes = jax.random.exponential(key, (BATCH, K)) * (jax.random.uniform(jax.random.fold_in(key, 1), (BATCH, K)) < 0.4)
    noise = 0.005 * jax.random.normal(jax.random.fold_in(key, 2), (BATCH, P))
    return codes @ truth[:, indices] + noise[:, indices]


solver = mmf.OnlineFactorization(
    n_components=K,
    penalty=mmf.Lasso(0.05, nonneg=True),
    constraint=mmf.L2Ball(nonneg=True),
    subset=mmf.BlockSubset(reduction=10),  # the features of this stream are already in random order
    partial_b=True,
    forgetting=mmf.ConstantForgetting(1e-3),
    initialization=mmf.KMeansPlusPlus(),
)
everything = jnp.arange(P)
state = solver.init(jax.random.key(3), samples=samples(0, everything))
update = jax.jit(solver.partial_update, donate_argnums=0)
for step in range(1, STEPS + 1):
    subset = solver.draw_subset(state)
    state, info = update(state, samples(step, subset.indices), subset)
    if step % 100 == 0:
        cosine = mmf.match_atoms(state.dictionary, truth)[1]
        print(f"step {step}: {subset.size} of {P} features a step, parts found at cosines {cosine.round(2)}")

assert cosine.mean() > 0.9
