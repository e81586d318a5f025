"""Random numbers: no key is used twice, and none is both drawn from and the parent of others."""

import collections
import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mmf as mmf
from jax_mmf import completion
from jax_mmf.core import HostStream, Stream, host_generator, stream_key

X = np.random.default_rng(0).standard_normal((24, 12)).astype("float32")
KEY = jax.random.key(3)
INITIALIZATIONS = [mmf.RandomSamples(), mmf.RandomizedSVD(n_oversamples=2, n_iter=1), mmf.KMeansPlusPlus()]
SUBSETS = [mmf.FullSubset(), mmf.UniformSubset(2), mmf.BlockSubset(2, n_blocks=3)]
MODELS = {
    "als": completion.ExplicitALS(n_components=2),
    "online": completion.ExplicitOnline(n_components=2, batch_size=8),
    "implicit": completion.ImplicitALS(n_components=2),
    "bpr": completion.BPR(n_components=2, batch_size=16),
}
DRAWS = ("bits", "categorical", "choice", "normal", "permutation", "randint", "split", "uniform")


def learn(subset, initialization=INITIALIZATIONS[0]):
    solver = mmf.OnlineFactorization(
        n_components=3, penalty=mmf.Ridge(0.1), subset=subset, initialization=initialization
    )
    return mmf.fit(solver, X, key=KEY, batch_size=8, n_epochs=2, held_out=4, revive_every=1, read_ahead=0)


def some_ratings():
    users, items = np.nonzero(np.random.default_rng(1).random((10, 6)) < 0.6)
    return completion.Ratings.from_triplets(users, items, 1 + (users + items) % 5)


@contextlib.contextmanager
def uses_of_keys(monkeypatch):
    """What is done with each key: what draws from it, and what it is folded with. Traced keys go by identity."""
    drawn, folded, alive = collections.defaultdict(set), collections.defaultdict(set), []

    def name_of(key):
        alive.append(key)
        return id(key) if isinstance(key, jax.core.Tracer) else data(key)

    def recording(name):
        function = getattr(jax.random, name)

        def call(key, *args, **options):
            drawn[name_of(key)].add((name, len(drawn[name_of(key)])))
            return function(key, *args, **options)

        return call

    fold = jax.random.fold_in

    def folding(key, number):
        folded[name_of(key)].add(id(number) if isinstance(number, jax.core.Tracer) else int(number))
        return fold(key, number)

    with monkeypatch.context() as patch:
        for name in DRAWS:
            patch.setattr(jax.random, name, recording(name))
        patch.setattr(jax.random, "fold_in", folding)
        yield drawn, folded


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def assert_sound(drawn, folded):
    assert len(drawn) > 0
    assert set(drawn) & set(folded) == set()
    assert [uses for uses in drawn.values() if len(uses) > 1] == []


@pytest.mark.parametrize("name", MODELS)
def test_no_key_of_a_model_is_drawn_from_and_folded(name, monkeypatch):
    model, ratings = MODELS[name], some_ratings()
    prepared = model.prepare(ratings)
    with uses_of_keys(monkeypatch) as (drawn, folded):
        state = jax.eval_shape(lambda key: model.init(key, prepared), KEY)
        assert_sound(drawn, folded)
        jax.eval_shape(lambda key, state: model.epoch(key, state, prepared), KEY, state)
    assert_sound(drawn, folded)


@mmf.register_configuration
@dataclasses.dataclass(frozen=True)
class Noise:
    """A model whose factors are drawn anew in each epoch."""

    scale: float = 1.0

    feedback = "explicit"

    def prepare(self, ratings, mesh=None):
        return np.zeros((ratings.n_users, 2)), np.zeros((ratings.n_items, 2))

    def init(self, key, prepared):
        one, other = jax.random.split(key)
        users, items = prepared
        zeros = [jnp.zeros(len(side)) for side in prepared]
        factors = [jax.random.normal(k, side.shape) for k, side in ((one, users), (other, items))]
        return completion.Factors(jnp.zeros(()), *zeros, *factors)

    def epoch(self, key, state, prepared):
        return state._replace(items=self.scale * jax.random.normal(key, state.items.shape))

    def resume(self, old, new, users, items):
        return new

    def fold_in(self, state, rows):
        raise AssertionError("a search folds no users in")

    def factors(self, state):
        return state


