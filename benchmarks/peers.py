"""Factories of contestants. Each adapts the conventions of a library to one problem per sample::

    min_a 1/2 |x - a D|^2 + l1 |a|_1 + l2 / 2 |a|_2^2,     optionally with a >= 0.

Code factories take paths of a dictionary ``(k, p)`` and of samples ``(b, p)``; their runs return ``codes`` ``(b, k)``.
Each stops by the criterion of its library: a duality gap, for which ``tol`` is used unchanged, or a violation of the
optimality conditions, for which ``tol`` is relative to l1. The report has the duality gaps of the results. LARS is
exact.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.evaluation import Penalty, as_jax_mmf

Made = tuple[Callable[[], Any], Callable[[Any], dict[str, Any]]]


def _threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def jax_mmf_codes(
    dictionary: str,
    samples: str,
    l1: float,
    l2: float = 0.0,
    nonneg: bool = False,
    tol: float = 1e-6,
    solver: str | None = None,
    init: str | None = None,
    devices: int = 1,
) -> Made:
    """`jax_mmf.encode`; ``solver`` is the name of a code solver, by default that of the library.

    With several devices, which are threads of the CPU here, each has a part of the samples.
    """
    import jax
    from jax.sharding import AxisType, PartitionSpec

    jax.config.update("jax_num_cpu_devices", devices)
    import jax_mmf as mmf
    from jax_mmf.codes.solvers import default_code_solver

    penalty = as_jax_mmf(Penalty(l1, l2, nonneg))
    code_solver = default_code_solver(penalty, tol=tol) if solver is None else getattr(mmf, solver)(tol=tol)
    atoms, x, start = (None if path is None else jax.device_put(np.load(path)) for path in (dictionary, samples, init))

    def encode(atoms: Any, x: Any, start: Any) -> Any:
        return mmf.encode_with_info(atoms, x, penalty, solver=code_solver, init=start)

    if devices > 1:
        mesh = jax.make_mesh((devices,), ("samples",), axis_types=(AxisType.Auto,))
        whole, spread = PartitionSpec(), PartitionSpec("samples")
        specs = (whole, spread, None if start is None else spread)
        encode = jax.jit(jax.shard_map(encode, mesh=mesh, in_specs=specs, out_specs=spread, check_vma=False))

    def run() -> Any:
        return jax.block_until_ready(encode(atoms, x, start))

    def finish(out: Any) -> dict[str, Any]:
        codes, info = out
        return {"codes": np.asarray(codes), "mean_iterations": float(np.mean(info.n_iter))}

    return run, finish


def _spams_arrays(*paths: str) -> list[np.ndarray]:
    return [np.asfortranarray(np.load(path).T) for path in paths]


def _from_sparse(codes: Any) -> dict[str, Any]:
    return {"codes": codes.toarray().T}


def spams_codes(dictionary: str, samples: str, l1: float, l2: float = 0.0, nonneg: bool = False) -> Made:
    """LARS of SPAMS: exact."""
    import spams

    atoms, x = _spams_arrays(dictionary, samples)
    options = {"mode": 2, "lambda1": l1, "lambda2": l2, "pos": nonneg, "numThreads": _threads()}
    return lambda: spams.lasso(x, D=atoms, **options), _from_sparse


def spams_cd_codes(dictionary: str, samples: str, l1: float, tol: float, init: str | None = None) -> Made:
    """Coordinate descent of SPAMS, for the lasso; from zeros if no codes to start from are given."""
    import scipy.sparse
    import spams

    atoms, x = _spams_arrays(dictionary, samples)
    start = np.zeros((x.shape[1], atoms.shape[1]), np.float32) if init is None else np.load(init)
    sparse = scipy.sparse.csc_matrix(start.T)
    options = {"mode": 2, "lambda1": l1, "tol": tol, "itermax": 10_000, "numThreads": _threads()}
    return lambda: spams.cd(x, atoms, sparse, **options), _from_sparse


def _sklearn_codes(
    algorithm: str, dictionary: str, samples: str, l1: float, nonneg: bool, n_samples: int | None
) -> Made:
    from sklearn.decomposition import sparse_encode

    # In float64: in float32, its tolerance of 1e-8 is out of reach, and coordinate descent goes on to max_iter.
    atoms, x = np.load(dictionary).astype(np.float64), np.load(samples).astype(np.float64)
    part, shared = _part(x, n_samples)
    # Its alpha is l1: it divides by the number of features by itself.
    options = {"algorithm": algorithm, "alpha": l1, "positive": nonneg, "n_jobs": _threads(), "max_iter": 10_000}
    return lambda: sparse_encode(part, atoms, **options), lambda codes: {"codes": codes, **shared}


def sklearn_lasso_cd_codes(
    dictionary: str, samples: str, l1: float, nonneg: bool = False, n_samples: int | None = None
) -> Made:
    """Coordinate descent of scikit-learn, whose tolerance is fixed at 1e-8."""
    return _sklearn_codes("lasso_cd", dictionary, samples, l1, nonneg, n_samples)


def sklearn_lasso_lars_codes(dictionary: str, samples: str, l1: float, n_samples: int | None = None) -> Made:
    """LARS of scikit-learn."""
    return _sklearn_codes("lasso_lars", dictionary, samples, l1, False, n_samples)


def _part(x: np.ndarray, n_samples: int | None) -> tuple[np.ndarray, dict[str, Any]]:
    """The first samples, and what the report says of it: seconds are scaled to all samples."""
    if n_samples is None or n_samples >= len(x):
        return x, {}
    return x[:n_samples], {"scale": len(x) / n_samples, "measured_on": f"{n_samples} of {len(x):,} samples"}


def _one_by_one(module: Any, dictionary: str, samples: str, penalty: Penalty, tol: float, n_samples: int) -> Made:
    """Estimators that solve one target at a time: the design is D^T, and their alpha is a share of the p features."""
    design = np.asfortranarray(np.load(dictionary).T, np.float64)
    part, shared = _part(np.load(samples).astype(np.float64), n_samples)
    l1, l2, nonneg = penalty
    p = len(design)
    if l2 == 0:
        estimator = module.Lasso(alpha=l1 / p, fit_intercept=False, tol=tol, positive=nonneg, max_iter=1000)
    elif not nonneg:
        both = l1 + l2
        estimator = module.ElasticNet(alpha=both / p, l1_ratio=l1 / both, fit_intercept=False, tol=tol, max_iter=1000)
    else:
        raise ValueError("the elastic net with non-negative codes is not compared here")

    def run() -> np.ndarray:
        return np.stack([estimator.fit(design, sample).coef_ for sample in part])

    return run, lambda codes: {"codes": codes, **shared}


def celer_codes(
    dictionary: str, samples: str, l1: float, l2: float = 0.0, nonneg: bool = False, tol: float = 1e-4,
    n_samples: int = 32,
) -> Made:  # fmt: skip
    """Celer, one sample after another."""
    import celer

    return _one_by_one(celer, dictionary, samples, Penalty(l1, l2, nonneg), tol, n_samples)


def skglm_codes(
    dictionary: str, samples: str, l1: float, l2: float = 0.0, nonneg: bool = False, tol: float = 1e-4,
    n_samples: int = 32,
) -> Made:  # fmt: skip
    """skglm, one sample after another."""
    import skglm

    p = np.load(dictionary, mmap_mode="r").shape[1]
    return _one_by_one(skglm, dictionary, samples, Penalty(l1, l2, nonneg), tol * l1 / p, n_samples)


def jaxopt_codes(
    dictionary: str, samples: str, l1: float, l2: float = 0.0, nonneg: bool = False, tol: float = 1e-3
) -> Made:
    """Accelerated proximal gradient of jaxopt, vmapped over the samples, with the step 1 / L."""
    import jax
    import jax.numpy as jnp
    import jaxopt

    import jax_mmf as mmf

    atoms, x = jax.device_put(np.load(dictionary)), jax.device_put(np.load(samples))
    penalty = as_jax_mmf(Penalty(l1, l2, nonneg))

    @jax.jit
    def solve(atoms: Any, x: Any) -> Any:
        gram, beta = atoms @ atoms.T, x @ atoms.T
        loss = lambda a, b: 0.5 * a @ gram @ a - a @ b  # noqa: E731
        prox = lambda a, _, scale=1.0: mmf.penalty_prox(penalty, a, scale)  # noqa: E731
        step = 1 / jnp.linalg.norm(gram, 2)
        solver = jaxopt.ProximalGradient(
            loss, prox, stepsize=lambda _: step, tol=tol * l1, maxiter=10_000, implicit_diff=False, unroll=False
        )
        return jax.vmap(lambda b: solver.run(jnp.zeros_like(b), None, b).params)(beta)

    return lambda: jax.block_until_ready(solve(atoms, x)), lambda codes: {"codes": np.asarray(codes)}
