"""An auditor's machine: an empty virtual environment, `pip install libs/log`, and nothing else of ours.

The dependencies come from the package index. Where none can be reached they are copied from the running environment,
and pip checks that none is missing.
"""

import base64
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

LOG = Path(__file__).parents[2] / "libs" / "log"
FILES: dict[str, Any] = json.loads((LOG / "causeloop_log" / "vectors" / "files.json").read_text(encoding="ascii"))
NEEDED = {"cffi", "cryptography", "orjson", "pycparser"}
UNREACHABLE = re.compile(
    "No matching distribution found|Could not find a version|connection|resolution|timed? ?out", re.I
)

VERIFY_ALL = """
import contextlib, io, json, pathlib, sys
from causeloop_log.main import main
folder, found = pathlib.Path(sys.argv[1]), {}
for file in sorted(folder.iterdir()):
    kept = folder.with_name("kept") / file.name
    options = ["--kept", str(kept)] if kept.exists() else []
    options += ["--allow-withheld"] if file.name in sys.argv[3:] else []
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()) as mistakes:
        code = main([str(file), "--key", sys.argv[2], *options])
    found[file.name] = [code, mistakes.getvalue(), shown.getvalue()]
print(json.dumps(found))
"""
IMPORT_ALL = """
import importlib, pkgutil, causeloop_log
names = [module.name for module in pkgutil.walk_packages(causeloop_log.__path__, "causeloop_log.")]
print(len([importlib.import_module(name) for name in names]))
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def succeed(*command: str | Path) -> str:
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packages(python: Path) -> set[str]:
    return {one["name"] for one in json.loads(succeed(python, "-m", "pip", "list", "--format=json"))}


def install(python: Path, folder: Path) -> None:
    done = run(python, "-m", "pip", "install", "--retries=0", "--timeout=20", LOG)
    if done.returncode:
        assert UNREACHABLE.search(done.stderr), done.stderr
        succeed(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, LOG)
        succeed(python, "-m", "pip", "install", "--no-index", "--no-deps", *folder.glob("*.whl"))
        (target,) = python.parents[1].glob("lib/python*/site-packages")
        for name in NEEDED:
            copy(name, target)
    succeed(python, "-m", "pip", "check")


def copy(name: str, target: Path) -> None:
    for file in distribution(name).files or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target / file)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with libs/log alone."""
    folder = tmp_path_factory.mktemp("alone")
    succeed(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    before = packages(python)
    install(python, folder)
    added = packages(python) - before
    assert added == {"causeloop-log", *NEEDED}
    return python


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file of the collection by its name, and beside them the checkpoints that were kept."""
    folder = tmp_path_factory.mktemp("collection")
    for name in ("files", "kept"):
        (folder / name).mkdir()
    for vector in (*FILES["accepted"], *FILES["refused"]):
        content = vector["text"].encode() if "text" in vector else base64.b64decode(vector["base64"])
        (folder / "files" / vector["name"]).write_bytes(content)
        if vector["kept"] is not None:
            (folder / "kept" / vector["name"]).write_text(vector["kept"], encoding="utf-8")
    return folder / "files"


class TestLogAlone:
    def test_imports_every_module(self, python: Path) -> None:
        modules = len(list(LOG.glob("causeloop_log/**/*.py"))) - 1  # all but the package itself
        assert int(succeed(python, "-I", "-c", IMPORT_ALL)) == modules

    @pytest.mark.parametrize("kind", ["ndjson", "checkpoint", "tlog-proof"])
    def test_the_command_verifies_and_refuses(self, kind: str, python: Path, files: Path) -> None:
        command = python.with_name("causeloop-verify")
        for verdict, code, last in (("accepted", 0, "Shown: "), ("refused", 1, "NOT VERIFIED: step ")):
            vectors = (vector for vector in FILES[verdict] if vector["kept"] is None and vector.get("step") != 0)
            name = next(vector["name"] for vector in vectors if vector["name"].endswith(kind))
            done = run(command, files / name, "--key", FILES["key"])
            assert (done.returncode, done.stderr) == (code, "")
            assert done.stdout.splitlines()[-1].startswith(last)

    def test_the_whole_collection(self, python: Path, files: Path) -> None:
        withheld = [
            vector["name"] for vector in (*FILES["accepted"], *FILES["refused"]) if vector.get("allow_withheld")
        ]
        found = json.loads(succeed(python, "-I", "-c", VERIFY_ALL, files, FILES["key"], *withheld))
        broken = [vector for vector in FILES["refused"] if vector["step"] > 0]
        unreadable = [vector for vector in FILES["refused"] if vector["step"] == 0]  # before the first step
        assert {name: code for name, (code, _, _) in found.items()} == {
            **{vector["name"]: 0 for vector in FILES["accepted"]},
            **{vector["name"]: 1 for vector in broken},
            **{vector["name"]: 2 for vector in unreadable},
        }
        assert {name for name, (_, mistakes, _) in found.items() if mistakes} == {v["name"] for v in unreadable}
        for vector in broken:
            assert f"\nNOT VERIFIED: step {vector['step']}, " in found[vector["name"]][2]
        for vector in unreadable:
            assert vector["why"] in found[vector["name"]][1]
