"""Configurations as pytrees: built by users with checks, and rebuilt by JAX with whatever it puts in."""

import copy
from dataclasses import dataclass, field

import jax
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf.core.pytrees import register_configuration
from jax_mmf.io import build, describe

SOLVER = mmf.OnlineFactorization(n_components=3)


@pytest.mark.parametrize("leaf", [None, "text", -1.0, object()])
def test_jax_may_put_anything_in(leaf):
    """Also values that a user could not give."""
    changed = jax.tree.map(lambda _: leaf, SOLVER)
    assert changed.penalty.alpha is leaf
    assert changed.n_components == 3
    leaves, structure = jax.tree.flatten(SOLVER)
    assert jax.tree.unflatten(structure, leaves) == SOLVER == copy.copy(SOLVER)


def test_constructors_run_where_users_build_and_nowhere_else():
    calls = []

    @register_configuration
    @dataclass(frozen=True)
    class Counted:
        value: float
        doubled: float = field(init=False)
        name: str = field(default="a", metadata={"static": True})

        def __post_init__(self):
            calls.append(self.value)
            object.__setattr__(self, "doubled", 2 * self.value)

    built = Counted(1.5, name="b")
    copied = jax.tree.map(lambda leaf: leaf + 1, built)
    assert calls == [1.5]
    assert (copied.value, copied.doubled, copied.name) == (2.5, 4.0, "b")


def test_a_name_belongs_to_one_class():
    with pytest.raises(ValueError, match=r"'Lasso' already belongs to jax_mmf\.penalties\.Lasso.*'mylab\.Other'"):

        @register_configuration(name="Lasso")
        @dataclass(frozen=True)
        class Other:
            alpha: float

    with pytest.raises(TypeError, match="name must be a string"):
        register_configuration(name=3)(dataclass(frozen=True)(type("Odd", (), {})))


def test_a_class_that_is_defined_again_takes_the_place_of_the_one_before():
    """As in a notebook, whose cells run again."""

    def cell(default):
        @register_configuration(name="tests.Cell")
        @dataclass(frozen=True)
        class Cell:
            rate: float = default

        return Cell

    old, new = cell(0.1), cell(0.2)
    assert old is not new
    assert build(describe(old())) == new(0.1)
    assert build({"class": "tests.Cell"}) == new(0.2)


def test_static_classes_are_compiled_in_and_traced_once_for_equal_values():
    traced = []

    @jax.jit
    def value(part):
        traced.append(part)
        return part.n_steps + 0

    assert [int(value(mmf.ProjectedGradient(n))) for n in (1, 1, 2)] == [1, 1, 2]
    assert [part.n_steps for part in traced] == [1, 2]
    assert jax.tree.leaves(mmf.BlockSubset(2.0)) == []
    assert jax.tree.structure(mmf.BlockSubset(2.0)) != jax.tree.structure(mmf.BlockSubset(3.0))
    assert jax.tree.structure(mmf.RandomSamples()) != jax.tree.structure(mmf.KMeansPlusPlus())


def test_solver_is_batched_over_a_part():
    alphas = np.array([0.1, 0.2], "float32")
    many = jax.vmap(lambda alpha: mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(alpha)))(alphas)
    np.testing.assert_array_equal(many.penalty.alpha, alphas)
    assert jax.tree.structure(many) == jax.tree.structure(SOLVER)


@pytest.mark.parametrize("bad", [None, 1, True, 0.1, "lasso", mmf.Lasso, mmf.L2Ball()])
def test_what_is_no_penalty_is_refused_with_an_example(bad):
    with pytest.raises(TypeError, match=r"penalty must be.*jax_mmf\.Lasso\(0\.1\)"):
        mmf.OnlineFactorization(n_components=3, penalty=bad)
    with pytest.raises(TypeError, match=r"penalty must be.*jax_mmf\.Lasso\(0\.1\)"):
        mmf.encode(np.eye(3), np.ones(3), bad)


@pytest.mark.parametrize("bad", [None, 1, "l2", mmf.L2Ball])
def test_what_is_no_constraint_is_refused_with_an_example(bad):
    with pytest.raises(TypeError, match=r"constraint must be.*jax_mmf\.L2Ball\(\)"):
        mmf.OnlineFactorization(n_components=3, constraint=bad)


def test_problem_by_default_is_that_of_the_command():
    assert mmf.OnlineFactorization(n_components=3, penalty=mmf.Lasso(0.1), constraint=mmf.L2Ball()) == SOLVER
