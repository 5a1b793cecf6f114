"""The package stands alone: its installation brings httpx and nothing else."""

import ast
import sys
import tomllib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def test_imports_the_standard_library_and_httpx_alone() -> None:
    imported: set[str] = set()
    for path in (PACKAGE / "causeloop_client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names == {"httpx", "causeloop_client"}


def test_depends_on_httpx_alone() -> None:
    assert tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["dependencies"] == ["httpx"]
