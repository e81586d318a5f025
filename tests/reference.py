"""Plain NumPy reference of subsampled online matrix factorization, written from the papers for tests to compare with.

Clarity comes before speed: samples, atoms and coordinates are plain loops, and everything is float64. Papers:

- [JMLR10] Mairal, Bach, Ponce, Sapiro. Online Learning for Matrix Factorization and Sparse Coding.
- [ICML16] Mensch, Mairal, Thirion, Varoquaux. Dictionary Learning for Massive Matrix Factorization.
- [TSP18] Mensch, Mairal, Thirion, Varoquaux. Stochastic Subsampling for Factorizing Huge Matrices.

Samples x are rows of length p, the dictionary D is (k, p) with one atom a row, codes a are rows of length k: x ~ a D.
"""

from dataclasses import dataclass

import numpy as np

CODE_TOLERANCE = 1e-13
MAX_SWEEPS = 20_000
UNUSED_ATOM = 1e-30


@dataclass
class ReferenceConfig:
    """What is computed."""

    alpha: float  # Omega(a) = alpha * (l1_ratio * |a|_1 + (1 - l1_ratio) / 2 * |a|_2^2)
    l1_ratio: float
    nonneg_codes: bool
    mu: float  # gauge(d) = mu * |d|_1 + (1 - mu) * |d|_2^2 <= radius
    radius: float
    nonneg_atoms: bool
    simplex: bool  # instead of the gauge: d >= 0 and sum(d) == radius
    statistics: str  # "masked" | "full" | "full_gram_averaged" | "averaged"
    power: float  # v: the averages move by c_i ** (-v) at the c_i-th visit of sample i
    partial_b: bool
    forgetting: tuple  # ("power", u) | ("scaled", c) | ("constant", w)


# Codes


def code_objective(gram, beta, config, codes):
    """1/2 a G a - a.b + Omega(a) at a = codes."""
    l1 = config.alpha * config.l1_ratio
    l2 = config.alpha * (1 - config.l1_ratio)
    return codes @ gram @ codes / 2 - codes @ beta + l1 * np.sum(np.abs(codes)) + l2 / 2 * np.sum(codes**2)


def kkt_residual(gram, beta, config, codes):
    """Largest violation of the optimality conditions of 1/2 a G a - a.b + Omega(a) at a = codes."""
    l1 = config.alpha * config.l1_ratio
    l2 = config.alpha * (1 - config.l1_ratio)
    worst = 0.0
    for j in range(len(codes)):
        slope = gram[j] @ codes - beta[j] + l2 * codes[j]  # of the smooth part
        if config.nonneg_codes:
            if codes[j] < 0:
                return np.inf
            violation = abs(slope + l1) if codes[j] > 0 else max(-(slope + l1), 0.0)
        else:
            violation = abs(slope + l1 * np.sign(codes[j])) if codes[j] != 0 else max(abs(slope) - l1, 0.0)
        worst = max(worst, violation)
    return worst


def solve_on_support(gram, beta, config, codes):
    """Stationary point with the support and the signs of codes: one linear system."""
    l1 = config.alpha * config.l1_ratio
    l2 = config.alpha * (1 - config.l1_ratio)
    support = np.flatnonzero(codes)
    polished = np.zeros_like(codes)
    if len(support) > 0:
        system = gram[np.ix_(support, support)] + l2 * np.eye(len(support))
        target = beta[support] - l1 * np.sign(codes[support])
        try:
            polished[support] = np.linalg.solve(system, target)
        except np.linalg.LinAlgError:
            return codes
    return polished


def move_towards(codes, target):
    """The point nearest to target on the way from codes to it before a sign changes; the first to do so becomes 0."""
    crossing = np.flatnonzero(codes * target < 0)
    if len(crossing) == 0:
        return target
    fractions = codes[crossing] / (codes[crossing] - target[crossing])
    first = np.argmin(fractions)
    moved = codes + fractions[first] * (target - codes)
    moved[crossing[first]] = 0.0
    return moved