def test_no_key_of_a_search_and_its_fits_is_drawn_from_and_folded(monkeypatch):
    """The trials have other keys than the epochs of the last fit."""
    with uses_of_keys(monkeypatch) as (drawn, folded), jax.disable_jit():
        completion.search(Noise(), some_ratings(), {"scale": [0.5]}, key=KEY, n_folds=5, n_epochs=5)
    assert len(drawn) >= 5 * (1 + 2 + 5)
    assert_sound(drawn, folded)


def test_keys_of_revivals_are_those_of_nothing_else(monkeypatch):
    """Those of steps 1 and 2 were the parents of the subsets and of the orders of atoms once."""
    keys, revive = [], mmf.OnlineFactorization.revive

    def recording(self, key, *args):
        keys.append(key)
        return revive(self, key, *args)

    monkeypatch.setattr(mmf.OnlineFactorization, "revive", recording)
    learn(mmf.UniformSubset(2))
    streams = [jax.random.fold_in(KEY, tag) for tag in range(10)]
    others = streams + [jax.random.fold_in(stream, step) for stream in streams[:3] for step in range(10)]
    assert len({data(key) for key in keys}) == len(keys) == 6
    assert {data(key) for key in keys} & {data(key) for key in others} == set()


@pytest.fixture
def reuse_is_an_error():
    with jax.debug_key_reuse(True):
        yield


def test_the_checker_of_jax_is_on(reuse_is_an_error):
    key = jax.random.key(0)
    jax.random.normal(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.normal(key)


@pytest.mark.parametrize(("initialization", "subset"), list(zip(INITIALIZATIONS, SUBSETS, strict=True)), ids=str)
def test_jax_finds_no_key_of_a_run_used_twice(initialization, subset, reuse_is_an_error):
    result = learn(subset, initialization)
    assert np.isfinite(result.history[-1].objective)


@pytest.mark.parametrize("name", MODELS)
def test_jax_finds_no_key_of_a_completion_used_twice(name, reuse_is_an_error):
    fitted = completion.fit(MODELS[name], some_ratings(), key=KEY, n_epochs=2)
    assert np.isfinite(fitted.factors.items).all()


def test_streams_do_not_meet_in_their_numbers():
    """Nor does a number of one with the tag of another: those of revivals were the steps themselves once."""
    keys = [stream_key(KEY, stream, number) for stream in Stream for number in range(6)]
    keys += [stream_key(KEY, stream) for stream in Stream]
    assert len({data(key) for key in keys}) == len(keys)
    first = [host_generator(KEY, stream, number).random() for stream in HostStream for number in range(6)]
    assert len(set(first)) == len(first)


def test_streams_of_a_run_are_those_of_before():
    """The numbers that seeds of a run have stand for: results of a key, and runs that go on from files."""
    assert [int(jax.random.bits(stream_key(KEY, s))) for s in list(Stream)[:3]] == [
        int(jax.random.bits(jax.random.fold_in(KEY, tag))) for tag in (0, 1, 2)
    ]
    words = np.asarray(jax.random.key_data(KEY)).tolist()
    before = {(): HostStream.PERMUTATION, (1,): HostStream.HELD_OUT, (11,): HostStream.SPLIT}
    for tags, stream in before.items():
        assert host_generator(KEY, stream).random() == np.random.default_rng([*words, *tags]).random()
    for tag, stream in ((2, HostStream.EPOCH), (3, HostStream.DRAW)):
        assert host_generator(KEY, stream, 7).random() == np.random.default_rng([*words, tag, 7]).random()


@pytest.mark.parametrize("seed", [0, np.int64(3), jnp.asarray(1)])
def test_an_integer_is_no_key(seed):
    x = np.ones((8, 6), np.float32)
    solver = mmf.OnlineFactorization(n_components=2)
    for call in (
        lambda: mmf.fit(solver, x, key=seed),
        lambda: solver.init(seed, samples=x),
        lambda: mmf.datasets.make_sparse_codes(seed, 8, 6, 2),
        lambda: mmf.selection.choose(solver, x, x, key=seed, alphas=[0.1]),
        lambda: mmf.selection.hidden_errors(x[:2], x, mmf.Lasso(0.1), key=seed),
    ):
        with pytest.raises(TypeError, match="key must be a PRNG key"):
            call()
