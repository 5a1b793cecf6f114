"""`causeloop schemas`: the committed documents are what the code says, and describe every message and route."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from causeloop_cli.main import main
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import commands, events
from causeloop_dev import asyncapi, schemas

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return asyncapi.document()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolved(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


class TestCommitted:
    def test_the_committed_documents_are_what_the_code_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        assert main(["schemas", "--check"]) == 0, "Run `make schemas`, look at what changed, and commit it."

    def test_what_differs_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["schemas"]) == 0
        assert main(["schemas", "--check"]) == 0
        Path("docs/schemas/vault.json").unlink()
        Path("docs/openapi.json").write_text("{}")
        Path("docs/schemas/retired_owner.json").write_text("{}")
        capsys.readouterr()

        assert main(["schemas", "--check"]) == 1

        assert capsys.readouterr().out.splitlines() == [
            "docs/schemas/vault.json is missing.",
            "docs/openapi.json is not what the code says.",
            "docs/schemas/retired_owner.json belongs to nobody.",
            "Run `make schemas`, look at what changed, and commit it.",
        ]
        assert main(["schemas"]) == 0
        assert main(["schemas", "--check"]) == 0


class TestOwner:
    @pytest.mark.parametrize("name", topology.ANNOUNCERS)
    def test_every_message_is_there_with_what_it_needs(self, name: str) -> None:
        owner = topology.ANNOUNCERS[name]
        told = schemas.of_owner(name, owner)
        assert set(told["commands"]) == {kind.__name__ for kind in commands(owner)}
        assert set(told["events"]) == {kind.__name__ for kind in events(owner)}
        for kind in commands(owner):
            command = told["commands"][kind.__name__]
            assert command["subject"] == kind.subject
            assert command["permission"] == kind.permission
            assert command["issuers"] == sorted(kind.issuers)
            assert set(command["message"].get("properties", {})) == set(kind.fields())
            assert set(command["reply"].get("properties", {})) == set(kind.reply.fields())
            assert command["message"]["additionalProperties"] is False  # a command refuses unknown fields
        for event in events(owner):
            assert told["events"][event.__name__]["type"] == event.type
            assert "additionalProperties" not in told["events"][event.__name__]["message"]  # its reader ignores them

    def test_sealed_fields_are_marked(self) -> None:
        told = schemas.of_owner("vault", topology.OWNERS["vault"])
        assert told["commands"]["PutSecret"]["message"]["properties"]["value"]["x-sealed"] is True


class TestAsyncapi:
    def test_every_reference_leads_somewhere(self, document: dict[str, Any]) -> None:
        found = set(references(document))
        assert len(found) > 50
        for reference in found:
            resolved(document, reference)

    def test_every_command_and_event_has_a_channel_and_an_operation(self, document: dict[str, Any]) -> None:
        addresses = {channel["address"] for channel in document["channels"].values()}
        for owner in topology.OWNERS.values():
            for kind in commands(owner):
                assert kind.subject in addresses
                operation = document["operations"][f"{kind.service}.{kind.operation}"]
                assert operation["action"] == "receive"
                assert operation["x-permission"] == kind.permission
        for owner in topology.ANNOUNCERS.values():
            for event in events(owner):
                assert f"evt.{{tenant}}.{event.type}" in addresses
                assert document["operations"][f"{event.type}.announce"]["action"] == "send"

    def test_the_streams_are_described(self, document: dict[str, Any]) -> None:
        assert [stream["name"] for stream in document["x-streams"]] == [stream.name for stream in topology.STREAMS]
        kept = {stream for channel in document["channels"].values() if (stream := channel.get("x-stream"))}
        assert kept == {topology.EVENTS.name}

    def test_names_are_as_the_specification_wants_them(self, document: dict[str, Any]) -> None:
        assert document["asyncapi"] == "3.0.0"
        assert all(re.fullmatch(r"[\w.-]+", name) for name in document["components"]["schemas"])
        for channel in document["channels"].values():
            parameters = re.findall(r"\{(\w+)\}", channel["address"] or "")
            assert parameters == list(channel.get("parameters", {}))

    def test_headers_are_those_that_travel(self, document: dict[str, Any]) -> None:
        headers = document["components"]["schemas"]["EventHeaders"]
        assert {"ce-id", "ce-type", "ce-time", "Nats-Msg-Id"} <= set(headers["required"])
        assert "ce-credential" not in headers["required"]


def test_documents_are_the_same_every_time() -> None:
    first, second = schemas.documents(), schemas.documents()
    assert first == second
    assert all(json.loads(text) for text in first.values())
