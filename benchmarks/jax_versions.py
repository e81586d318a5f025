"""Two environments against each other, of two JAX versions say: ``python -m benchmarks.jax_versions PYTHON PYTHON``.

Both are interpreters that have threadpoolctl and what the library depends on. The same work is done in a process of
each, in turns and on one thread; the ratio is that of the second to the first, the median of the turns and quartiles.
"""

import subprocess
from collections.abc import Callable
from typing import Any

import click

from benchmarks.harness import Contestant, race
from benchmarks.report import machine

_DATA = {"n_samples": 1024, "n_features": 256}
_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lasso codes, 96 atoms": ("jax_encode", {"k": 96, "penalty": "Lasso"}),
    "lasso codes, 256 atoms": ("jax_encode", {"k": 256, "penalty": "Lasso"}),
    "ridge codes, 256 atoms": ("jax_encode", {"k": 256, "penalty": "Ridge"}),
    "update, ridge, 96 atoms": ("jax_update", {"k": 96}),
    "update, ridge, 256 atoms": ("jax_update", {"k": 256}),
}


def jax_encode(k: int, penalty: str) -> Callable[[], dict[str, Any]]:
    import jax

    import jax_mmf as mmf

    x, dictionary = _arrays(k)
    of_codes = getattr(mmf, penalty)(0.1)

    def run() -> dict[str, Any]:
        jax.block_until_ready(mmf.encode(dictionary, x, of_codes))
        return {}

    return run


def jax_update(k: int) -> Callable[[], dict[str, Any]]:
    """A whole step: codes of a mini-batch, statistics, and a sweep over the atoms."""
    import jax

    import jax_mmf as mmf

    x, _ = _arrays(k)
    solver = mmf.OnlineFactorization(n_components=k, penalty=mmf.Ridge(0.1), constraint=mmf.L2Ball())
    state = solver.init(jax.random.key(0), samples=x)
    update = jax.jit(solver.update, donate_argnums=0)

    def run() -> dict[str, Any]:
        nonlocal state
        state, _ = update(state, x[:256])
        jax.block_until_ready(state)
        return {}

    return run


def _arrays(k: int) -> Any:
    """Noise and unit atoms: dense, and the same in every version."""
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    x, dictionary = (rng.standard_normal((n, _DATA["n_features"])) for n in (_DATA["n_samples"], k))
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    return jnp.asarray(unit(x), jnp.float32), jnp.asarray(unit(dictionary), jnp.float32)


@click.command()
@click.argument("pythons", nargs=2)
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1))
def main(pythons: tuple[str, str], rounds: int) -> None:
    """Print ratios of the second environment to the first, as a table."""
    asked = "import sys, jax; print(f'Python {sys.version.split()[0]}, jax {jax.__version__}')"
    names = [
        subprocess.run([p, "-c", asked], capture_output=True, text=True, check=True).stdout.strip() for p in pythons
    ]
    host = machine()
    click.echo(f"{host['date']}, {host['cpu']}, one thread; {names[1]} against {names[0]}\n")
    click.echo("| work | ms before | ms after | ratio (quartiles) |\n| --- | ---: | ---: | ---: |")
    for case, (factory, arguments) in _CASES.items():
        both = [
            Contestant(f"{number}: {name}", f"benchmarks.jax_versions:{factory}", 1, python=python, **arguments)
            for number, (name, python) in enumerate(zip(names, pythons, strict=True))
        ]
        before, after = race(both, rounds, min_seconds=0.2)
        if error := before.get("error", after.get("error")):
            click.echo(f"| {case} | {error} | | |")
            continue
        ratio, milliseconds = after["ratio"], [1e3 * outcome["seconds"]["median"] for outcome in (before, after)]
        click.echo(
            f"| {case} | {milliseconds[0]:.3g} | {milliseconds[1]:.3g} |"
            f" {ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f}) |"
        )


if __name__ == "__main__":
    main()
