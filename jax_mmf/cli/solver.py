"""From the options of ``jax-mmf fit`` to a run: the solver of a new run, and the arguments of a resumed one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf.defaults import BATCH_SIZE
from jax_mmf.io import SavedRun, describe
from jax_mmf.learning import default_code_reduction, default_statistics, default_subset

PENALTIES: dict[str, type[Any]] = {"ridge": mmf.Ridge, "lasso": mmf.Lasso, "elastic-net": mmf.ElasticNet}
CONSTRAINTS: dict[str, type[Any]] = {
    "l2": mmf.L2Ball,
    "l1": mmf.L1Ball,
    "elastic-net": mmf.ElasticNetBall,
    "simplex": mmf.Simplex,
}
INITS: dict[str, type[Any]] = {
    "samples": mmf.RandomSamples,
    "svd": mmf.RandomizedSVD,
    "kmeans++": mmf.KMeansPlusPlus,
}
_FORGETTING: dict[str, tuple[Callable[[float], mmf.Forgetting], str]] = {
    "power": (mmf.PowerForgetting, "exponent"),
    "scaled": (mmf.ScaledForgetting, "scale"),
    "constant": (mmf.ConstantForgetting, "rate"),
}


def make_solver(options: Mapping[str, Any], n_features: int) -> mmf.OnlineFactorization:
    """Make a solver from options, for data with so many features."""
    nonneg = options["nonneg"]
    codes, atoms = nonneg in ("codes", "both"), nonneg in ("atoms", "both")
    alpha, radius = options["alpha"], options["radius"]
    penalties: dict[str, Callable[[], mmf.Penalty]] = {
        "ridge": lambda: mmf.Ridge(alpha, nonneg=codes),
        "lasso": lambda: mmf.Lasso(alpha, nonneg=codes),
        "elastic-net": lambda: mmf.ElasticNet(alpha, options["l1_ratio"], nonneg=codes),
    }
    constraints: dict[str, Callable[[], mmf.Constraint]] = {
        "l2": lambda: mmf.L2Ball(radius, nonneg=atoms),
        "l1": lambda: mmf.L1Ball(radius, nonneg=atoms),
        "elastic-net": lambda: mmf.ElasticNetBall(options["atom_l1_ratio"], radius, nonneg=atoms),
        "simplex": lambda: mmf.Simplex(radius),
    }
    penalty, k, reduction = penalties[options["penalty"]](), options["components"], options["code_reduction"]
    if reduction is None:
        sees_all = options["reduction"] == 1
        reduction = default_code_reduction(n_features, k, penalty) if sees_all else 1
    return mmf.OnlineFactorization(
        n_components=k,
        penalty=penalty,
        constraint=constraints[options["constraint"]](),
        subset=default_subset(options["reduction"], n_features, k, partial_b=options["partial_b"]),
        partial_b=options["partial_b"],
        statistics=default_statistics(reduction, n_features, k),
        forgetting=_forgetting(options["forgetting"]),
        initialization=INITS[options["init"]](),
        center=options["center"],
    )


def _forgetting(value: str | None) -> Any:
    """Parse a rule; None leaves the choice to the solver."""
    if value is None:
        return None
    rule, _, number = value.partition(":")
    try:
        return _FORGETTING[rule][0](float(number))
    except (KeyError, ValueError) as error:
        raise click.BadParameter(
            f"{value!r} is not power:U, scaled:C or constant:W with a number in range ({error})",
            param_hint="--forgetting",
        ) from error


def check_given(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect.

    Args:
      given: options that the user gave, by name.
      options: all options, with defaults or the values of a model.

    Raises:
      click.UsageError: with the option, and what it needs.
    """
    needs = {
        "l1_ratio": ("penalty", "elastic-net"),
        "atom_l1_ratio": ("constraint", "elastic-net"),
    }
    for name, (other, value) in needs.items():
        if name in given and options[other] != value:
            raise click.UsageError(
                f"{_flag(name)} has an effect only with {_flag(other)} {value}; this run has {options[other]}"
            )
    if given.get("partial_b") and options["reduction"] == 1:
        raise click.UsageError("--partial-b needs steps that see only some of the features; give a --reduction above 1")
    if (given.get("code_reduction") or 1) > 1 and options["reduction"] > 1:
        raise click.UsageError(
            "--code-reduction is for steps that update the atoms on all features; with --reduction, codes are computed "
            "from the features of the step. Give one of the two"
        )


