"""Every capability has one name through all rooms: URL, command, operation, use case and test."""

import re
from pathlib import Path
from typing import Any

import pytest

from causeloop_common.contracts import jobs, topology
from causeloop_common.contracts.base import Command
from causeloop_gateway.documents import openapi
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.routes import ENDPOINTS, STREAMS

ROOT = Path(__file__).parents[2]
FOLDERS = {"auth": "auth", "tenancy": "tenancy", "vault": "crypto-vault", "audit": "audit"}
ROUTES = pytest.mark.parametrize("endpoint", [*ENDPOINTS, *STREAMS], ids=lambda endpoint: endpoint.command.__name__)
COMMANDS = pytest.mark.parametrize(
    "command", topology.command_kinds().values(), ids=lambda command: f"{command.service}.{command.operation}"
)
BY_METHOD = {"PUT": ("Put",), "PATCH": ("Update",), "DELETE": ("Delete", "Revoke", "Cancel")}


def rooms(command: type[Command[Any]]) -> tuple[list[Path], list[Path]]:
    """The files that may have a command's use case, and those that may have its tests: common's, if all have it."""
    if issubclass(command, jobs.COMMANDS):
        common = ROOT / "libs/common"
        return [*common.glob("causeloop_common/worker/*.py")], [*common.glob("tests/test_*.py")]
    service = ROOT / "services" / FOLDERS[command.service]
    package = service / f"causeloop_{command.service}"
    return [package / "service.py", *package.glob("service/*.py")], [*service.glob("tests/test_*.py")]


def singular(word: str) -> str:
    return f"{word[:-3]}y" if word.endswith("ies") else word.removesuffix("s")


def names(method: str, path: str, *, stream: bool = False) -> set[str]:
    """The names that a route's command may have.

    GET /things is ListThings, POST /things CreateThing, GET /things/{id} GetThing, GET /things/{id}/part GetThingPart,
    POST /things/{id}/turn Turn or TurnThing, GET /me/things ListMyThings; a stream is read. What stands before the
    thing, such as /audit, may be left out.
    """
    parts = path.strip("/").split("/")
    words = ["".join(map(str.capitalize, part.split("-"))) for part in parts if not part.startswith("{")]
    words = ["My" if word == "Me" else word for word in words]
    *owners, last = words
    many = last.endswith("s") and not parts[-1].startswith("{")
    if method == "POST" and not many:
        return {last, *(f"{last}{noun}" for noun in _tails(list(map(singular, owners))))}
    if method == "GET":
        verbs: tuple[str, ...] = ("Read",) if stream else ("List",) if many else ("Get",)
    else:
        verbs = BY_METHOD.get(method, ("Create",))
    nouns = _tails([*map(singular, owners), last if method == "GET" and many else singular(last)])
    return {f"{verb}{noun}" for verb in verbs for noun in nouns}


def _tails(words: list[str]) -> set[str]:
    """The words joined, and the same without those at the front; `My` stays."""
    starts = range(1 if words[0] == "My" else len(words))
    return {"".join(words[start:]) for start in starts}


class TestNames:
    @ROUTES
    def test_a_command_is_named_after_its_url(self, endpoint: Endpoint) -> None:
        assert endpoint.command.__name__ in names(endpoint.method, endpoint.path, stream=endpoint in STREAMS)

    @ROUTES
    def test_an_operation_has_its_commands_name(self, endpoint: Endpoint) -> None:
        path = "/v1" + endpoint.path.replace(":path}", "}")
        operation = openapi.document()["paths"][path][endpoint.method.lower()]
        assert operation["operationId"] == endpoint.command.operation

    @COMMANDS
    def test_a_use_case_has_its_commands_name(self, command: type[Command[Any]]) -> None:
        sources, _ = rooms(command)
        taken = rf"self, ctx: AuthContext, command: {command.__name__}(?:, keyring: Keyring)?"
        use_case = rf"async def {command.operation}\({taken}\)"
        assert sum(len(re.findall(use_case, path.read_text())) for path in sources if path.exists()) == 1

    @COMMANDS
    def test_a_use_case_is_tested_by_a_class_of_its_name(self, command: type[Command[Any]]) -> None:
        _, tests = rooms(command)
        assert any(re.search(rf"^class Test{command.__name__}:", path.read_text(), re.MULTILINE) for path in tests)

    @pytest.mark.parametrize(
        ("method", "path", "name"),
        [
            ("GET", "/audit/events", "ListEntries"),
            ("GET", "/audit/events/{id}", "ListEvents"),
            ("POST", "/api-tokens", "CreateToken"),
            ("GET", "/me/workspaces", "ListWorkspaces"),
            ("GET", "/audit/events/{id}/proof", "ProveEvent"),
            ("POST", "/secrets/{path:path}/reveal", "ShowSecret"),
        ],
    )
    def test_another_name_is_found(self, method: str, path: str, name: str) -> None:
        assert name not in names(method, path)