def code_sample(gram, beta, config):
    """Codes of one sample: argmin over a of 1/2 a G a - a.b + Omega(a), over a >= 0 if config.nonneg_codes.

    Sweeps of coordinate descent find the support and the signs, a linear solve on them gives the value; it is accepted
    only if it meets the optimality conditions of the whole problem, which is convex. If it does not, the next sweep
    starts from the best point on the way to it that keeps the signs: coordinate descent alone would take very many
    sweeps where atoms are nearly collinear.
    """
    gram = np.asarray(gram, np.float64)
    beta = np.asarray(beta, np.float64)
    k = len(beta)
    l1 = config.alpha * config.l1_ratio
    l2 = config.alpha * (1 - config.l1_ratio)
    if l1 == 0 and not config.nonneg_codes:
        return np.linalg.solve(gram + l2 * np.eye(k), beta)

    codes = np.zeros(k)
    for _ in range(MAX_SWEEPS):
        for j in range(k):
            curvature = gram[j, j] + l2
            if curvature <= 0:  # a zero row of the Gram matrix: nothing pulls this code away from 0
                continue
            pull = beta[j] - gram[j] @ codes + gram[j, j] * codes[j]
            if config.nonneg_codes:
                codes[j] = max(pull - l1, 0.0) / curvature
            else:
                codes[j] = np.sign(pull) * max(abs(pull) - l1, 0.0) / curvature
        # Rounding in the residual grows with the terms it is a difference of.
        scale = max(1.0, np.max(np.abs(beta)), np.max(np.abs(gram) @ np.abs(codes)))
        target = solve_on_support(gram, beta, config, codes)
        for candidate in (target, codes):
            if kkt_residual(gram, beta, config, candidate) < CODE_TOLERANCE * scale:
                return candidate.copy()
        moved = move_towards(codes, target)
        if code_objective(gram, beta, config, moved) < code_objective(gram, beta, config, codes):
            codes = moved
    raise RuntimeError("coordinate descent did not converge")


# Atoms


def gauge(d, config):
    """mu * |d|_1 + (1 - mu) * |d|_2^2, which adds up over disjoint sets of features."""
    return float(config.mu * np.sum(np.abs(d)) + (1 - config.mu) * np.sum(d**2))


def simplex_threshold(values, total):
    """The theta such that sum(max(values - theta, 0)) == total, by sorting; total > 0."""
    descending = np.sort(values)[::-1]
    theta = 0.0
    running = 0.0
    for count, value in enumerate(descending, start=1):
        running += value
        candidate = (running - total) / count
        if value > candidate:
            theta = candidate
    return theta


def project(v, radius, config):
    """Euclidean projection of v on the constraint set, with this radius in place of config.radius.

    Zeros if radius <= 0. With the multiplier m of the constraint, the projection on the ball of the gauge is
    sign(v) * max(|v| - m * mu, 0) / (1 + 2 * m * (1 - mu)): its gauge decreases with m, which is found by bisection
    (in closed form for mu = 0, by sorting for mu = 1). For non-negative atoms, negative entries become 0 first.
    """
    v = np.array(v, np.float64)
    if radius <= 0:
        return np.zeros_like(v)
    if config.simplex:
        return np.maximum(v - simplex_threshold(v, radius), 0.0)
    if config.nonneg_atoms:
        v = np.maximum(v, 0.0)
    if gauge(v, config) <= radius:
        return v

    magnitude = np.abs(v)
    if config.mu == 0:
        return v * np.sqrt(radius / np.sum(v**2))
    if config.mu == 1:
        return np.sign(v) * np.maximum(magnitude - simplex_threshold(magnitude, radius), 0.0)

    def shrink(multiplier):
        return np.maximum(magnitude - multiplier * config.mu, 0.0) / (1 + 2 * multiplier * (1 - config.mu))

    outside, inside = 0.0, np.max(magnitude) / config.mu
    while True:  # until there is no number left between the two
        middle = (outside + inside) / 2
        if not outside < middle < inside:
            break
        if gauge(shrink(middle), config) > radius:
            outside = middle
        else:
            inside = middle
    return np.sign(v) * shrink(inside)


def update_dictionary(D, B, C, subset, order, config):
    """One pass of block coordinate descent over the atoms, on the features of the subset [ICML16, TSP18]. Changes D."""
    outside = np.setdiff1d(np.arange(D.shape[1]), subset)
    for j in order:
        if C[j, j] <= UNUSED_ATOM:
            continue
        moved = D[j, subset] + (B[j, subset] - C[j] @ D[:, subset]) / C[j, j]
        if config.simplex:
            budget = config.radius - np.sum(D[j, outside])
        else:
            budget = max(config.radius - gauge(D[j, outside], config), 0.0)
        D[j, subset] = project(moved, budget, config)


# Steps


def batch_weight(n_before, b, forgetting):
    """Weight of a batch of b samples that comes after n_before samples."""
    kind, value = forgetting
    if kind == "power":
        kept = 1.0
        for i in range(n_before + 1, n_before + b + 1):
            kept *= 1 - float(i) ** (-value)
        return 1 - kept
    if kind == "scaled":
        return value * b / (n_before + value * b)
    if kind == "constant":
        return 1 - (1 - value) ** b
    raise ValueError(f"unknown forgetting {kind!r}")