def resume_arguments(
    path: Path, model: SavedRun, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of `jax_mmf.fit` that resume the run of a model.

    Args:
      path: of the model file or checkpoint.
      model: content of the file.
      given: options that the user gave, by name.
      defaults: all options.

    Returns:
      batch_size, held_out, revive_every, and other arguments of the run in the file.

    Raises:
      click.UsageError: if an option contradicts the model, or the file does not hold the number of held-out samples.
    """
    run = {k: model.run[k] for k in ("batch_size", "held_out", "revive_every", "shuffle") if k in model.run}
    relative = model.told("alpha")  # as it was given, before the run computed its value
    known = options_of(model.solver) | {"dtype": str(model.state.dictionary.dtype)} | run
    defaults = {**defaults, "batch_size": defaults["batch_size"] or BATCH_SIZE}
    for name, value in given.items():
        same = {
            "seed": lambda value: _same_key(model.state.key, value),
            "revive_every": lambda _: True,  # may change in a resumed run
            "alpha": lambda value: describe(value) in (relative, known.get("alpha")),
        }.get(name, lambda value, name=name: name not in known or _same(known, name, value))(value)
        if not same and not (defaults["allow_changes"] and name in ("batch_size", "held_out")):
            has = known.get(name, "another one") or 0  # None is written as --held-out 0
            raise click.UsageError(
                f"{_flag(name)} {value} contradicts the model of --resume, {path}, which has {has}; leave the option "
                "out, or learn a new model without --resume"
            )
    check_given(given, {**defaults, **known})
    guessed = [name for name in ("batch_size", "held_out") if name not in known and name not in given]
    if "held_out" in guessed and any(record.held_out for record in model.history):
        raise click.UsageError(
            f"{path} is of a run with held-out samples, but does not hold their number; give the same --held-out as "
            "for that run, or they would be used for learning"
        )
    if guessed:
        used = ", ".join(f"{_flag(name)} {defaults[name] or 0}" for name in guessed)
        click.echo(f"jax-mmf: warning: {path} does not hold all arguments of its run; resuming with {used}", err=True)
    names = ("batch_size", "held_out", "revive_every")
    if model.history and not model.told("order"):
        click.echo(
            f"jax-mmf: warning: {path} does not contain the order of its samples, and may be of a version with another "
            "order: some samples, also held-out ones, may be learned from twice in this epoch",
            err=True,
        )
    return {name: defaults[name] for name in names} | run | {name: given[name] for name in names if name in given}


def options_of(solver: mmf.OnlineFactorization) -> dict[str, Any]:
    """Return the options that would make a solver; parts without an option are left out."""
    penalty, constraint, forgetting = solver.penalty, solver.constraint, solver.step_forgetting
    options = {
        "components": solver.n_components,
        "penalty": _name(PENALTIES, penalty),
        "alpha": getattr(penalty, "alpha", None),
        "l1_ratio": penalty.l1_ratio if isinstance(penalty, mmf.ElasticNet) else None,
        "constraint": _name(CONSTRAINTS, constraint),
        "atom_l1_ratio": constraint.l1_ratio if isinstance(constraint, mmf.ElasticNetBall) else None,
        "radius": constraint.radius,
        "nonneg": _NONNEG[
            getattr(penalty, "nonneg", False), constraint.nonneg and not isinstance(constraint, mmf.Simplex)
        ],
        "reduction": solver.subset.reduction,
        "partial_b": solver.partial_b,
        "code_reduction": _code_reduction(solver.statistics),
        "init": _name(INITS, solver.initialization),
        "center": solver.center,
    }
    for rule, (kind, field) in _FORGETTING.items():
        if type(forgetting) is kind:
            options["forgetting"] = f"{rule}:{getattr(forgetting, field)}"
    return {name: value for name, value in options.items() if value is not None}


def _code_reduction(statistics: Any) -> float | None:
    if isinstance(statistics, mmf.SubsampledStatistics):
        return statistics.subset.reduction
    return 1.0 if isinstance(statistics, mmf.MaskedStatistics) else None


_NONNEG = {(False, False): "none", (True, False): "codes", (False, True): "atoms", (True, True): "both"}


def _name(classes: Mapping[str, type[Any]], part: Any) -> str | None:
    return next((name for name, kind in classes.items() if type(part) is kind), None)


def _same(known: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether an option has the same meaning as in the model, as "scaled:8" and "scaled:8.0" have."""
    if name == "forgetting":
        value, has = _forgetting(value), _forgetting(known[name])
    elif name == "nonneg" and known["constraint"] == "simplex":  # atoms on the simplex are always non-negative
        value, has = (v in ("codes", "both") for v in (value, known[name]))
    else:
        has = known[name]
    return bool(describe(value) == describe(has))


def _same_key(key: Any, seed: int) -> bool:
    other = jax.random.key(seed)
    return key.dtype == other.dtype and np.array_equal(jax.random.key_data(key), jax.random.key_data(other))


def _flag(name: str) -> str:
    """Return an option as the help writes it."""
    special = {"components": "-k", "partial_b": "--partial-b/--full-b", "center": "--center/--no-center"}
    return special.get(name, f"--{name.replace('_', '-')}")
