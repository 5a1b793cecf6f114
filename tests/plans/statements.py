"""The statements of the services, found in their code, so that no list of them has to be kept.

A place is the name of a constant, function or method, behind that of its module, in which the text of a statement
stands or a statement is compiled: `causeloop_vault.repository.secrets._LIST`.
"""

import ast
import re
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from causeloop_common.contracts import topology

PACKAGES = ("causeloop_common", *(f"causeloop_{service}" for service in topology.SERVICES))
_SQL = re.compile(r"\b(FROM|INSERT INTO|TRUNCATE|LOCK TABLE|UPDATE [a-z{])")
_READS = re.compile(r"\b(SELECT|INSERT INTO|DELETE|UPDATE|TRUNCATE|LOCK TABLE|PERFORM|EXISTS)\b")


def places() -> list[str]:
    """The places of all services and of what they share, in order."""
    return list(dict.fromkeys(place for package in PACKAGES for place in _places(package)))


def at(place: str) -> Any:
    """The object at a place; AttributeError where it is no constant or function of its module."""
    parts = place.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            module = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[length:], module)
    raise AttributeError(place)


def _places(package: str) -> Iterator[str]:
    folder = Path(import_module(package).__file__ or "").parent
    for file in sorted(folder.rglob("*.py")):
        names = [part for part in file.relative_to(folder).with_suffix("").parts if part != "__init__"]
        for name in _names(ast.parse(file.read_text()), ()):
            yield ".".join((package, *names, name))


def _names(node: ast.AST, inside: tuple[str, ...]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # a docstring
        if _is_statement(child):
            yield ".".join(inside)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _names(child, (*inside, child.name))
        elif not inside and isinstance(child, ast.Assign | ast.AnnAssign):
            target = child.targets[0] if isinstance(child, ast.Assign) else child.target
            yield from _names(child, (ast.unparse(target),))
        else:
            yield from _names(child, inside)


def _is_statement(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).startswith("Statement.")
    text = _text(node)
    return _SQL.search(text) is not None and _READS.search(text) is not None


def _text(node: ast.AST) -> str:
    """The text of a constant or an f-string, with `{}` for each of its values; else none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""
