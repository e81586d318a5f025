"""The examples of derivatives through codes keep what they say."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name, tmp_path):
    """What the example finds in its quick mode; its figure is drawn too."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figure = tmp_path / "figure.png"
    found = module.main(quick=True, figure=figure)
    assert figure.stat().st_size > 10_000
    return found


def test_dictionary_trained_for_the_labels_classifies_better(tmp_path):
    found = run_example("task_driven", tmp_path)
    pairs = list(zip(found["end_to_end"], found["unsupervised"], strict=True))
    assert all(trained > held for trained, held in pairs)
    assert sum(trained for trained, _ in pairs) / len(pairs) > 0.95


def test_gradient_finds_the_penalty_that_the_grid_finds(tmp_path):
    found = run_example("learned_penalty", tmp_path)
    assert found["gradient_error"] < 1.01 * found["grid_error"]
    assert found["n_solves"] <= 15
    assert found["held_out_per_atom"] < 0.99 * found["held_out_scalar"]


def test_trained_dictionary_inpaints_better_than_smoothness(tmp_path):
    pytest.importorskip("skimage")
    found = run_example("inpainting", tmp_path)
    smooth = max(found["total variation"], found["biharmonic"])
    assert found["dictionary, after"] > max(smooth + 1.5, found["dictionary, before"] + 0.3)
