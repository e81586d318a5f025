"""The report of fitted maps: one HTML file with its pictures inside."""

import base64
import inspect
from collections.abc import Iterable, Mapping
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from nilearn.surface import SurfaceImage

from jax_mmf.fmri import figures
from jax_mmf.io import written_aside

_PACKAGES = ("jax-mmf", "jax", "nilearn", "nibabel", "numpy", "scikit-learn")
_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #e1e5ea; --card: #fff; --page: #f5f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.6rem; margin: 0 0 4px; } h2 { font-size: 1.2rem; margin: 32px 0 12px; }
h3 { font-size: 1rem; margin: 0; } p { margin: 0 0 12px; color: var(--soft); }
section.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; margin-bottom: 6px; }
img { display: block; width: 100%; height: auto; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; margin: 16px 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
.facts dt { color: var(--soft); font-size: .8rem; } .facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
.maps { display: grid; gap: 14px; }
.title { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin-bottom: 6px; }
.title span { color: var(--soft); font-size: .88rem; }
.brain { max-width: 760px; margin: 0 auto; } .courses { display: grid; grid-template-columns: 2fr 1fr; gap: 8px; }
nav { display: flex; flex-wrap: wrap; gap: 4px; margin-bottom: 12px; }
nav a { color: var(--accent); background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 2px 9px; text-decoration: none; font-size: .88rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
td, th { text-align: left; padding: 4px 8px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; width: 1%; padding-right: 16px; }
tr.changed td { font-weight: 600; } summary { cursor: pointer; font-weight: 600; } details > table { margin-top: 8px; }
details { margin-bottom: 12px; }
@media (max-width: 640px) { .pair, .courses { grid-template-columns: 1fr; } main { padding: 16px 10px 32px; } }
@media print { .maps > section, figure { break-inside: avoid; } details { display: block; } }
"""


def write_report(maps: Any, path: str | Path) -> Path:
    """Write the report of a fitted `DictLearning`.

    Args:
      maps: the estimator.
      path: of the file, .html.

    Returns:
      the path.

    Raises:
      ValueError: if the file name has another ending.
      OSError: if the file can't be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path} must end in .html, the format that is written")
    with written_aside(path) as aside:
        aside.write_text(_page(maps), encoding="utf-8")
    return path


def _page(maps: Any) -> str:
    title = f"{maps.n_elements_} maps of {_counted(len(maps.scans_), 'scan')}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{_STYLE}</style></head><body><main>
<h1>{title}</h1>
<p>Dictionary learning of sparse spatial maps, by jax_mmf {version("jax-mmf")}.{_warning(maps)}</p>
{_facts(maps)}
<div class="pair">
{_figure(figures.variances(maps.explained_variance_ratio_), "Variance that each map explains by itself")}
{_figure(figures.convergence(maps.history_), "Convergence: objectives of mini-batches, and their running mean")}
</div>
<h2>Maps</h2>
<p>In the order of explained variance, each at its strongest cut: red is positive, blue is negative.
Time courses and spectra are those of {_first(maps)}.</p>
<nav aria-label="Maps">{"".join(f'<a href="#map-{i}">{i}</a>' for i in range(1, maps.n_elements_ + 1))}</nav>
<div class="maps">{"".join(_cards(maps))}</div>
<h2>How they were made</h2>
{_details("Parameters", _table(_parameters(maps)), opened=True)}
{_details("Versions", _table((name, version(name), False) for name in _PACKAGES))}
{_details("Input", _table((name, f"{n:,} frames", False) for name, n in maps.scans_))}
</main></body></html>
"""


def _warning(maps: Any) -> str:
    return "" if maps.stopped_by_ == "epochs" else " <strong>The run was stopped before its end.</strong>"


def _first(maps: Any) -> str:
    return escape(Path(maps.scans_[0][0]).name)


def _facts(maps: Any) -> str:
    n_frames = sum(n for _, n in maps.scans_)
    unit = "voxels" if figures.peak_of(maps.components_img_, 0) is not None else "vertices"
    facts = {
        "scans": f"{len(maps.scans_):,}",
        "frames": f"{n_frames:,}",
        unit: f"{maps.components_.shape[1]:,}",
        "variance explained": f"{100 * maps.total_explained_variance_ratio_:.1f} %",
        "size of a map": f"{100 * np.mean(maps.components_ != 0):.1f} %",
        "steps": f"{maps.n_steps_:,}",
        "learning": f"{maps.history_[-1].seconds:.1f} s",
    }
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _cards(maps: Any) -> Iterable[str]:
    background = figures.background_of(maps.mask_img_)
    for index in range(maps.n_elements_):
        course = maps.time_courses_[:, index]
        peak = figures.peak_of(maps.components_img_, index)
        facts = [f"{100 * maps.explained_variance_ratio_[index]:.2f} % of the variance"]
        facts += [f"{100 * np.mean(maps.components_[index] != 0):.1f} % not zero"]
        facts += [f"weights up to {np.abs(maps.components_[index]).max():.2g}"]
        facts += [] if peak is None else [f"strongest at {', '.join(f'{x:.0f}' for x in peak)} mm"]
        yield f"""<section class="card" id="map-{index + 1}"><div class="title"><h3>Map {index + 1}</h3>
{"".join(f"<span>{fact}</span>" for fact in facts)}</div>
<div class="brain">{_picture(figures.brain(maps.components_img_, index, background), f"map {index + 1}")}</div>
<div class="courses">{_picture(figures.time_course(course, maps.t_r), "time course")}
{_picture(figures.spectrum(course, maps.t_r), "spectrum")}</div></section>"""


def _parameters(maps: Any) -> Iterable[tuple[str, str, bool]]:
    """Yield name, value and whether it differs from the default, of each parameter; those that differ come first."""
    defaults: Mapping[str, Any] = inspect.signature(type(maps).__init__).parameters
    rows = []
    for name, value in maps.get_params(deep=False).items():
        text = _shown(value)
        rows.append((name, text, text != _shown(defaults[name].default)))
    yield from sorted(rows, key=lambda row: not row[2])
    yield "solver", " ".join(repr(maps.solver_).split()), False


def _shown(value: Any) -> str:
    """Return the file of an image, or the text of another value."""
    file = value.get_filename() if isinstance(value, SpatialImage) else None
    shape = f"image of shape {value.shape}" if isinstance(value, SpatialImage | SurfaceImage) else None
    return file or shape or " ".join(repr(value).split())


def _table(rows: Iterable[tuple[str, str, bool]]) -> str:
    lines = (
        f"<tr{' class=changed' if changed else ''}><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value, changed in rows
    )
    return f"<table>{''.join(lines)}</table>"


def _details(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{title}</summary>{content}</details>"


def _figure(png: bytes, caption: str) -> str:
    return f"<figure><figcaption>{caption}</figcaption>{_picture(png, caption)}</figure>"


def _picture(png: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
