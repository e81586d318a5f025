"""Results as results.json, figures and a report in Markdown; parts that were not run keep their earlier results.

A record is a dict: part, problem, setting, threads, contestant; seconds and ratio (summaries), first_seconds,
peak_rss_bytes, quality (numbers by name), result; or error. Other fields of a record appear in results.json only: see
`benchmarks.results`.
"""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from benchmarks.harness import DEVICE, ROOT, environment, openblas_core_type
from benchmarks.results import load, replace, save

Record = dict[str, Any]
PACKAGES = (
    "jax-mmf", "jax", "jaxlib", "numpy", "scipy", "spams-bin", "spams", "scikit-learn", "scikit-image", "celer",
    "skglm", "numba", "jaxopt", "optax", "tensorly", "brainspace", "h5py", "threadpoolctl", "scikit-surprise", "cmfrec",
    "myfm", "smurff", "implicit", "recbole", "nilearn", "nimfa", "lda",
)  # fmt: skip


_FEW_TICKS, _FEW_LINES, _COLORS = 8, 4, 8
_SHORT = 200.0  # range of a logarithmic axis that has room for more labels than powers of ten


class Panel(NamedTuple):
    """Curves of one axes: ``{label: [(x, y), ...]}``."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[tuple[float, float]]]
    x_log: bool = True
    y_log: bool = True


def records_of(part: str, problem: str, setting: str, outcomes: Sequence[dict[str, Any]], **more: Any) -> list[Record]:
    """Records from the outcomes of a race."""
    common = {"part": part, "problem": problem, "setting": setting}
    return [
        {**common, "contestant": outcome["name"], **{n: v for n, v in outcome.items() if n != "name"}, **more}
        for outcome in outcomes
    ]


def machine() -> dict[str, Any]:
    """What figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "commit": _git("describe", "--always", "--dirty"),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "device": os.environ.get(DEVICE, "cpu"),
        "environment": {
            "of one thread": environment(1, jax=True),
            "of packages with an old OpenBLAS": openblas_core_type(),
            "inherited": {n: os.environ[n] for n in ("XLA_FLAGS", "GLIBC_TUNABLES") if n in os.environ},
        },
    }


def write(output: Path, part: str, module: ModuleType, records: Sequence[Record], options: dict[str, Any]) -> None:
    """Put a part that was run in place of what was there of it."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "results.json"
    kernels = sorted({kernel for record in records for kernel in record.get("kernels", ())})
    section = {"options": options, "machine": machine(), "kernels": kernels, "records": list(records)}
    save(path, load(path) | {part: section})
    redraw(output, {part: module})


def redraw(output: Path, modules: dict[str, ModuleType]) -> None:
    """Figures of some parts, and the report, from results.json."""
    results = load(output / "results.json")
    for part, module in modules.items():
        section = results[part]
        section["description"] = (module.__doc__ or "").strip()
        panels = module.panels(section["records"]) if hasattr(module, "panels") else []
        section.pop("figure", None)
        if panels:
            section["figure"] = f"{part}.png"
            draw(panels, output / section["figure"], getattr(module, "COLUMNS", None))
    save(output / "results.json", results)
    devices = {_device(section["records"]) for section in results.values()} - {""}
    title = " on ".join(["# Benchmarks", *sorted(devices)])
    replace(output / "index.md", "\n\n".join([title, *(_section(n, s) for n, s in results.items())]) + "\n")


def draw(panels: Sequence[Panel], path: Path, columns: int | None = None) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    # The panels of one problem stand in a row, and share a legend if it is long.
    of_one_problem = [panel.title for panel in panels].count(panels[0].title)
    columns = columns or (of_one_problem if of_one_problem > 1 else min(3, len(panels)))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 4 * rows), squeeze=False, layout="constrained")
    for number_of_panel, (ax, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        for number, (label, points) in enumerate(panel.lines.items()):
            x, y = zip(*sorted(points), strict=True)
            style = "-" if number < _COLORS else "--"
            ax.plot(x, y, style, color=f"C{number % _COLORS}", marker="o", markersize=3, label=label)
        ax.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        ax.set(xscale="log" if panel.x_log else "linear", yscale="log" if panel.y_log else "linear")
        ticks = sorted({x for points in panel.lines.values() for x, _ in points})
        if len(ticks) <= _FEW_TICKS:
            ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
            ax.set_xticks([], minor=True)
        elif panel.x_log and max(ticks) < _SHORT * min(ticks):
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(visible=True, color="0.92")
        is_last = number_of_panel % columns == columns - 1 or number_of_panel == len(panels) - 1
        if len(panel.lines) <= _FEW_LINES:
            ax.legend(fontsize=7, frameon=False)
        elif is_last:
            ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _section(part: str, section: dict[str, Any]) -> str:
    host, options, records = section["machine"], section["options"], section["records"]
    packages = ", ".join(f"{name} {number}" for name, number in host["packages"].items())
    device = _device(records) or host["device"]
    said = ", ".join(f"{name} {value}" for name, value in options.items())
    conditions = (
        f"{host['date']}, commit {host['commit']}; {host['cpu']}, {host['cores']} cores, JAX on {device};"
        f" {said}. Python {host['python']}, {packages}."
    ) + (f" Kernels: {', '.join(section['kernels'])}." if section.get("kernels") else "")
    blocks = [f"## {part.capitalize()}", section["description"], conditions]
    if "figure" in section:
        blocks.append(f"![{part}]({section['figure']})")
    for problem in dict.fromkeys(r["problem"] for r in records):
        own = [r for r in records if r["problem"] == problem]
        blocks += [f"### {problem}", _table([r for r in own if "error" not in r])]
        failed = [
            f"- {r['contestant']} ({r['setting']}, {r['threads']} threads): {r['error']}" for r in own if "error" in r
        ]
        blocks += ["Failed:", "\n".join(failed)] if failed else []
    return "\n\n".join(block for block in blocks if block)


def _device(records: Sequence[Record]) -> str:
    """The accelerator that contestants ran on; nothing on the CPU."""
    return ", ".join(sorted({r["device"] for r in records if r.get("device", "cpu") != "cpu"}))


def _table(records: Sequence[Record]) -> str:
    """A row per record, and a column for each thing that any of them tells."""
    if not records:
        return ""
    rows = [_row(record) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---" if name in ("setting", "contestant") else "---:" for name in columns]]
    lines += [[row.get(name, "") for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(record: Record) -> dict[str, str]:
    measured_on = record.get("result", {}).get("measured_on")
    name = record["contestant"] + (f" ({measured_on})" if measured_on else "")
    row = {"setting": record["setting"], "threads": str(record["threads"]), "contestant": name}
    if "seconds" in record:
        unit, factor = ("ms", 1e3) if record["seconds"]["median"] < 1 else ("s", 1.0)
        row["time (quartiles)"] = _spread(record["seconds"], factor, f" {unit}")
    if "ratio" in record:
        row["of the reference's (quartiles)"] = _spread(record["ratio"], 1.0, " x")
    if "first_seconds" in record:
        row["first run"] = f"{record['first_seconds']:.3g} s"
    if "peak_rss_bytes" in record:
        row["peak memory"] = f"{record['peak_rss_bytes'] / 1e6:,.0f} MB"
    return row | {name.replace("_", " "): f"{value:.3g}" for name, value in record.get("quality", {}).items()}


def _spread(values: dict[str, float], factor: float, unit: str) -> str:
    median, q1, q3 = (f"{factor * values[name]:.3g}" for name in ("median", "q1", "q3"))
    return f"{median}{unit} ({q1} to {q3})"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
