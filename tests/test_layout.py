"""Imports between the packages of jax_mmf run one way."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import jax_mmf

ROOT = Path(jax_mmf.__file__).parent
ORDER = ["typing", "defaults", "core", "penalties", "constraints", "codes", "learning", "io", "plotting", "training"]
ORDER += ["selection", "completion", "estimators", "fmri", "images", "extending", "datasets", "cli", "__main__"]
"""Each imports only what stands before it. The package's own `__init__` is free to import all of them."""
OUTSIDE = {"h5py", "threading", "concurrent", "queue", "multiprocessing", "time", "datetime"}
"""Files, threads and clocks: nothing before io imports these."""
ALLOWED = {("codes.chunks", "concurrent")}  # XLA runs the kernels of a program one after another: threads run programs


def modules():
    """The modules that each module of jax_mmf imports, by its name below jax_mmf."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = list(imports(ast.parse(path.read_text()), path))
    return found


def imports(tree, path):
    """Modules that a file imports, at its top or in its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:  # relative: from here, up by so many folders
                folder = path.relative_to(ROOT.parent).parts[: -node.level]
                source = ".".join([*folder, *filter(None, [node.module])])
            members = [f"{source}.{alias.name}" for alias in node.names]
            yield from ([m for m in members if is_module(m)] or [source])


def is_module(name):
    """Whether a dotted name is that of a file or a folder of the package."""
    path = ROOT.joinpath(*name.split(".")[1:])
    return name.startswith("jax_mmf.") and (path.is_dir() or path.with_suffix(".py").is_file())


def faults(found):
    """What breaks the rules, as sentences."""
    inside = {m: [i.removeprefix("jax_mmf.") for i in found[m] if i.split(".")[0] == "jax_mmf"] for m in found}
    packages = {m.split(".")[0] for m in found if "." in m}
    for module, targets in inside.items():
        own = module.split(".")[0]
        for target in targets:
            other = target.split(".")[0]
            if own not in ORDER or other == own:
                continue
            if other == "jax_mmf":  # the package as a whole, which holds all of it
                if ORDER.index(own) < ORDER.index("cli"):
                    yield f"{module} imports jax_mmf as a whole"
                continue
            if ORDER.index(other) > ORDER.index(own):
                yield f"{module} imports {target}, which stands after it in ORDER"
            if other in packages and target != other:
                yield f"{module} imports {target}, a module of another package, and not from its __init__"
        outside = OUTSIDE.intersection(i.split(".")[0] for i in found[module])
        if own in ORDER and ORDER.index(own) < ORDER.index("io"):
            yield from (f"{module} imports {name}" for name in outside if (module, name) not in ALLOWED)
    try:
        own = {m: [t for t in targets if t not in packages] for m, targets in inside.items() if m not in packages}
        TopologicalSorter(own).prepare()
    except CycleError as error:
        yield f"a cycle of modules: {error.args[1]}"


def test_imports_run_one_way():
    assert list(faults(modules())) == []


@pytest.mark.parametrize(
    ("module", "target", "fault"),
    [
        ("core.linalg", "jax_mmf.codes", "after it"),
        ("learning.surrogate", "jax_mmf", "as a whole"),
        ("codes.solvers", "jax_mmf.learning", "after it"),
        ("penalties", "jax_mmf.constraints", "after it"),
        ("training.fitting", "jax_mmf.learning.step", "another package"),
        ("learning.surrogate", "jax_mmf.learning.step", "cycle"),
        ("learning.step", "h5py", "imports h5py"),
        ("codes.solvers", "concurrent.futures", "imports concurrent"),
    ],
)
def test_an_import_that_is_turned_round_is_found(module, target, fault):
    found = modules()
    found[module] = [*found[module], target]
    assert any(fault in sentence for sentence in faults(found))


@pytest.mark.parametrize(("module", "old", "new"), [("io", "Model", "SavedModel"), ("completion", "update", "refit")])
def test_old_names_warn(module, old, new):
    package = getattr(jax_mmf, module)
    with pytest.warns(DeprecationWarning, match=f"jax_mmf.{module}.{old} is now jax_mmf.{module}.{new}"):
        assert getattr(package, old) is getattr(package, new)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_relative_imports_are_seen():
    tree = ast.parse("from ..training import fit\nfrom . import step\nimport jax_mmf")
    found = list(imports(tree, ROOT / "learning" / "surrogate.py"))
    assert found == ["jax_mmf.training", "jax_mmf.learning.step", "jax_mmf"]