def run(
    batches,
    dictionary,
    config,
    *,
    subsets,
    reductions,
    orders,
    sample_ids=None,
    sample_weights=None,
    masks=None,
    center=False,
):
    """Run one step per batch and return one dict per step: D, B, R, C, codes, counts (all as they are after that step).

    batches: (b_t, p) arrays. subsets: distinct features of each step. reductions: the factor r_t of the masked
    estimators. orders: the order in which each step updates the atoms. sample_ids: for averaged statistics, (b_t,)
    integers that name the samples of each batch. counts: (p,), the number of samples in which each feature was seen.

    sample_weights: (b_t,) weights w_i of the samples in the sums, or None for ones. masks: (b_t, p) weights m_ij of the
    entries, zero for a missing one, or None for ones. A feature is then in as many samples as the sum of its mask.
    center: whether the mean of all entries seen so far, with weights w_i m_ij, is subtracted from each batch.
    """
    if config.statistics not in ("masked", "full", "full_gram_averaged", "averaged"):
        raise ValueError(f"unknown statistics {config.statistics!r}")
    averages = config.statistics in ("full_gram_averaged", "averaged")
    if averages and sample_ids is None:
        raise ValueError("averaged statistics need sample_ids")

    D = np.array(dictionary, np.float64)
    k, p = D.shape
    B = np.zeros((k, p))
    R = np.zeros((k, p))
    C = np.zeros((k, k))
    counts = np.zeros(p)
    mean, mean_weight = np.zeros(p), np.zeros(p)
    n_seen = 0
    visits, beta_memory, gram_memory = {}, {}, {}  # per sample

    history = []
    for t, batch in enumerate(batches):
        b = len(batch)
        M = np.ones((b, p)) if masks is None else np.asarray(masks[t], np.float64)
        W = np.ones(b) if sample_weights is None else np.asarray(sample_weights[t], np.float64)
        X = np.where(M == 0, 0, batch).astype(np.float64)
        subset = np.asarray(subsets[t])
        r = reductions[t]
        if center:
            # Partial B does not look at other features than those of the subset, unless the statistics do.
            for j in subset if config.partial_b and config.statistics != "full" else range(p):
                total = mean_weight[j] + np.sum(W * M[:, j])
                if total > 0:
                    mean[j] = (mean_weight[j] * mean[j] + np.sum(W * M[:, j] * X[:, j])) / total
                mean_weight[j] = total
            X = X - mean

        # Regression statistics and codes, with the dictionary as it was before this step.
        codes = np.zeros((b, k))
        for row in range(b):
            weighted = D * M[row]
            masked_beta = r * (weighted[:, subset] @ X[row, subset])
            masked_gram = r * (weighted[:, subset] @ D[:, subset].T)
            if averages:
                i = int(sample_ids[t][row])
                visits[i] = visits.get(i, 0) + 1
                gamma = float(visits[i]) ** (-config.power)
                beta_memory[i] = (1 - gamma) * beta_memory.get(i, np.zeros(k)) + gamma * masked_beta
                gram_memory[i] = (1 - gamma) * gram_memory.get(i, np.zeros((k, k))) + gamma * masked_gram
            if config.statistics == "masked":
                beta, gram = masked_beta, masked_gram
            elif config.statistics == "full":
                beta, gram = weighted @ X[row], weighted @ D.T
            elif config.statistics == "full_gram_averaged":
                beta, gram = beta_memory[i], D @ D.T
            else:
                beta, gram = beta_memory[i], gram_memory[i]
            codes[row] = code_sample(gram, beta, config)

        # Surrogate [JMLR10]; B either on all features [TSP18] or on those of the subset [ICML16]. In the latter case it
        # is made of the averaged products of codes and residuals, R, so that it goes with the same codes as C.
        w = batch_weight(n_seen, b, config.forgetting)
        n_seen += b
        C = (1 - w) * C + w / b * ((codes.T * W) @ codes)
        if config.partial_b:
            for j in subset:
                n_of_batch = np.sum(M[:, j])
                counts[j] += n_of_batch
                if n_of_batch > 0:
                    w_j = min(1.0, w * n_seen * (n_of_batch / b) / counts[j])
                    left_over = M[:, j] * (X[:, j] - codes @ D[:, j])
                    R[:, j] = (1 - w_j) * R[:, j] + w_j / n_of_batch * ((codes.T * W) @ left_over)
            B = R + C @ D
        else:
            counts[subset] += b
            B = (1 - w) * B + w / b * ((codes.T * W) @ X)

        update_dictionary(D, B, C, subset, orders[t], config)
        if config.partial_b:
            R[:, subset] = B[:, subset] - C @ D[:, subset]
        history.append(
            {
                "D": D.copy(),
                "B": B.copy(),
                "R": R.copy(),
                "C": C.copy(),
                "codes": codes,
                "counts": counts.copy(),
                "mean": mean.copy(),
                "mean_weight": mean_weight.copy(),
            }
        )
    return history
