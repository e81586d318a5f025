"""What `test_devices.py` runs in processes of their own: ``python devices_worker.py CHECK ...``."""

import re
import sys
import threading
import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.io import DeviceSource
from jax_mmf.learning import SubsetPerShare
from jax_mmf.training import fitting
from jax_mmf.training.placement import Placement

LAYOUTS = {"data": ((8,), ("data",)), "features": ((8,), ("features",)), "both": ((2, 4), ("data", "features"))}
SETTINGS = {
    "ridge": {},
    "lasso": {"penalty": mmf.Lasso(0.3)},
    "l1 ball": {"constraint": mmf.L1Ball()},
    "blocks": {"subset": mmf.BlockSubset(3, n_blocks=2)},
    "partial B": {"subset": mmf.BlockSubset(3, n_blocks=2), "partial_b": True},
    "uniform": {"subset": mmf.UniformSubset(3)},
    "codes from a part": {"statistics": mmf.SubsampledStatistics(mmf.UniformSubset(3))},
    "averaged": {"statistics": mmf.AveragedStatistics()},
    "non-negative": {
        "penalty": mmf.Ridge(0.1, nonneg=True),
        "constraint": mmf.L2Ball(nonneg=True),
        "code_solver": mmf.ActiveSet(tol=1e-7),  # codes that are less exact differ by their tolerance
    },
    "elastic net": {"penalty": mmf.ElasticNet(0.3, 0.5), "constraint": mmf.ElasticNetBall(0.3)},
    "simplex": {"constraint": mmf.Simplex()},
    "one after another": {"dictionary_update": mmf.BlockCoordinateDescent()},
    "missing entries": {"subset": mmf.UniformSubset(3), "partial_b": True, "center": True},
}


class Watched(DeviceSource):
    """An array that remembers which threads have read it."""

    def __init__(self, array):
        super().__init__(array)
        self.threads = set()

    def take(self, rows, columns, dtype):
        self.threads.add(threading.current_thread())
        return super().take(rows, columns, dtype)


def solver(**settings):
    defaults = {"penalty": mmf.Ridge(0.1), "constraint": mmf.L2Ball(), "dictionary_update": mmf.ProjectedGradient(4)}
    return mmf.OnlineFactorization(n_components=5, **(defaults | settings))


def data(p, dtype="float32", n=203):
    return np.random.default_rng(0).standard_normal((n, p)).astype(dtype)


def fit(chosen, x, mesh=None, **options):
    settings = {"key": jax.random.key(0), "n_epochs": 2, "batch_size": 30, "held_out": 20, "revive_every": 5} | options
    return mmf.fit(chosen, x, mesh=mesh, **settings)


def agrees(dtype, names):
    """A mesh gives what one device gives, for each layout."""
    warnings.filterwarnings("ignore", message="BlockCoordinateDescent")
    tolerance = 1e-5 if dtype == "float32" else 1e-10
    for name in names:
        for layout, (shape, axes) in LAYOUTS.items():
            x, options = data(61, dtype), {}  # filled up with features of zeros
            if name == "missing entries":
                rng = np.random.default_rng(1)
                options = {"mask": rng.random(x.shape) < 0.7, "sample_weight": rng.random(len(x))}
                x = np.where(options["mask"], x, np.nan)
            spread = fit(solver(**SETTINGS[name]), x, jax.make_mesh(shape, axes), **options)
            one = fit(spread.solver, x, **options)
            assert len(spread.dictionary.sharding.device_set) == 1
            for part, whole in zip(jax.tree.leaves(spread.state), jax.tree.leaves(one.state), strict=True):
                if not jnp.issubdtype(part.dtype, jax.dtypes.prng_key):
                    scale = max(1.0, float(np.abs(whole).max()))
                    np.testing.assert_allclose(part, whole, rtol=0, atol=tolerance * scale, err_msg=f"{name}, {layout}")
            objectives = [[record.objective for record in run.history] for run in (spread, one)]
            np.testing.assert_allclose(*objectives, rtol=tolerance)
            assert spread.history[-1].bytes_read == one.history[-1].bytes_read


