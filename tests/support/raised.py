"""The errors that a use case may raise, read from its source.

From the use case the calls are followed through its service's package: to methods of `self` and of the arguments of
`__init__`, to functions of the package's modules, and to every method of that name where the receiver's type is not
written down. An error counts where it is made (`NotFound(…)`), and `tx.publish` as `AuditUnavailable`, for an act that
cannot be recorded. Calls over the bus are not followed.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from causeloop_common.errors import AppError

KINDS = {kind.__name__: kind for kind in AppError.kinds()}
_COMMON = frozenset({"get", "keep", "of", "answer", "transaction", "call", "add", "pop"})
"""Methods of receivers that are not the package's own, whatever it calls alike."""


@dataclass
class Function:
    """A function, or a method of the class `owner`."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    owner: str | None


@dataclass
class Package:
    """The functions of a package, and the types of its classes' attributes."""

    functions: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    protocols: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path) -> "Package":
        """The package in this folder."""
        package = cls()
        for path in sorted(folder.rglob("*.py")):
            package._read_module(ast.parse(path.read_text()))
        return package

    def errors(self, use_case: str) -> set[type[AppError]]:
        """The errors that a method named so in exactly one service class may raise."""
        (start,) = (
            name for name, function in self.functions.items() if function.owner and name.endswith(f".{use_case}")
        )
        found: set[type[AppError]] = set()
        seen, waiting = {start}, [start]
        while waiting:
            function = self.functions[waiting.pop()]
            for call in (node for node in ast.walk(function.node) if isinstance(node, ast.Call)):
                found |= set(_made(call))
                for name in set(self._called(call, function)) - seen:
                    seen.add(name)
                    waiting.append(name)
        return found

    def _read_module(self, module: ast.Module) -> None:
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions[node.name] = Function(node, None)
            if isinstance(node, ast.ClassDef):
                attributes = self.attributes.setdefault(node.name, {})
                if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
                    self.protocols.add(node.name)
                for method in node.body:
                    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                        self.functions[f"{node.name}.{method.name}"] = Function(method, node.name)
                        if method.name == "__init__":
                            attributes.update(_attributes(method))

    def _called(self, call: ast.Call, function: Function) -> Iterator[str]:
        """The package's functions that a call may reach: what is called, and methods of `self` that it is given."""
        for argument in call.args:
            match argument:
                case ast.Attribute(ast.Name("self"), method) if f"{function.owner}.{method}" in self.functions:
                    yield f"{function.owner}.{method}"
                case _:
                    pass
        match call.func:
            case ast.Name(name):
                yield from (known for known in (name, f"{name}.__init__") if known in self.functions)
            case ast.Attribute(ast.Name("self"), method) if f"{function.owner}.{method}" in self.functions:
                yield f"{function.owner}.{method}"
            case ast.Attribute(ast.Attribute(ast.Name("self"), attribute), method):
                kind = self.attributes.get(function.owner or "", {}).get(attribute)
                if kind in self.protocols:
                    yield from self._named(method)
                elif f"{kind}.{method}" in self.functions:
                    yield f"{kind}.{method}"
            case ast.Attribute(_, method) if method not in _COMMON:
                yield from self._named(method)

    def _named(self, method: str) -> Iterator[str]:
        """Every function of a name, but use cases: nobody calls those on what the way there does not show."""
        for name, function in self.functions.items():
            arguments = [argument.arg for argument in function.node.args.args]
            if name.rpartition(".")[2] == method and arguments[:2] != ["self", "ctx"]:
                yield name


def _attributes(init: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    """The attributes that get an argument, or an object made in place, with its type."""
    annotated = {
        argument.arg: argument.annotation.id
        for argument in (*init.args.args, *init.args.kwonlyargs)
        if isinstance(argument.annotation, ast.Name)
    }
    for node in ast.walk(init):
        match node:
            case ast.Assign([ast.Attribute(ast.Name("self"), attribute)], ast.Name(argument)) if argument in annotated:
                yield attribute, annotated[argument]
            case ast.Assign([ast.Attribute(ast.Name("self"), attribute)], ast.Call(ast.Name(kind))):
                yield attribute, kind
            case _:
                pass


def _made(call: ast.Call) -> Iterator[type[AppError]]:
    match call.func:
        case ast.Name(name) | ast.Attribute(ast.Name(name), "of") if name in KINDS:
            yield KINDS[name]
        case ast.Attribute(ast.Name("tx"), "publish"):
            yield KINDS["AuditUnavailable"]
        case _:
            pass


def sentences(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Each error's name and sentence in these sources; `\\0` stands for a value in it."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                match node.args[0]:
                    case ast.Constant(str(text)):
                        yield node.func.id, text
                    case ast.JoinedStr(values):
                        parts = (v.value if isinstance(v, ast.Constant) else "\0" for v in values)
                        yield node.func.id, "".join(map(str, parts))
                    case _:
                        pass
