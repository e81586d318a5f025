"""Compiled programs have no two batched solves or Cholesky factorizations that may run at once.

On CPU, each of them takes a thread of XLA's pool and waits for others of it. Two that are independent of each other
can wait for each other.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from completion_cases import EVERY, KEY, make_ratings

from jax_mmf import completion
from jax_mmf.completion import fitted, training

MODELS = EVERY | {"bayesian": completion.BayesianMF(2, n_samples=2, n_kept=2)}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.-]+) = (.*)$")
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|branch_computations|called_computations)=\{?((?:%[\w.-]+(?:, )?)+)"
)


def independent_solves(text):
    """Number of batched solves and factorizations in a program, and pairs of them that do not depend on each other."""
    programs, name = {}, None
    for line in text.splitlines():
        header = re.match(r"^(?:ENTRY )?%([\w.-]+) .*\{$", line)
        if header:
            name = header[1]
            programs[name] = {}
        elif (found := _INSTRUCTION.match(line)) and name is not None:
            programs[name][found[1]] = found[2]

    def solves(program, seen=()):
        return sum(count for count, _ in map(count_of, programs[program].values()))

    def count_of(instruction):
        if re.search(r'trsm|potrf|"TriangularSolve"| triangular-solve\(|"Cholesky"| cholesky\(', instruction):
            batched = re.match(r"\(?[a-z]+\d+\[\d+(,\d+){2,}\]", instruction)
            return int(batched is not None), ()
        called = [c for group in _CALLED.findall(instruction) for c in re.findall(r"%([\w.-]+)", group)]
        return sum(solves(c) for c in called if c in programs), called

    total, pairs = 0, []
    for program in programs.values():
        own = [i for i, text in program.items() if count_of(text)[0]]
        total += sum(count_of(program[i])[0] for i in own if not count_of(program[i])[1])

        def reached(start, program=program):
            """Return the instructions on which one depends."""
            found, todo = set(), [start]
            while todo:
                operands = [o for o in re.findall(r"%([\w.-]+)", program[todo.pop()]) if o in program]
                todo += [o for o in operands if o not in found]
                found.update(operands)
            return found

        needs = {i: reached(i) for i in own}
        pairs += [(a, b) for a in own for b in own if a < b and a not in needs[b] and b not in needs[a]]
    return total, pairs


def test_independent_solves_are_found():
    both = jax.jit(lambda a, b, x, y: (
        jax.scipy.linalg.solve_triangular(a, x, lower=True), jax.scipy.linalg.solve_triangular(b, y, lower=True)
    ))  # fmt: skip
    a, x = jnp.ones((6, 3, 3)), jnp.ones((6, 3, 2))
    total, pairs = independent_solves(both.lower(a, a + 1, x, x).compile().as_text())
    assert (total, len(pairs)) == (2, 1)
    both = jax.jit(lambda a, b: (jnp.linalg.cholesky(a), jnp.linalg.cholesky(b)))
    total, pairs = independent_solves(both.lower(a, a + 1).compile().as_text())
    assert (total, len(pairs)) == (2, 1)
    one = jax.jit(lambda a, b, x: jax.scipy.linalg.solve_triangular(
        b, jax.scipy.linalg.solve_triangular(a, x, lower=True), lower=True
    ))  # fmt: skip
    assert independent_solves(one.lower(a, a + 1, x).compile().as_text()) == (2, [])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="programs of other platforms run on streams")
@pytest.mark.parametrize(
    "name",
    ["learned", "ridge", "implicit", "bayesian"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("variational", "online", "implicit, blocks")],
)
def test_no_two_batched_solves_run_at_once(name):
    model, (ratings, _, _) = MODELS[name], make_ratings(counts=True)
    data = model.prepare(ratings)
    state = model.init(KEY, data)
    for program, least in (
        (training._epoch.lower(model, KEY, state, data), 3 if name == "online" else 6),
        (fitted._fold_in.lower(model, state, data.by_user), 3),
        (training._init.lower(model, KEY, data), 0),
    ):
        total, pairs = independent_solves(program.compile().as_text())
        assert total >= least
        assert pairs == []