def collectives(layout, *, k=5, p=4096, b=64, **settings):
    """Collectives of a step: their number, and the bytes of their results, by kind."""
    chosen = mmf.OnlineFactorization(
        **{
            "n_components": k, "penalty": mmf.Ridge(0.1), "constraint": mmf.L2Ball(),
            "dictionary_update": mmf.ProjectedGradient(4),
        }
        | settings
    )  # fmt: skip
    placement = Placement(jax.make_mesh(*LAYOUTS[layout]), p)
    x = data(p, n=b)
    state = placement.put_state(chosen.init(jax.random.key(0), samples=x))
    with placement.active():
        program = fitting._step_whole.lower(
            chosen, state, placement.put_samples(x, b, p), None, np.int32(b), placement
        ).compile()
    found = Counter()
    for line in program.as_text().splitlines():
        match = re.search(r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(-start)?\(", line)
        if match:
            numbers = sum(
                int(np.prod([int(n) for n in shape.split(",") if n]))
                for shape in re.findall(r"\w+\[([\d,]*)\]", match[1])
            )
            found[match[2]] += 1
            found["numbers"] += numbers
    return found


def communicates():
    """What a step sends: sums of C, B and correlations, and a few vectors of k numbers."""
    few = collectives("features")
    assert set(few) == {"all-reduce", "numbers"}, few
    assert few == collectives("features", p=8 * 4096), "grows with the features"
    assert few["numbers"] <= 5 * 5 + 64 * 5 + 20 * 5, few
    many = collectives("features", k=10)
    assert many["all-reduce"] == few["all-reduce"], "a collective for each atom"
    balls = collectives("features", constraint=mmf.L1Ball())
    assert set(balls) == {"all-reduce", "numbers"}
    assert balls["numbers"] <= 5 * 5 + 64 * 5 + 20 * 5, balls
    for rule in (mmf.BlockSubset(4, n_blocks=4), mmf.UniformSubset(4), mmf.UniformSubset(4, width=16)):
        part = collectives("features", subset=SubsetPerShare(rule, 8))
        assert set(part) == {"all-reduce", "numbers"}, part
        assert part["numbers"] <= 2 * 5 * 5 + 64 * 5 + 30 * 5, part

    rows = collectives("data")
    assert set(rows) == {"all-reduce", "numbers"}, rows
    assert rows["numbers"] <= 5 * 4096 + 5 * 5 + 2, rows
    assert rows == collectives("data", b=512), "grows with the mini-batch"
    partial = collectives("data", penalty=mmf.Lasso(0.1))
    assert partial["numbers"] <= 5 * 4096 + 5 * 5 + 2, partial
    both = collectives("both")
    assert set(both) == {"all-reduce", "numbers"}, both
    assert both["numbers"] <= 5 * 1024 + 2 * 5 * 5 + 32 * 5 + 20 * 5, both


def sources():
    """Batches, data on the devices, data that are spread over them, files, and a resumed run."""
    x, mesh = data(61), jax.make_mesh((2, 4), ("data", "features"))
    one = fit(solver(), x)
    here = fit(solver(), DeviceSource(jnp.asarray(x)), mesh)
    np.testing.assert_allclose(here.dictionary, one.dictionary, atol=1e-5)
    wide = data(64, n=204)
    here = fit(solver(), wide)
    spread = jax.device_put(wide, NamedSharding(mesh, PartitionSpec(None, "features")))
    np.testing.assert_allclose(fit(solver(), spread, mesh).dictionary, here.dictionary, atol=1e-5)
    for axes in (("data", None), ("data", "features")):
        part = Watched(jax.device_put(wide, NamedSharding(mesh, PartitionSpec(*axes))))
        alone, together = fit(solver(), part), fit(solver(), part, mesh)
        np.testing.assert_allclose(alone.dictionary, here.dictionary, atol=1e-5)
        np.testing.assert_allclose(together.dictionary, here.dictionary, atol=1e-5)
        assert part.threads == {threading.main_thread()}  # which launches the steps
        stacked = mmf.io.JoinedSource([part, mmf.io.CentredSource(part, np.zeros(64, np.float32))])
        mmf.explained_variance(here.dictionary, stacked, mmf.Ridge(0.1), batch_size=50)
        assert part.threads == {threading.main_thread()}
    on_one = Watched(jnp.asarray(wide))
    fit(solver(), on_one, mesh)
    assert len(on_one.threads) > 1  # read ahead
    batches = [x[i : i + 25] for i in range(0, 200, 25)]
    options = {"held_out": x[:10], "revive_every": None}
    pair = [fit(solver(), batches, m, **options).dictionary for m in (mesh, None)]
    np.testing.assert_allclose(*pair, atol=1e-5)

    stop = lambda event: event.step == 7
    first = fit(solver(), x, mesh, callbacks=[stop])
    again = fit(first.solver, x, jax.make_mesh((8,), ("features",)), key=None, resume=first)
    np.testing.assert_allclose(again.dictionary, one.dictionary, atol=1e-5)

    blocks = solver(subset=mmf.BlockSubset(3, n_blocks=2))
    whole, part = fit(blocks, x, mesh), fit(blocks, x, mesh, callbacks=[stop])
    for other in (None, jax.make_mesh((8,), ("data",))):
        resumed = fit(blocks, x, other, key=None, resume=part)  # the solver as the user wrote it
        np.testing.assert_allclose(resumed.dictionary, whole.dictionary, atol=1e-5)
    with pytest.warns(UserWarning, match="drawn from the features of each device"):
        fit(blocks, x, mesh, key=None, resume=fit(blocks, x, callbacks=[stop]))
    assert [record.step for record in again.history] == [record.step for record in one.history]


def axes():
    """Axes of other names are refused, unless they have one device."""
    for names in (("rows", "features"), ("data", "columns")):
        with pytest.raises(ValueError, match="mesh must have axes 'data' and 'features', or one of them; got "):
            Placement(jax.make_mesh((2, 4), names), 4)
    assert Placement(jax.make_mesh((8, 1), ("data", "other")), 4).shares("data") == 8


def ratings():
    """Completion on a mesh of either kind of axes."""
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((9, 7)) < 0.6)
    train = completion.Ratings.from_triplets(users, items, rng.integers(1, 6, len(users)), user_ids=range(9))
    for model in (completion.ExplicitALS(2, alpha=0.1), completion.ImplicitALS(2)):
        one = completion.fit(model, train, key=jax.random.key(0), n_epochs=3)
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((8,), ("users",), axis_types=(kind,))
            many = completion.fit(model, train, key=jax.random.key(0), n_epochs=3, mesh=mesh)
            for a, b in zip(one.factors, many.factors, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def process(number, count, port, layout, path, out, command):
    """One of several processes of a run: all of it, part of it, a resumed one, or one that dies."""
    import os

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", int(count), int(number), heartbeat_timeout_seconds=30)
    axes = ("data", "features") if layout == "both" else (layout,)
    n = jax.device_count()
    mesh = jax.make_mesh((2, n // 2) if layout == "both" else (n,), axes)
    shares = SubsetPerShare(mmf.BlockSubset(3, n_blocks=2), 4)  # of one process too
    chosen = solver(subset=mmf.BlockSubset(3) if layout == "data" else shares)

    def until(event):
        if command == "die" and event.step == 10 and number == "1":
            os._exit(9)
        return command == "part" and event.step == 8

    with pytest.raises(ValueError, match="several processes; got an iterable of batches"):
        fit(chosen, [data(64)], mesh, held_out=None)
    resume = mmf.load_checkpoint(out + "/checkpoints") if command == "resume" else None
    callbacks = [until] if command == "die" else [until, mmf.Checkpoint(out + "/checkpoints", every=4)]
    with mmf.open_source(path) as source:
        run = fit(
            chosen, source, mesh, callbacks=callbacks, resume=resume, key=None if resume else jax.random.key(0),
            n_epochs=200 if command == "die" else 2,
        )  # fmt: skip
    np.savez(f"{out}/{command}_{number}.npz", dictionary=run.dictionary, bytes_read=run.history[-1].bytes_read)


if __name__ == "__main__":
    check, *arguments = sys.argv[1:]
    {
        "agrees": lambda dtype, *names: agrees(dtype, names),
        "communicates": communicates,
        "sources": sources,
        "axes": axes,
        "ratings": ratings,
        "process": process,
    }[check](*arguments)
