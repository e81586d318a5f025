"""Model files of ratings, and programs of completion for every platform."""

import h5py
import jax
import numpy as np
import optax
import pytest
from model_changes import changed

from jax_mmf import BadFileError, completion

MODELS = {
    "als": completion.ExplicitALS(n_components=3),
    "plain": completion.ExplicitALS(n_components=3, variational=False, biases=False),
    "sparse": completion.ExplicitALS(n_components=3, l1_ratio=0.5, nonneg=True),
    "online": completion.ExplicitOnline(n_components=3, batch_size=8, streamed="items"),
    "implicit": completion.ImplicitALS(n_components=3, block_size=2),
    "bpr": completion.BPR(n_components=3, batch_size=16),
}


def some_ratings(ids=str, seed=0):
    g = np.random.default_rng(seed)
    users, items = np.nonzero(g.random((12, 9)) < 0.5)
    values = g.integers(1, 6, users.size)
    times = np.arange(users.size)
    return completion.Ratings.from_triplets([ids(u) for u in users], [ids(i) for i in items], values, timestamps=times)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ids", [int, lambda i: f"è{i}"])
def test_model_file_round_trip(name, ids, tmp_path):
    ratings = some_ratings(ids)
    fitted = completion.fit(MODELS[name], ratings, key=jax.random.key(0), n_epochs=2)
    completion.save_model(tmp_path / "m.h5", fitted)
    loaded = completion.load_model(tmp_path / "m.h5")
    jax.tree.map(np.testing.assert_array_equal, loaded.factors, fitted.factors)
    assert loaded.ratings.user_ids == ratings.user_ids
    np.testing.assert_equal(loaded.history, fitted.history)  # scores are NaN, which equal each other here
    assert loaded.limits == fitted.limits
    np.testing.assert_array_equal(loaded.ratings.timestamps, ratings.timestamps)
    user = ratings.user_ids.values[3]
    np.testing.assert_array_equal(loaded.recommend(user, 4).items, fitted.recommend(user, 4).items)
    if name != "bpr":  # whose optimiser starts afresh
        newer = some_ratings(ids, 1)
        again = [completion.refit(m, newer, key=jax.random.key(1)).factors for m in (loaded, fitted)]
        jax.tree.map(np.testing.assert_array_equal, *again)


def test_model_file_needs_plain_ids_and_the_optimiser(tmp_path):
    key = jax.random.key(0)
    tuples = completion.fit(MODELS["als"], some_ratings(lambda i: (i, i)), key=key, n_epochs=1)
    with pytest.raises(TypeError, match="whole numbers or text"):
        completion.save_model(tmp_path / "m.h5", tuples)
    assert not list(tmp_path.iterdir())
    model = completion.BPR(n_components=3, optimizer=optax.sgd(0.1, momentum=0.9), batch_size=16)
    fitted = completion.fit(model, some_ratings(), key=key, n_epochs=1)
    completion.save_model(tmp_path / "m.h5", fitted)
    assert completion.load_model(tmp_path / "m.h5", model=model).model is model


def test_model_file_of_dates_and_of_large_and_odd_ids(tmp_path):
    users, items = [5, 2**63 + 1, 2**63 + 5], ["a", "ab", "b"]
    ratings = completion.Ratings.from_triplets(
        users, items, [1, 2, 3], timestamps=["2020-01-03", "2020-01-01T12:00", "2020-01-02"]
    )
    fitted = completion.fit(MODELS["als"], ratings, key=jax.random.key(0), n_epochs=1)
    completion.save_model(tmp_path / "m.h5", fitted)
    loaded = completion.load_model(tmp_path / "m.h5").ratings
    assert loaded.user_ids.values.tolist() == users
    assert loaded.item_ids.values.tolist() == items
    np.testing.assert_array_equal(loaded.timestamps, ratings.timestamps)
    assert loaded.timestamps.dtype == ratings.timestamps.dtype
    nul = completion.Ratings.from_triplets(["a\0", "a"], [1, 1], [1, 2])
    with pytest.raises(TypeError, match="without NUL"):
        completion.save_model(tmp_path / "n.h5", completion.fit(MODELS["als"], nul, key=jax.random.key(0), n_epochs=1))


def test_users_that_were_folded_in_are_not_written(tmp_path):
    fitted = completion.fit(MODELS["als"], some_ratings(), key=jax.random.key(0), n_epochs=1)
    with pytest.raises(ValueError, match="folded in; save the model that fold_in was called on"):
        completion.save_model(tmp_path / "m.h5", fitted.fold_in(some_ratings(seed=1)))
    assert not list(tmp_path.iterdir())


def test_loading_prepares_one_entry(tmp_path, monkeypatch):
    """What a model prepares from all ratings, such as singular vectors, is not needed to read it."""
    prepare, sizes = completion.ExplicitALS.prepare, []
    fitted = completion.fit(completion.ExplicitALS(3), some_ratings(), key=jax.random.key(0), n_epochs=1)
    completion.save_model(tmp_path / "m.h5", fitted)
    monkeypatch.setattr(
        completion.ExplicitALS, "prepare", lambda self, r, mesh=None: sizes.append(len(r)) or prepare(self, r, mesh)
    )
    completion.load_model(tmp_path / "m.h5")
    assert sizes == [1]


