"""Problems of codes, what is known of their solutions, and code solvers, for the tests of these."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import CODE_SOLVERS as KINDS
from helpers import OwnISTA
from scipy.optimize import nnls
from sklearn import linear_model

import jax_mmf as mmf
from jax_mmf.extending import CodeProblem

# One class, so that all of a sign share programs: solvers see two weights and `nonneg`. See test_penalties.py.
PENALTIES = {
    "ridge": mmf.ElasticNet(0.5, 0.0),
    "lasso": mmf.ElasticNet(0.5, 1.0),
    "elastic net": mmf.ElasticNet(0.6, 0.7),
    "ridge, nonneg": mmf.ElasticNet(0.5, 0.0, nonneg=True),
    "lasso, nonneg": mmf.ElasticNet(0.5, 1.0, nonneg=True),
    "elastic net, nonneg": mmf.ElasticNet(0.6, 0.7, nonneg=True),
}
# As many iterations as it takes to get to rounding, and a tolerance that is just above it.
ITERATIVE = {name: kind(tol=1e-14, max_iter=50000 if name == "fista" else 20000) for name, kind in KINDS.items()}
SOLVERS = {**ITERATIVE, "cholesky": mmf.Cholesky(), "own": OwnISTA(20000)}
USUAL = {**KINDS, "cholesky": mmf.Cholesky, "own": OwnISTA}  # as they are by default
SHAPES = {"k<p": (6, 15), "k>p": (19, 11), "k=1": (1, 9)}

lasso = lambda alpha: mmf.ElasticNet(alpha, 1.0)


@jax.jit
def solve(solver, gram, beta, penalty, sq_norm, init):
    return solver.solve(CodeProblem(gram, beta, sq_norm), penalty, init)


def problem(k, p, b, masked=False, seed=0, dtype=float):
    """Gram matrix or matrices, correlations, squared norms and zeros to start from, with what they come from."""
    rng = np.random.default_rng(seed)
    dictionary, x = rng.standard_normal((k, p)), rng.standard_normal((b, p))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    x = x + 2 * rng.standard_normal((b, k)) * (rng.random((b, k)) < 0.3) @ dictionary
    mask = (rng.random((b, p)) < 0.7) if masked else np.ones((1, p))
    gram = np.einsum("kp,bp,lp->bkl", dictionary, mask, dictionary)
    parts = (gram if masked else gram[0], (mask * x) @ dictionary.T, (mask * x**2).sum(1), np.zeros((b, k)))
    return [jnp.asarray(part, dtype) for part in parts], (dictionary, x, np.broadcast_to(mask, x.shape))


def weights(penalty):
    return float(penalty.l1), float(penalty.l2)


def kkt_residual(gram, beta, penalty, codes):
    """Largest violation of the conditions of optimality: (b,)."""
    l1, l2 = weights(penalty)
    slope = beta - np.einsum("...kl,...l->...k", gram, codes) - l2 * codes
    if penalty.nonneg:
        assert (codes >= 0).all()
        violation = np.where(codes > 0, np.abs(slope - l1), np.maximum(slope - l1, 0))
    else:
        violation = np.where(codes != 0, np.abs(slope - l1 * np.sign(codes)), np.maximum(np.abs(slope) - l1, 0))
    return violation.max(-1)


def objective(gram, beta, sq_norm, penalty, codes):
    l1, l2 = weights(penalty)
    quadratic = (np.einsum("...kl,...l->...k", gram, codes) * codes).sum(1)
    linear = (codes * beta).sum(1)
    return sq_norm / 2 - linear + quadratic / 2 + l1 * np.abs(codes).sum(1) + l2 / 2 * (codes**2).sum(1)


def oracle(dictionary, x, mask, penalty):
    """Codes of one sample by a solver of somebody else, in double precision."""
    l1, l2 = weights(penalty)
    root = np.sqrt(mask)
    design, target = (dictionary * root).T, x * root
    k = design.shape[1]
    if l1 == 0 and not penalty.nonneg:
        return linear_model.Ridge(alpha=l2, fit_intercept=False).fit(design, target).coef_
    # The l2 penalty as more features; then, with a >= 0, the l1 penalty is linear, and goes into the target.
    design, target = np.vstack([design, np.sqrt(l2) * np.eye(k)]), np.append(target, np.zeros(k))
    if penalty.nonneg and l1 == 0:
        return nnls(design, target)[0]
    n = len(target)  # scikit-learn divides the squared error by it
    model = linear_model.Lasso(alpha=l1 / n, fit_intercept=False, positive=penalty.nonneg, tol=1e-14, max_iter=100000)
    return model.fit(design, target).coef_


def penalty_for(solver, name="lasso"):
    """A penalty by name; Cholesky, which is for ridge alone, is told the class."""
    return mmf.Ridge(0.5) if solver == "cholesky" else PENALTIES[name]
