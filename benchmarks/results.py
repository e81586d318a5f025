"""results.json: by part, what was measured and how; a table with a record on each line, so that diffs are of records.

`pandas.DataFrame(part["records"], columns=part["columns"])` reads the records of a part. ``seconds.median`` is the
``median`` in the ``seconds`` of a record, and null is what a record does not have.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_DIGITS, _CURVE_DIGITS = 5, 6  # the report shows three; figures, curves relative to the best of them, from 1e-4
_SHOWN = {"seconds": ("median", "q1", "q3"), "ratio": ("median", "q1", "q3"), "result": ("measured_on",)}
_NOT_KEPT = ("part", "kernels", "setup_rss_bytes")  # the first two are those of the section


def load(path: Path) -> dict[str, Any]:
    """Sections by part; ``records`` of each are dicts. Empty if there is no such file."""
    results = json.loads(path.read_text()) if path.exists() else {}
    for part, section in results.items():
        columns = section.pop("columns")
        section["records"] = [{"part": part} | _nested(columns, row) for row in section["records"]]
    return results


def save(path: Path, results: dict[str, Any]) -> None:
    """Write sections as `load` reads them, with fewer digits."""
    sections = [f"{_text(part)}: {{\n{_section(section)}\n}}" for part, section in results.items()]
    replace(path, "{\n" + ",\n".join(sections) + "\n}\n")


def replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text)
    aside.replace(path)


def _section(section: dict[str, Any]) -> str:
    rows = [_flat(record) for record in section["records"]]
    columns = _columns(rows)
    lines = {name: _text(value) for name, value in section.items() if name != "records"}
    lines["columns"] = _text(columns)
    lines["records"] = "[\n" + ",\n".join(_text([row.get(name) for name in columns]) for row in rows) + "\n]"
    return ",\n".join(f"{_text(name)}: {text}" for name, text in lines.items())


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """All columns; those of one name together, in the order of the records, which the report keeps."""

    def name_of(column: str) -> str:
        return column.partition(".")[0]

    names = _merged([map(name_of, row) for row in rows])
    return [c for n in names for c in _merged([(column for column in row if name_of(column) == n) for row in rows])]


def _merged(rows: Iterable[Iterable[str]]) -> list[str]:
    """All that rows have, each behind what it follows in its row."""
    merged: list[str] = []
    for row in rows:
        place = 0
        for name in row:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    return merged


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """``{"seconds.median": 0.1, ...}``: one level; what is deeper stays in its cell."""
    flat = {}
    for name, value in record.items():
        digits = _CURVE_DIGITS if "curve" in name else _DIGITS
        if name in _NOT_KEPT or (name, value) == ("device", "cpu"):
            continue
        if isinstance(value, dict):
            shown = _SHOWN.get(name, value)
            flat |= {f"{name}.{key}": _rounded(inner, digits) for key, inner in value.items() if key in shown}
        else:
            flat[name] = _rounded(value, digits)
    return flat


def _nested(columns: list[str], row: list[Any]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for column, value in zip(columns, row, strict=True):
        name, dot, key = column.partition(".")
        if value is not None:
            (record.setdefault(name, {}) if dot else record)[key or name] = value
    return record


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner, digits) for key, inner in value.items()}
    return [_rounded(inner, digits) for inner in value] if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
