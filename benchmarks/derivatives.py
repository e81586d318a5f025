"""Derivatives of codes: cost and accuracy of the gradient in the dictionary and the samples, relative to the codes.

The loss is the sum of squares of the codes, lasso or ridge. "Forward" is the loss alone, "gradient" the loss and both
gradients. ``backward_over_forward`` is the additional time of the gradient over the forward time of the same
contestant. ``gradient_error`` is the relative distance to the formula of Task-Driven Dictionary Learning, in float64 on
the exact codes. Samples are combinations of 10 planted atoms and noise. Target: 1.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation import Penalty, as_jax_mmf, best_codes
from benchmarks.harness import Contestant, race
from benchmarks.problems import cached
from benchmarks.report import Record, records_of

PROBLEMS = ((256, 256, 256), (256, 1024, 784), (64, 64, 20_000))
PENALTIES = {"lasso": Penalty(0.3), "ridge": Penalty(0.0, 0.1)}
STEPS = 200  # of unrolled FISTA, and at most of jaxopt's
ACTIVE = 10


def jax_gradient(
    dictionary: str, samples: str, penalty: dict[str, Any], method: str, gradient: bool
) -> tuple[Callable[[], Any], Callable[[Any], dict[str, Any]]]:
    """The loss, and its gradients if they are wanted, of "jax_mmf", "unrolled" or "jaxopt"."""
    import jax
    import jax.numpy as jnp

    import jax_mmf as mmf

    atoms, x = jax.device_put(np.load(dictionary)), jax.device_put(np.load(samples))
    omega = as_jax_mmf(Penalty(**penalty))
    solver = mmf.UnrolledFISTA(STEPS) if method == "unrolled" else None

    def loss(atoms: Any, x: Any) -> Any:
        if method == "jaxopt":
            return jnp.sum(_jaxopt_codes(atoms, x, omega) ** 2)
        return jnp.sum(mmf.encode(atoms, x, omega, solver=solver) ** 2)

    call = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)) if gradient else loss)

    def finish(out: Any) -> dict[str, Any]:
        return {"by_dictionary": np.asarray(out[1][0]), "by_samples": np.asarray(out[1][1])} if gradient else {}

    return lambda: jax.block_until_ready(call(atoms, x)), finish


def _jaxopt_codes(atoms: Any, x: Any, omega: Any) -> Any:
    """Accelerated proximal gradient with jaxopt's implicit derivatives, vmapped over samples, with the step 1 / L."""
    import jax
    import jax.numpy as jnp
    import jaxopt

    import jax_mmf as mmf

    gram, beta = atoms @ atoms.T, x @ atoms.T
    loss = lambda a, gram, b: 0.5 * a @ gram @ a - a @ b  # noqa: E731
    prox = lambda a, _, scale=1.0: mmf.penalty_prox(omega, a, scale)  # noqa: E731
    step = jax.lax.stop_gradient(1 / jnp.linalg.norm(gram, 2))
    solver = jaxopt.ProximalGradient(loss, prox, stepsize=lambda _: step, tol=1e-5, maxiter=STEPS, implicit_diff=True)
    return jax.vmap(lambda b: solver.run(jnp.zeros_like(b), None, gram, b).params)(beta)


def planted(b: int, k: int, p: int, cache: Path) -> dict[str, Path]:
    """``dictionary`` (k, p) of unit atoms, and ``samples`` (b, p)."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        dictionary = rng.standard_normal((k, p))
        dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
        codes = rng.standard_normal((b, k)) * (rng.random((b, k)) < ACTIVE / k)
        np.save(folder / "dictionary.npy", dictionary.astype(np.float32))
        noise = 0.3 * np.sqrt(ACTIVE / p) * rng.standard_normal((b, p))
        np.save(folder / "samples.npy", (codes @ dictionary + noise).astype(np.float32))

    return cached(cache, f"planted-{b}-{k}-{p}", write)


def exact_gradients(dictionary: np.ndarray, x: np.ndarray, penalty: Penalty) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the sum of squares of the codes ([TPAMI12], proposition 1), sample by sample."""
    dictionary, x = dictionary.astype(np.float64), x.astype(np.float64)
    codes = best_codes(dictionary, x, penalty)
    by_dictionary, by_samples = np.zeros_like(dictionary), np.zeros_like(x)
    for i, code in enumerate(codes):
        on = np.flatnonzero(code)
        atoms = dictionary[on]
        gram = atoms @ atoms.T + penalty.l2 * np.eye(on.size)
        exact = np.linalg.solve(gram, atoms @ x[i] - penalty.l1 * np.sign(code[on]))
        adjoint = np.linalg.solve(gram, 2 * exact)
        by_samples[i] = adjoint @ atoms
        by_dictionary[on] += np.outer(adjoint, x[i] - exact @ atoms) - np.outer(exact, by_samples[i])
    return by_dictionary, by_samples


def run(quick: bool, threads: Sequence[int], repeats: int, cache: Path) -> list[Record]:
    records: list[Record] = []
    for b, k, p in ((32, 64, 64),) if quick else PROBLEMS:
        paths = planted(b, k, p, cache)
        for kind, penalty in PENALTIES.items():
            exact = exact_gradients(np.load(paths["dictionary"]), np.load(paths["samples"]), penalty)

            def evaluate(name: str, arrays: dict[str, np.ndarray], exact: Any = exact) -> dict[str, Any]:
                if "forward" in name:
                    return {}
                errors = [
                    np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
                    for found, wanted in zip((arrays["by_dictionary"], arrays["by_samples"]), exact, strict=True)
                ]
                return {"quality": {"gradient_error": float(max(errors))}}

            for n in threads:
                contestants = [
                    Contestant(f"{method}, {what}", "benchmarks.derivatives:jax_gradient", n, **paths, method=method,
                               penalty=penalty._asdict(), gradient=what == "gradient")
                    for method in ("jax_mmf", "unrolled", "jaxopt")[: 1 if kind == "ridge" else 3]
                    for what in ("forward", "gradient")
                ]  # fmt: skip
                outcomes = race(contestants, repeats, evaluate=evaluate, min_seconds=0.02 if quick else 0.3)
                for forward, both in zip(outcomes[::2], outcomes[1::2], strict=True):
                    if "seconds" in forward and "seconds" in both:
                        added = both["seconds"]["median"] / forward["seconds"]["median"] - 1
                        both.setdefault("quality", {})["backward_over_forward"] = added
                records += records_of("derivatives", f"b = {b}, k = {k}, p = {p:,}", kind, outcomes)
    return records
