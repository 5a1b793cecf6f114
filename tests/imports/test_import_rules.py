"""The import rules bite: each breach is made once, in a copy, and caught by the contract it names."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "pyproject.toml"
PACKAGES = sorted([*ROOT.glob("libs/*/causeloop_*"), *ROOT.glob("services/*/causeloop_*")])
VERDICT = re.compile(
    r"^(?P<contract>[a-z-]+): .*(?P<verdict>KEPT|BROKEN)(?: \(\d+ ignored imports?\))?\s*$", re.MULTILINE
)


class Breach(NamedTuple):
    says: str
    room: str  # the module that breaks the rule; made when it does not exist
    code: str
    caught_by: str


BREACHES = [
    # house
    Breach("common imports a service", "causeloop_common.messaging", "import causeloop_vault.service", "house"),
    Breach("common imports cli", "causeloop_common.application", "import causeloop_cli.main", "house"),
    Breach("a service imports cli", "causeloop_auth.app", "import causeloop_cli.main", "house"),
    Breach("the client imports common", "causeloop_client.errors", "import causeloop_common.errors", "house"),
    Breach("the client imports the log", "causeloop_client.stream", "import causeloop_log.entry", "house"),
    Breach("the log imports the client", "causeloop_log.verification", "import causeloop_client.client", "house"),
    Breach("the gateway imports cli", "causeloop_gateway.app", "import causeloop_cli.main", "house"),
    Breach("log imports common", "causeloop_log.verification", "import causeloop_common.ids", "house"),
    # log
    Breach("log imports httpx", "causeloop_log.export_file", "import httpx", "log-alone"),
    Breach(
        "log imports pydantic inside a function",
        "causeloop_log.entry.v2",
        "def later() -> None:\n    import pydantic",
        "log-alone",
    ),
    Breach("entry imports verification", "causeloop_log.entry.v2", "import causeloop_log.verification", "log-floors"),
    Breach(
        "verification imports export_file",
        "causeloop_log.verification",
        "import causeloop_log.export_file",
        "log-floors",
    ),
    Breach("tlog imports entry", "causeloop_log.tlog.proof", "import causeloop_log.entry", "log-floors"),
    Breach("log gets a utils.py", "causeloop_log.utils", "", "log-floors"),
    Breach(
        "version 2 imports version 1", "causeloop_log.entry.v2", "import causeloop_log.entry.v1", "log-entry-floors"
    ),
    Breach("entry gets a v3.py without a floor", "causeloop_log.entry.v3", "", "log-entry-floors"),
    Breach(
        "note imports checkpoint", "causeloop_log.tlog.note", "import causeloop_log.tlog.checkpoint", "log-tlog-floors"
    ),
    Breach("tlog gets a tiles.py without a floor", "causeloop_log.tlog.tiles", "", "log-tlog-floors"),
    # independence
    Breach(
        "a service imports another",
        "causeloop_tenancy.service",
        "import causeloop_auth.service",
        "independence",
    ),
    Breach(
        "a service imports another inside a function",
        "causeloop_vault.handlers",
        "def later() -> None:\n    import causeloop_audit.repository",
        "independence",
    ),
    Breach(
        "a service imports another for its types only",
        "causeloop_audit.service",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from causeloop_tenancy import models",
        "independence",
    ),
    Breach(
        "the gateway imports a service",
        "causeloop_gateway.routes",
        "from causeloop_vault import domain",
        "independence",
    ),
    Breach(
        "a service imports the gateway",
        "causeloop_auth.handlers",
        "import causeloop_gateway.problems",
        "independence",
    ),
    # common-floors
    Breach(
        "context imports database",
        "causeloop_common.context",
        "import causeloop_common.database",
        "common-floors",
    ),
    Breach(
        "errors imports contracts",
        "causeloop_common.errors",
        "import causeloop_common.contracts",
        "common-floors",
    ),
    Breach(
        "outbox imports its neighbour inbox",
        "causeloop_common.outbox",
        "import causeloop_common.inbox",
        "common-floors",
    ),
    Breach(
        "database imports messaging",
        "causeloop_common.database",
        "import causeloop_common.messaging",
        "common-floors",
    ),
    Breach("common gets a utils.py", "causeloop_common.utils", "", "common-floors"),
    # service-floors
    Breach(
        "repository imports service",
        "causeloop_auth.repository",
        "import causeloop_auth.service",
        "service-floors",
    ),
    Breach(
        "service imports handlers",
        "causeloop_tenancy.service",
        "import causeloop_tenancy.handlers",
        "service-floors",
    ),
    Breach(
        "domain imports models",
        "causeloop_vault.domain",
        "from causeloop_vault import models",
        "service-floors",
    ),
    Breach(
        "handlers imports settings",
        "causeloop_audit.handlers",
        "import causeloop_audit.settings",
        "service-floors",
    ),
    Breach("a service gets a utils.py", "causeloop_vault.utils", "", "service-floors"),
    # gateway-floors
    Breach(
        "problems imports routes",
        "causeloop_gateway.problems",
        "import causeloop_gateway.routes",
        "gateway-floors",
    ),
    Breach(
        "security imports app",
        "causeloop_gateway.security",
        "import causeloop_gateway.app",
        "gateway-floors",
    ),
    Breach(
        "commands imports streams",
        "causeloop_gateway.commands",
        "import causeloop_gateway.streams.route",
        "gateway-floors",
    ),
    Breach(
        "reader imports commands",
        "causeloop_gateway.reader",
        "import causeloop_gateway.commands",
        "gateway-floors",
    ),
    Breach(
        "endpoints imports reader",
        "causeloop_gateway.endpoints",
        "import causeloop_gateway.reader",
        "gateway-floors",
    ),
    Breach(
        "a route imports the documents",
        "causeloop_gateway.routes",
        "import causeloop_gateway.documents.openapi",
        "gateway-floors",
    ),
    Breach("the gateway gets a helpers.py", "causeloop_gateway.helpers", "", "gateway-floors"),
    # pure
    Breach("domain imports asyncpg", "causeloop_vault.domain", "import asyncpg", "pure"),
    Breach("contracts imports nats", "causeloop_common.contracts", "from nats.aio.client import Client", "pure"),
    Breach(
        "domain reaches asyncpg through common",
        "causeloop_audit.domain",
        "import causeloop_common.database",
        "pure",
    ),
    # passed-in
    Breach("domain reads the clock", "causeloop_auth.domain", "import time", "passed-in"),
    Breach("domain draws its own randomness", "causeloop_vault.domain", "import secrets", "passed-in"),
    # http
    Breach("a service imports an HTTP client", "causeloop_auth.adapters", "import httpx2", "http"),
    Breach(
        "common imports one beside outbound",
        "causeloop_common.messaging",
        "from http.client import HTTPSConnection",
        "http",
    ),
    # sql
    Breach("handlers imports asyncpg", "causeloop_auth.handlers", "import asyncpg", "sql"),
    Breach("service imports sqlalchemy", "causeloop_vault.service", "from sqlalchemy import text", "sql"),
    Breach(
        "the bus imports the OpenTelemetry SDK", "causeloop_common.messaging", "import opentelemetry.sdk", "tracing"
    ),
    Breach("messaging imports asyncpg", "causeloop_common.messaging", "import asyncpg", "sql"),
    Breach("a route imports sqlalchemy", "causeloop_gateway.routes", "import sqlalchemy", "sql"),
    Breach("cli imports asyncpg", "causeloop_cli.main", "import asyncpg", "sql"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of all packages, side by side."""
    for package in PACKAGES:
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def commit(breach: Breach, tree: Path) -> None:
    room = tree.joinpath(*breach.room.split("."))
    file = room / "__init__.py" if room.is_dir() else room.with_suffix(".py")
    with file.open("a") as out:
        out.write(f"\n\n{breach.code}\n")


