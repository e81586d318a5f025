"""Figures: they get written, whole, and show every run."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import jax_mmf as mmf
from jax_mmf.plotting import (
    composite,
    new_figure,
    plot_convergence,
    plot_eigenvalues,
    plot_history,
    plot_matches,
    plot_path,
    plot_sparsity,
    plot_spectra,
    plot_stability,
    save_figure,
)


def history(scale=1.0, n=5):
    return [mmf.Record(i, i * 16, 1, 0.1 * i, i * 1000, scale / i, 0) for i in range(1, n + 1)]


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml"), ("", b"\x89PNG")]
)
def test_history_is_written_in_the_format_of_the_ending(suffix, magic, tmp_path):
    path = tmp_path / f"figure{suffix}"
    plot_history(path, {"one": history(), "two": history(2)}, title="A title")
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]
    plot_history(str(path), {"one": history()})
    assert path.read_bytes().startswith(magic)


NAN = [r._replace(objective=float("nan")) for r in history()]
EDGE = {
    "no runs": {},
    "empty history": {"one": []},
    "one of two is empty": {"one": [], "two": history()},
    "one record": {"one": history(n=1)},
    "nan": {"one": NAN},
    "nan at first": {"one": NAN[:1] + history()[1:]},
    "zero": {"one": [r._replace(objective=0.0) for r in history()]},
    "constant": {"one": [r._replace(objective=2.0) for r in history()]},
    "label with markup": {"$x_1$ & <b>": history()},
}


@pytest.mark.parametrize("what", EDGE)
def test_degenerate_histories_are_drawn(what, tmp_path):
    plot_history(tmp_path / "figure.png", EDGE[what])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("against", ["seconds", "bytes_read", "n_samples"])
def test_curves_are_the_records(against):
    axes = Figure().subplots()
    runs = {"one": history(), "two": history(3, n=4)}
    plot_convergence(runs, against=against, ax=axes)
    lines = {line.get_label(): line for line in axes.lines}
    for name, records in runs.items():
        unit = 1e-9 if against == "bytes_read" else 1
        np.testing.assert_allclose(lines[name].get_xdata(), [getattr(r, against) * unit for r in records])
        np.testing.assert_allclose(lines[name].get_ydata(), [r.objective for r in records])
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert lines["one"].get_color() != lines["two"].get_color()


@pytest.mark.parametrize("last", [1.15, 1.9, 3.0, 5.0, 30.0, 900.0])
@pytest.mark.parametrize("against", ["seconds", "bytes_read"])
def test_ticks_are_a_few_plain_numbers(against, last):
    axes = Figure(figsize=(4.5, 3)).subplots()
    steps = np.geomspace(1, last, 10)
    records = [mmf.Record(i, i, 1, t, int(1e9 * t), 1 / t, 0) for i, t in enumerate(steps.tolist(), 1)]
    plot_convergence({"one": records}, against=against, ax=axes)
    axes.figure.draw_without_rendering()
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        ticks = [tick for tick in axis.get_ticklabels(which="both") if tick.get_text()]
        inside = [tick.get_text() for tick in ticks if low <= float(tick.get_text()) <= high]  # no 2 x 10^0 among them
        assert 2 <= len(inside) <= 10
        assert len(set(inside)) == len(inside)


def test_bytes_of_data_in_memory_are_zero_on_a_linear_axis():
    axes = Figure().subplots()
    plot_convergence({"one": [r._replace(bytes_read=0) for r in history()]}, against="bytes_read", ax=axes)
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")


def test_paths_are_in_the_order_of_strengths():
    candidates = [
        SimpleNamespace(n_components=4, alpha=alpha, explained_variance=1 - alpha, density=alpha)
        for alpha in (0.1, 0.9, 0.5)
    ]
    ax = plot_path(candidates, ax=Figure().subplots())
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.9, 0.5, 0.1])
    for plot, match in ((plot_path, "candidates must hold at least one"), (plot_stability, "stabilities must hold")):
        with pytest.raises(ValueError, match=match):
            plot([], ax=ax)


def test_a_run_of_one_record_is_a_dot():
    axes = Figure().subplots()
    plot_convergence({"short": history(n=1), "long": history()}, ax=axes)
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["short"].get_marker() == "o"


@pytest.mark.parametrize("n", [6, 7, 13])
def test_every_run_is_drawn(n):
    axes = Figure().subplots()
    plot_convergence({f"run {i}": history(i + 1) for i in range(n)}, ax=axes)
    drawn = {line.get_label() for line in axes.lines}
    assert {f"run {i}" for i in range(n)} <= drawn


def test_best_is_that_of_all_runs_also_if_one_holds_nan():
    axes = Figure().subplots()
    plot_convergence({"bad": NAN, "good": history()}, ax=axes)
    heights = [line.get_ydata()[0] for line in axes.lines if line.get_label() not in ("bad", "good")]
    np.testing.assert_allclose(heights, [0.2 * 1.01])


def test_unknown_axis():
    with pytest.raises((ValueError, KeyError), match="epochs"):
        plot_convergence({"one": history()}, against="epochs", ax=Figure().subplots())


def test_unknown_format_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="xyz"):
        plot_history(tmp_path / "figure.xyz", {"one": history()})
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"figure\.png"):
        plot_history(tmp_path / "none" / "figure.png", {"one": history()})


def test_figures_do_not_touch_pyplot(tmp_path):
    import matplotlib.pyplot as plt

    figure, axes = new_figure(2, 3)
    assert axes.shape == (2, 3)
    save_figure(figure, tmp_path / "figure.png")
    assert plt.get_fignums() == []
    assert new_figure(0, 0)[1] is None


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"jax-mmf\[plot\]"):
        plot_history(tmp_path / "figure.png", {"one": history()})


def test_composites_are_grey_at_zero_and_full_at_the_largest_value():
    patches = np.random.default_rng(0).standard_normal((4, 2, 3, 5))
    patches[1] = 0
    picture = composite(patches, (4, 0, 2))
    assert picture.shape == (4, 2, 3, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    np.testing.assert_array_equal(picture[1], 0.5)
    for k in (0, 2, 3):
        rgb = patches[k][..., [4, 0, 2]]
        np.testing.assert_allclose(2 * picture[k] - 1, rgb / np.abs(rgb).max())


def test_bars_are_the_numbers_of_samples():
    codes = np.random.default_rng(0).random((200, 12)) * (np.random.default_rng(1).random((200, 12)) < 0.3)
    ax = Figure().subplots()
    assert plot_sparsity(codes, ax=ax) is ax
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in ax.patches}
    numbers, counts = np.unique((codes != 0).sum(1), return_counts=True)
    assert {n: c for n, c in bars.items() if c} == dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    np.testing.assert_allclose(ax.lines[0].get_xdata(), (codes != 0).sum(1).mean())
    with pytest.raises(ValueError, match="codes"):
        plot_sparsity(codes[0])


def test_eigenvalues_are_those_of_codes_and_rounding_is_left_out():
    codes = np.random.default_rng(0).standard_normal((50, 6)) * [9, 5, 3, 1, 0.5, 0]
    ax = plot_eigenvalues(codes.T @ codes / 50, ax=Figure().subplots())
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.linalg.svd(codes)[1][:5] ** 2 / 50)
    assert ax.get_legend().get_texts()[0].get_text() == "5 of 6 are positive"
    assert len(plot_eigenvalues(np.zeros((3, 3)), ax=Figure().subplots()).lines[0].get_ydata()) == 0
    for bad in (np.ones((2, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="c must be"):
            plot_eigenvalues(bad, ax=Figure().subplots())


def test_legends_of_many_lines_lie_inside_of_the_axes():
    ax = Figure(figsize=(8, 2.6)).subplots()
    plot_spectra(np.random.default_rng(0).random((16, 30)), ax=ax)
    ax.figure.draw_without_rendering()
    legend, own = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert own.y0 <= legend.y0
    assert legend.y1 <= own.y1


def test_matched_atoms_are_on_the_diagonal():
    rng = np.random.default_rng(0)
    reference = np.linalg.qr(rng.standard_normal((20, 5)))[0].T
    order = rng.permutation(5)
    other = np.concatenate([-3 * reference[order], rng.standard_normal((2, 20))])
    ax = plot_matches(other, reference, ax=Figure().subplots())
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape == (5, 7)
    np.testing.assert_allclose(shown[:, :5], np.eye(5), atol=1e-12)
    assert ax.get_title() == "mean cosine of pairs: 1.00"
    few = np.asarray(plot_matches(other[:2], reference, ax=Figure().subplots()).images[0].get_array())
    np.testing.assert_allclose(few[:2], np.eye(2), atol=1e-12)
    with pytest.raises(ValueError, match="reference"):
        plot_matches(other, reference[:, :3])
