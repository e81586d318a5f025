"""What surrounds the package says the same as the package: checks, workflows, versions, results of benchmarks."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = [ROOT / "docs/notes/benchmarks/results.json", ROOT / "docs/notes/benchmarks/h100/results.json"]
RECORD = {
    "part": "codes", "problem": "k = 4", "setting": "lasso", "contestant": "ours", "threads": 1, "device": "cpu",
    "setup_rss_bytes": 7, "kernels": ["old"], "seconds": {"median": 0.123456789, "min": 0.1, "q1": 0.1, "q3": 0.2},
    "result": {"scale": 2}, "quality": {"objective": 1.0}, "curve": {"seconds": [0.1234567, 2.0], "n_samples": [8, 9]},
}  # fmt: skip


def read(path):
    return (ROOT / path).read_text()


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import results

    return results


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def test_all_checks_run_the_commands_of_the_readme_and_the_supported_versions():
    run = read(".ci/run")
    for needle in re.findall(r'grep -F "(.+?)" README.md', run):
        assert read("README.md").count(needle) == 1
    assert "pip install '.[test]' && pytest" in read("README.md")
    assert re.search(r"^\.ci/matrix", run, re.MULTILINE)


def test_the_workflow_calls_all_checks_and_the_environments_of_the_matrix():
    workflow, matrix = read(".github/workflows/ci.yml"), read(".ci/matrix")
    assert "bash .ci/run" in workflow
    assert "bash .ci/matrix ${{ matrix.python }}:${{ matrix.packages }}" in workflow
    found = re.findall(r'python: "(.+?)", packages: (\w+)', workflow)
    assert [":".join(pair) for pair in found] == re.search(r"set -- (.+)", matrix)[1].split()
    for name in re.search(r"for name in (.+); do", matrix)[1].split():
        assert (ROOT / f"tests/test_{name}.py").exists()


def test_the_pythons_of_the_matrix_are_those_of_the_package():
    pythons = re.findall(r"(3\.\d+):\w+", re.search(r"set -- (.+)", read(".ci/matrix"))[1])
    declared = [c.rpartition(" ")[2] for c in project()["classifiers"] if "Python :: 3." in c]
    assert sorted(pythons) == sorted(declared)
    assert project()["requires-python"] == f">={min(declared, key=lambda v: int(v[2:]))}"


def test_oldest_versions_are_those_of_the_page():
    bounds = dict(line.split(">=") for line in project()["dependencies"])  # the form that .ci/matrix pins
    table = re.findall(r"^\| ([\w ]+?) \| ([\d.]+) \| [\d.]+ \|$", read("docs/reference/support.md"), re.MULTILINE)
    page = {name.split()[0].lower(): oldest for name, oldest in table}
    assert page.pop("python") == project()["requires-python"].removeprefix(">=")
    assert page["jax"].startswith(bounds["jax"])
    assert bounds["jax"] == bounds.pop("jaxlib")
    assert {name: bounds[name] for name in page if name != "jax"} == {n: v for n, v in page.items() if n != "jax"}
    assert page.keys() == bounds.keys()


def test_the_installation_page_has_all_extras():
    rows = re.findall(r"^\| (`.+?) \|", read("docs/learn/install.md"), re.MULTILINE)
    found = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(found) == sorted(project()["optional-dependencies"])


@pytest.mark.parametrize("path", RESULTS, ids=["cpu", "h100"])
def test_results_of_benchmarks_have_a_record_on_a_line(path):
    text = path.read_text()
    sections = json.loads(text)
    assert len(text) < 270_000
    lines = set(text.splitlines())
    for section in sections.values():
        for record in section["records"]:
            row = json.dumps(record, separators=(",", ":"))
            assert {row, row + ","} & lines
            assert len(record) == len(section["columns"])


@pytest.mark.parametrize("path", RESULTS, ids=["cpu", "h100"])
def test_results_that_are_read_and_written_are_the_same_file(path, results, tmp_path):
    results.save(tmp_path / "results.json", results.load(path))
    assert (tmp_path / "results.json").read_text() == path.read_text()


def test_results_keep_what_the_report_shows(results, tmp_path):
    failed = {
        "part": "codes",
        "problem": "k = 4",
        "setting": "lasso",
        "contestant": "peer",
        "threads": 1,
        "error": "no",
    }
    results.save(tmp_path / "results.json", {"codes": {"kernels": ["old"], "records": [RECORD, failed]}})
    section = results.load(tmp_path / "results.json")["codes"]
    assert section["kernels"] == ["old"]
    kept, error = section["records"]
    assert error == failed
    assert kept == {
        "part": "codes", "problem": "k = 4", "setting": "lasso", "contestant": "ours", "threads": 1,
        "seconds": {"median": 0.12346, "q1": 0.1, "q3": 0.2}, "quality": {"objective": 1.0},
        "curve": {"seconds": [0.123457, 2.0], "n_samples": [8, 9]},
    }  # fmt: skip


def test_the_citation_has_the_version_and_the_licence_of_the_package():
    citation = dict(line.split(": ", 1) for line in read("CITATION.cff").splitlines() if re.match(r"[a-z-]+: ", line))
    assert citation["version"] == project()["version"]
    assert citation["license"] == project()["license"]


def test_a_release_is_checked_before_it_is_published():
    release = read(".github/workflows/release.yml")
    steps = [
        release.index(step) for step in ("python -m build", "twine check", ".ci/smoke.py", "gh-action-pypi-publish")
    ]
    assert steps == sorted(steps)
