"""Sphinx extension: the page `reference/errors` lists the text of every error and warning of the source code."""

import ast
import re
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

PAGE = "reference/errors"
PLACEHOLDER_LENGTH = 24
MARKUP = re.compile(r"[\\`*_{}\[\]()<>#$|~]")


class Message(NamedTuple):
    """A text that the library raises or warns with; what varies is in braces."""

    package: str
    kind: str
    text: str


def messages(package):
    """Collect the messages of a package, in the order of its files."""
    root = Path(find_spec(package).submodule_search_locations[0])
    found = {}
    for path in sorted(root.rglob("*.py")):
        name = ".".join([package, path.relative_to(root).with_suffix("").parts[0]])
        found.update(dict.fromkeys(messages_of(path.read_text(encoding="utf-8"), name.removesuffix(".__init__"))))
    return list(found)


def messages_of(source, package):
    """Yield the messages in the source code of a module."""
    tree = ast.parse(source)
    constants = _constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            kind = _kind(node)
            for text in _texts(node.args[0], constants) if kind else ():
                if " " in text:
                    yield Message(package, kind, " ".join(text.split()))


def _constants(tree):
    """Return the texts that a module has names for."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {node.targets[0].id: text for node in assigned for text in _texts(node.value, {})}


def _kind(call):
    """Return the name of the class of the exception or warning that a call makes, or None."""
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if name == "warn":
        kinds = [ast.unparse(argument) for argument in call.args[1:2]]
        return kinds[0] if kinds and kinds[0].isidentifier() else "UserWarning"
    return name if name.endswith(("Error", "Warning", "Exception", "BadParameter")) else None


def _texts(node, constants):
    """Return the texts that an expression may have; none if it is not made of literal text."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name) if name in constants:
            return [constants[name]]
        case ast.JoinedStr(values=parts):
            return ["".join(_part(part, constants) for part in parts)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            ends = _texts(right, constants) or [_placeholder(right)]
            return [start + end for start in _texts(left, constants) for end in ends]
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body, constants) + _texts(orelse, constants)
    return []


def _part(part, constants):
    if isinstance(part, ast.Constant):
        return part.value
    if isinstance(part.value, ast.Name) and part.value.id in constants:
        return constants[part.value.id]
    return _placeholder(part.value)


def _placeholder(node):
    """Return an expression in braces: as it is written if that is short, else the last name in it."""
    written = ast.unparse(node)
    if len(written) > PLACEHOLDER_LENGTH or "\n" in written or "'" in written:
        names = [
            n.id if isinstance(n, ast.Name) else n.attr
            for n in ast.walk(node)
            if hasattr(n, "id") or hasattr(n, "attr")
        ]
        written = names[-1] if names else "value"
    return f"{{{written}}}"


def _escaped(text):
    """Return Markdown that shows the text as it is: options of commands as code, so that their hyphens stay."""
    parts = re.split(r"(--[a-z][a-z-]*)", text)
    return "".join(f"`{part}`" if part.startswith("--") else MARKUP.sub(r"\\\g<0>", part) for part in parts)


def append(app, docname, source):
    """Append the messages to the page, a section for each package."""
    if docname != PAGE:
        return
    sections = defaultdict(list)
    for message in messages("jax_mmf"):
        sections[message.package].append(f"- {_escaped(message.text)} (`{message.kind}`)")
    source[0] += "".join(f"\n## {package}\n\n" + "\n".join(lines) + "\n" for package, lines in sorted(sections.items()))


def setup(app):
    app.connect("source-read", append)
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: {PAGE})
    return {"parallel_read_safe": True}