def lint(tree: Path) -> tuple[dict[str, str], str]:
    """Each contract's verdict on the tree, and all output of import-linter."""
    # A process of its own: this one has imported the real packages already, and the linter would find those.
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            f"--config={SETTINGS}",
            "--no-cache",
            "--no-logo",
        ],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = {match["contract"]: match["verdict"] for match in VERDICT.finditer(run.stdout)}
    assert (run.returncode == 0) == (set(verdicts.values()) == {"KEPT"}), run.stdout + run.stderr
    return verdicts, run.stdout


def contracts() -> set[str]:
    settings = tomllib.loads(SETTINGS.read_text())
    return {contract["id"] for contract in settings["tool"]["importlinter"]["contracts"]}


class TestImportRules:
    def test_the_clean_tree_keeps_every_contract(self, tree: Path) -> None:
        verdicts, output = lint(tree)
        assert verdicts == dict.fromkeys(contracts(), "KEPT"), output

    @pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.says)
    def test_a_breach_is_caught(self, breach: Breach, tree: Path) -> None:
        commit(breach, tree)
        verdicts, output = lint(tree)
        assert verdicts.get(breach.caught_by) == "BROKEN", output
        assert breach.room in output, output

    def test_log_may_import_cryptography_and_orjson_alone_of_all_that_runs(self) -> None:
        settings = tomllib.loads(SETTINGS.read_text())
        rules = {contract["id"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
        runs = {re.split(r"[\[=<>~]", name)[0] for name in settings["dependency-groups"]["run"]}
        modules = {
            module
            for module, distributions in packages_distributions().items()
            if {name.lower() for name in distributions} & runs
        }
        assert modules - set(rules["log-alone"]["forbidden_modules"]) == {"cryptography", "orjson"}

    def test_every_contract_has_a_breach(self) -> None:
        assert {breach.caught_by for breach in BREACHES} == contracts()
