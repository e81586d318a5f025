"""Mutate files of one kind, read each by a process of its own, and print how often each outcome came.

Started by test_damaged_files.py: ``python damage_worker.py KIND COUNT SEED FOLDER``. It does not use JAX before a fork.
"""

import json
import os
import resource
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import h5py
import jax
import numpy as np

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.io import load_run

DATA = Path(__file__).parent / "data"
SECONDS = 20  # for one file, which takes 0.01 s; more are a hang
MEMORY = 2**28  # bytes beyond those of a process that did nothing yet; JAX reserves more
JAX_MEMORY = 2**32
X = np.random.default_rng(0).standard_normal((60, 40)).astype("float32")


def write_hdf5(path, version="earliest", **options):
    with h5py.File(path, "w", libver=version) as file:
        file.attrs["about"] = "a matrix"
        file["group/other"] = np.arange(5)
        file.create_dataset("X", data=X, **options)


def write_rich_hdf5(path):
    """A file with objects of many kinds beside the matrix."""
    with h5py.File(path, "w") as file:
        for index in range(20):
            file[f"scans/session {index}/about"] = f"session {index}"
        file["table"] = np.zeros(4, [("name", "S8"), ("values", "f4", (3,))])
        file["names"] = ["a", "name", "of", "some", "length"]
        file["link"], file["lost"] = h5py.SoftLink("/scans/session 3"), h5py.SoftLink("/none")
        file["outside"] = h5py.ExternalLink("none.h5", "/X")
        file.create_dataset("X", data=X, chunks=(20, 10), shuffle=True, compression="gzip", fletcher32=True)
        for index in range(12):
            file["X"].attrs[f"attribute {index}"] = f"value {index}"
        file["reference"] = file["X"].ref


def make_model(path):
    solver = mmf.OnlineFactorization(n_components=3, penalty=mmf.Ridge(0.1))
    state = solver.init(jax.random.key(0), samples=X[:, :8])
    mmf.save_model(path, solver, state, [mmf.Record(1, 2, 0, 0.1, 3, 4.0, 0)], run={"batch_size": 3})


def make_checkpoint(path):
    solver = mmf.OnlineFactorization(
        n_components=3, penalty=mmf.Ridge(0.1), statistics=mmf.AveragedStatistics(), subset=mmf.UniformSubset(2)
    )
    mmf.fit(
        solver, X[:, :8], key=jax.random.key(0), held_out=10, batch_size=10,
        callbacks=[mmf.Checkpoint(path, every=2)],
    )  # fmt: skip


def make_ratings_model(path):
    users, items = np.nonzero(np.random.default_rng(0).random((12, 9)) < 0.5)
    ratings = completion.Ratings.from_triplets(users.astype(str), items, items % 5 + 1)
    fitted = completion.fit(completion.ExplicitALS(n_components=3), ratings, key=jax.random.key(0), n_epochs=1)
    completion.save_model(path, fitted)


KINDS = {
    "npy": ("npy", lambda path: np.save(path, X)),
    "npy-fortran": ("npy", lambda path: np.save(path, np.asfortranarray(X))),
    "npz": ("npz", lambda path: np.savez(path, X=X, y=np.arange(5))),
    "npz-compressed": ("npz", lambda path: np.savez_compressed(path, X=X, y=np.arange(5))),
    "hdf5": ("h5", write_hdf5),
    "hdf5-chunks": ("h5", lambda path: write_hdf5(path, chunks=(20, 10))),
    "hdf5-gzip": ("h5", lambda path: write_hdf5(path, "latest", chunks=(20, 10), compression="gzip")),
    "hdf5-rich": ("h5", write_rich_hdf5),
    "permuted": (
        "h5",
        lambda path: mmf.write_permuted(path, X, key=jax.random.key(0), block_width=10, rows_per_chunk=20),
    ),
    "model": ("h5", make_model),
    "checkpoint": ("h5", make_checkpoint),
    "model-before": ("h5", lambda path: shutil.copy(DATA / "model_version_1_full_b.h5", path)),
    "ratings-model": ("h5", make_ratings_model),
}


