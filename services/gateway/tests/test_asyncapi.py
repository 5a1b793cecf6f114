"""The description of the messages: whole, and true to the contracts."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common.contracts import topology
from causeloop_common.contracts.base import commands, events
from causeloop_common.messaging import wire
from causeloop_gateway.documents import asyncapi

if TYPE_CHECKING:
    from conftest import House


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


class TestDocument:
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
        assert {"ce-id", "ce-type", "ce-time"} <= set(headers["required"])
        assert "ce-credential" not in headers["required"]
        headers = document["components"]["schemas"]["CommandHeaders"]
        asked = {wire.TOKEN, wire.DEADLINE, wire.REQUEST_ID, wire.TRACEPARENT}
        assert set(headers["required"]) == asked
        assert set(headers["properties"]) == asked | {wire.IDEMPOTENCY_KEY, wire.FINGERPRINT}
        headers = document["components"]["schemas"]["ReplyHeaders"]
        answered = {wire.REPLAYED, wire.ERROR, wire.ERROR_CODE, wire.RETRY_AFTER}
        assert set(headers["properties"]) == answered

    def test_the_head_of_a_log_has_the_subject_that_audit_publishes(self, document: dict[str, Any]) -> None:
        assert document["channels"]["head"]["address"] == topology.head("{tenant}")


async def test_is_served_as_it_is_committed(house: "House", document: dict[str, Any]) -> None:
    answer = await house.http.get("/asyncapi.json")
    assert answer.json() == document