def test_damaged_model_files_are_named(tmp_path):
    path = tmp_path / "m.h5"
    with pytest.raises(FileNotFoundError, match=r"m\.h5"):
        completion.load_model(path)
    path.write_text("no HDF5")
    with pytest.raises(ValueError, match=r"m\.h5 is not a model file"):
        completion.load_model(path)
    path.unlink()
    completion.save_model(path, completion.fit(MODELS["als"], some_ratings(), key=jax.random.key(0), n_epochs=1))
    with changed(path) as file:
        del file["state/2"]
    with pytest.raises(ValueError, match="can't be read"):
        completion.load_model(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(ValueError, match="newer"):
        completion.load_model(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "other"
    with pytest.raises(ValueError, match="not a model of ratings"):
        completion.load_model(path)


# In the program of an epoch: scatters, sorts, loops. A half-step has a loop over blocks, one over tiles in it, and a
# scatter in that; with blocks of factors as many more as there are. Gradients of gathers are scatters.
HEAVY = {
    "als": (2, 0, 4),
    "implicit": (6, 0, 8),
    "online": (6, 2, 7),
    "bpr": (13, 1, 2),
}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", HEAVY)
def test_an_epoch_lowers_for_every_platform(name, platform):
    model = MODELS[name]
    data = model.prepare(some_ratings())
    state = jax.eval_shape(lambda: model.init(jax.random.key(0), data))

    def epoch(raw, state):
        return jax.tree.leaves(model.epoch(jax.random.wrap_key_data(raw), state, data))

    raw = jax.random.key_data(jax.random.key(0))
    exported = jax.export.export(jax.jit(epoch), platforms=[platform])
    program = exported(raw, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)).mlir_module()
    assert "f64" not in program
    assert "callback" not in program
    found = [program.count(heavy) for heavy in ('"stablehlo.scatter"', '"stablehlo.sort"', "stablehlo.while")]
    assert all(count <= most for count, most in zip(found, HEAVY[name], strict=True)), found


# Damage of the content, in a file whose checksum was taken out


def put(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def put_text(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


DAMAGE = {
    "users beyond the ids": (put("ratings/users", np.arange(60, dtype="int32")), "ratings/users|column"),
    "one user is negative": (lambda file: file["ratings/users"].__setitem__(0, -1), "ratings/users must be from 0"),
    "items beyond the ids": (lambda file: file["ratings/items"].__setitem__(0, 99), "ratings/items must be from 0 to"),
    "a pair twice": (lambda file: file["ratings/items"].__setitem__(1, file["ratings/items"][0]), "sorted"),
    "values of NaN": (lambda file: file["ratings/values"].__setitem__(0, np.nan), "ratings/values .* not finite"),
    "values of text": (put("ratings/values", "a text"), "ratings/values"),
    "fewer values": (lambda file: put("ratings/values", file["ratings/values"][1:])(file), "ratings/values"),
    "no items": (lambda file: file.__delitem__("ratings/items"), "ratings/items"),
    "negative weights": (
        lambda file: file.__setitem__("ratings/weights", -np.ones(len(file["ratings/users"]), "float32")),
        "ratings/weights must not be negative",
    ),
    "ids twice": (lambda file: file["item_ids"].__setitem__(1, file["item_ids"][0]), "differ|twice|repeated|unique"),
    "ids of floats": (put("item_ids", np.arange(9.0)), "item_ids"),
    "state is narrower": (lambda file: put("state/2", file["state/2"][..., :1])(file), "state/2 must be"),
    "state of NaN": (lambda file: file["state/2"].__setitem__(0, np.nan), "state/2 holds NaN"),
    "state of integers": (lambda file: put("state/2", file["state/2"][...].astype(int))(file), "state/2"),
    "many components": (
        lambda file: file.attrs.__setitem__("model", file.attrs["model"].replace("3", "1000000000000", 1)),
        "state/",
    ),
    "limits are one": (put_text("limits", "[1]"), "limits"),
    "limits are turned": (put_text("limits", "[5, 1]"), "limits"),
    "limits are text": (put_text("limits", '["a", "b"]'), ""),
    "history of text": (put_text("history", '[["a", 1, 2]]'), "history"),
    "version of before the first": (put_text("format_version", -1), "format_version"),
    "model is of another kind": (put_text("model", '{"class": "Ridge", "alpha": 0.1}'), "not a model of ratings"),
}


@pytest.fixture(scope="module")
def some_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.h5"
    completion.save_model(path, completion.fit(MODELS["als"], some_ratings(), key=jax.random.key(0), n_epochs=1))
    return path.read_bytes()


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_content_is_told_by_name(what, some_file, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(some_file)
    change, words = DAMAGE[what]
    with changed(path) as file:
        change(file)
    with pytest.raises(BadFileError, match=rf"m\.h5 .*({words or 'model'})"):
        completion.load_model(path)


def test_a_changed_file_is_told_by_its_checksum_and_one_without_is_read(some_file, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(some_file)
    want = completion.load_model(path).factors
    with changed(path):
        pass
    jax.tree.map(np.testing.assert_array_equal, completion.load_model(path).factors, want)
    path.write_bytes(some_file[:-1] + bytes([some_file[-1] ^ 1]))
    with pytest.raises(BadFileError, match=r"m\.h5 is damaged .*checksum"):
        completion.load_model(path)
