"""A whole regularisation path in one call, by `jax.vmap` over alpha.

The example learns dictionaries of handwritten digits (scikit-learn's, 8 x 8) at 12 strengths of the lasso together.
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

import jax_mmf as mmf

x = jnp.asarray(load_digits().data / 16, jnp.float32)
x = x - x.mean(0)
train, test = x[:1536].reshape(12, 128, 64), x[1536:]


@jax.jit
def learn(alpha):
    """Do two epochs of online dictionary learning in one program."""
    solver = mmf.OnlineFactorization(n_components=32, penalty=mmf.Lasso(alpha), constraint=mmf.L2Ball())
    state = solver.init(jax.random.key(0), samples=train[0])
    state, _ = jax.lax.scan(solver.update, state, jnp.concatenate([train, train]))
    codes = mmf.encode(state.dictionary, test, solver.penalty)
    error = jnp.mean(jnp.sum((test - mmf.decode(state.dictionary, codes)) ** 2, 1)) / jnp.mean(jnp.sum(test**2, 1))
    return error, jnp.mean(codes != 0)


alphas = jnp.logspace(-2.5, 0, 12)
errors, densities = jax.vmap(learn)(alphas)
print("   alpha  unexplained  codes that are not zero")
for alpha, error, density in zip(alphas, errors, densities, strict=True):
    print(f"{alpha:8.4f}  {error:10.1%}  {density:10.1%}")

assert jnp.all(jnp.diff(errors) > -1e-3), "a stronger penalty explains less"
