"""Steps with weights, masks and means beside the NumPy reference, for several test files."""

import jax
import numpy as np
from reference import ReferenceConfig, run

import jax_mmf as mmf
from jax_mmf.core import Stream, stream_key

K, P = 4, 30
SUBSETS = {1: mmf.FullSubset(), 3: mmf.UniformSubset(3), "blocks": mmf.BlockSubset(2, n_blocks=18)}


def matrix(n=80, p=P, k=K, seed=0, noise=0.1):
    """Low rank plus noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, p)) + noise * rng.normal(size=(n, p)) + 0.5


def solver_for(*, partial_b, subset=1, statistics="masked", center=False, **options):
    """A solver with sparse codes, which are computed exactly."""
    parts = {"masked": mmf.MaskedStatistics(), "full": mmf.FullStatistics()}
    return mmf.OnlineFactorization(
        n_components=K,
        **{"penalty": mmf.ElasticNet(0.3, 0.6), "constraint": mmf.L2Ball(2.0)}
        | {"forgetting": mmf.PowerForgetting(0.8), "code_solver": mmf.CoordinateDescent(tol=0.0, max_iter=1500)}
        | options,
        subset=SUBSETS[subset],
        statistics=parts[statistics],
        partial_b=partial_b,
        center=center,
    )


def batches_of(x, steps=8, size=10, seed=1):
    """Random rows; the size of some batches is no power of two, and differs."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(x))[: size - step % 3] for step in range(steps)]


def check_against_reference(solver, x, *, sample_weight=None, mask=None, partial=False, atol=1e-10):
    """Make steps with `update`, or `partial_update`, and compare everything that they leave with the reference."""
    rng = np.random.default_rng(3)
    dictionary = rng.normal(size=(K, x.shape[1]))
    state = solver.init(jax.random.key(1), dictionary=dictionary)
    start = np.asarray(state.dictionary)
    rows = batches_of(x)
    subsets, reductions, orders, ours = [], [], [], []
    for some in rows:
        drawn = solver.draw_subset(state)
        valid = np.ones(drawn.size, bool) if drawn.valid is None else np.asarray(drawn.valid)
        key = stream_key(state.key, Stream.ATOM_ORDER, state.step)
        orders.append(np.asarray(solver.dictionary_update.atom_order(key, K)))
        subsets.append(np.asarray(drawn.indices)[valid])
        reductions.append(float(drawn.reduction))
        given = {"sample_weight": None if sample_weight is None else sample_weight[some]}
        entries = None if mask is None else mask[some]
        if partial:
            entries = None if entries is None else entries[:, drawn.indices]
            state, info = solver.partial_update(state, x[some][:, drawn.indices], drawn, mask=entries, **given)
        else:
            state, info = solver.update(state, x[some], mask=entries, **given)
        assert info.finite
        ours.append((state, info))
    config = ReferenceConfig(
        alpha=0.3,
        l1_ratio=0.6,
        nonneg_codes=False,
        mu=0.0,
        radius=2.0,
        nonneg_atoms=False,
        simplex=False,
        statistics="full" if isinstance(solver.statistics, mmf.FullStatistics) else "masked",
        power=0.8,
        partial_b=solver.partial_b,
        forgetting=("power", 0.8),
    )
    theirs = run(
        [x[some] for some in rows],
        start,
        config,
        subsets=subsets,
        reductions=reductions,
        orders=orders,
        sample_weights=None if sample_weight is None else [sample_weight[some] for some in rows],
        masks=None if mask is None else [mask[some] for some in rows],
        center=solver.center,
    )
    for step, ((state, info), want) in enumerate(zip(ours, theirs, strict=True), 1):
        found = {"D": state.dictionary, "C": state.surrogate.c, "codes": info.codes}
        if solver.partial_b:
            found |= {"R": state.surrogate.residual, "counts": state.surrogate.feature_counts}
        else:
            found |= {"B": state.surrogate.b}
        if solver.center:
            found |= {"mean": state.mean, "mean_weight": state.mean_weight}
        for name, value in found.items():
            np.testing.assert_allclose(value, want[name], rtol=0, atol=atol, err_msg=f"{name} after step {step}")
    assert np.abs(np.asarray(ours[-1][0].dictionary) - start).max() > 1e-2
    return ours