def loaded(kind, path):
    """The numbers of a file, as a dictionary of arrays."""
    if kind.startswith("model"):
        model = mmf.load_model(path)
        state = model.state._replace(key=jax.random.key_data(model.state.key))
        return [str(model.solver), str(model.history), str(model.run), *map(np.asarray, jax.tree.leaves(state))]
    if kind == "checkpoint":
        saved = load_run(path)
        best = (saved.best.state._replace(key=None), saved.best.record)
        numbers = jax.tree.leaves((saved.state._replace(key=None), saved.memory, best))
        return [str(saved.solver), str(saved.history), str(saved.run), str(saved.progress), *map(np.asarray, numbers)]
    if kind == "ratings-model":
        model = completion.load_model(path)
        ratings = [model.ratings.users, model.ratings.items, model.ratings.values]
        ids = [model.ratings.user_ids.values.tolist(), model.ratings.item_ids.values.tolist()]
        return [str(model.model), str(model.limits), *map(str, ids), *ratings, *map(np.asarray, model.factors)]
    with mmf.open_source(path) as source:
        order = np.arange(source.n_features) if source.permutation is None else source.permutation
        return [source.read(np.arange(source.n_samples))[:, np.argsort(order)]]


def mutated(content, generator):
    """Bytes that differ from those of a file: flipped bits, overwritten or copied stretches, a shorter file."""
    data, way = bytearray(content), generator.integers(5)
    place, width = int(generator.integers(len(data))), int(generator.integers(1, 65))
    if way == 0:
        for i in generator.integers(0, len(data), generator.integers(1, 4)):
            data[i] ^= 1 << int(generator.integers(8))
    elif way == 1:  # extreme numbers
        data[place : place + width % 9] = bytes([int(generator.choice([0, 1, 127, 128, 255]))]) * (width % 9)
    elif way == 2:  # near the start, where the headers are
        data[place % 2048 % len(data)] = int(generator.integers(256))
    elif way == 3:
        del data[place:]
    else:
        other = int(generator.integers(len(data)))
        data[place : place + width] = data[other : other + width]
    return bytes(data[: len(content)])


def in_a_process(function, memory):
    """What a function returns in a forked process with limits of memory and time, or how the process ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        signal.alarm(SECONDS)
        try:
            word = function()
        except BaseException as error:  # noqa: BLE001
            word = f"{type(error).__name__}: {str(error)[:200]}"
        os.write(writer, word.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        word = file.read()
    status = os.waitpid(child, 0)[1]
    return word if status == 0 else f"signal {os.WTERMSIG(status)}"


def outcome(kind, path, original):
    """How a mutated file reads: "same", "other" numbers, or "bad" if the right error names it."""
    try:
        got = loaded(kind, path)
    except mmf.BadFileError as error:
        return "bad" if str(path) in str(error) else f"no name: {error}"
    want = loaded(kind, original)
    equal = len(got) == len(want) and all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
    return "same" if equal else "other"


def main(kind, count, seed, folder):
    """Print the outcomes as JSON, and keep the files of those that are wrong."""
    ending, make = KINDS[kind]
    original, path = Path(folder) / f"original.{ending}", Path(folder) / f"mutated.{ending}"
    memory = JAX_MEMORY if "model" in kind or kind == "checkpoint" else MEMORY
    made = in_a_process(lambda: f"made {make(original)}", JAX_MEMORY)
    assert made.startswith("made"), made
    content, outcomes = original.read_bytes(), Counter()
    generator = np.random.default_rng([seed, list(KINDS).index(kind)])
    for index in range(count):
        data = mutated(content, generator)
        path.write_bytes(data)
        word = in_a_process(lambda: outcome(kind, path, original), memory)
        outcomes[word] += 1
        if word not in ("same", "bad", "other"):
            (Path(folder) / f"wrong-{index}.{ending}").write_bytes(data)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
