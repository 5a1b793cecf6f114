"""The messages of all services as one AsyncAPI 3.0 document.

A command is a channel its owner receives from, with a reply; an event is a channel its owner sends to. Extensions
carry what AsyncAPI has no field for: `x-permission` and `x-issuers` of a command, `x-stream` of an event, and
`x-streams` with the streams and their durable consumers.

Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import ATTRIBUTES, DEFAULTS
from causeloop_common.contracts.base import Command, Event, Message, commands, events
from causeloop_gateway.documents.parts import frame, words

_Mode = Literal["validation", "serialization"]


def document() -> dict[str, Any]:
    """The whole document."""
    asked = [kind for owner in topology.OWNERS.values() for kind in commands(owner)]
    announced = [kind for owner in topology.ANNOUNCERS.values() for kind in events(owner)]
    payloads, schemas = _schemas(asked, announced)
    written = frame("asyncapi")
    channels, operations, components = written["channels"], written["operations"], written["components"]
    for command in asked:
        channels[command.subject] = _asking(command, payloads)
        channels[f"{command.subject}.reply"] = _answering(command, payloads)
        operations[f"{command.service}.{command.operation}"] = _operation(command)
    for event in announced:
        channels[f"evt.{event.type}"] = _announcing(event, payloads)
        operations[f"{event.type}.announce"] = _announcement(event)
    headers = components["schemas"]["EventHeaders"]
    for name, attribute in ATTRIBUTES.items():
        headers["properties"][attribute.header] = {"type": "string", "description": attribute.description}
        if DEFAULTS.get(name, "") is not None:
            headers["required"].append(attribute.header)
    components["schemas"] |= schemas
    written["info"] |= {"version": version("causeloop-common"), "tags": [{"name": name} for name in topology.SERVICES]}
    return {**written, "x-streams": [_stream(stream) for stream in topology.STREAMS]}


def _schemas(
    asked: list[type[Command[Any]]], announced: list[type[Event]]
) -> tuple[Mapping[Any, Any], dict[str, dict[str, Any]]]:
    """Each message's payload by (kind, mode), as a reference, and the schemas referred to."""
    replies = dict.fromkeys(kind.reply for kind in asked)
    messages: list[tuple[type[BaseModel], _Mode]] = [
        *((kind, "validation") for kind in asked),
        *((kind, "serialization") for kind in (*replies, *announced)),
    ]
    payloads, defined = models_json_schema(messages, ref_template="#/components/schemas/{model}")
    return payloads, defined["$defs"]


def _asking(kind: type[Command[Any]], payloads: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "address": kind.subject,
        "description": f"Asked by {' and '.join(sorted(kind.issuers))}, answered by {kind.service}.",
        "messages": {kind.__name__: _message(kind, payloads[kind, "validation"], "CommandHeaders")},
    }


def _answering(kind: type[Command[Any]], payloads: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "address": None,
        "description": "The asking service's private inbox: the reply subject of its message.",
        "messages": {kind.reply.__name__: _message(kind.reply, payloads[kind.reply, "serialization"], "ReplyHeaders")},
    }


def _operation(kind: type[Command[Any]]) -> dict[str, Any]:
    reply = f"{kind.subject}.reply"
    return {
        "action": "receive",
        "channel": _channel(kind.subject),
        "messages": [_message_of(kind.subject, kind)],
        "reply": {"channel": _channel(reply), "messages": [_message_of(reply, kind.reply)]},
        **_words(kind),
        "tags": [{"name": kind.service}],
        "bindings": {"nats": {"queue": kind.service}},
        "x-permission": str(kind.permission),
        "x-issuers": sorted(kind.issuers),
        "x-keyed": kind.keyed,
        "x-timeout-seconds": kind.timeout,
    }


def _announcing(kind: type[Event], payloads: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "address": f"evt.{{tenant}}.{kind.type}",
        "parameters": {"tenant": {"description": "The workspace (ws_…) or the person's realm (usr_…)."}},
        "messages": {kind.__name__: _message(kind, payloads[kind, "serialization"], "EventHeaders")},
        "x-stream": topology.EVENTS.name,
    }


def _announcement(kind: type[Event]) -> dict[str, Any]:
    channel = f"evt.{kind.type}"
    return {
        "action": "send",
        "channel": _channel(channel),
        "messages": [_message_of(channel, kind)],
        **_words(kind),
        "tags": [{"name": kind.type.partition(".")[0]}],
        "x-target": kind.target,
    }


def _message(kind: type[Message], payload: Any, headers: str) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        **_words(kind),
        "headers": {"$ref": f"#/components/schemas/{headers}"},
        "payload": payload,
    }


def _stream(stream: topology.Stream) -> dict[str, Any]:
    consumers = [
        {"name": consumer.name, "service": consumer.service, "filters": list(consumer.filters)}
        for consumer in topology.CONSUMERS
        if consumer.stream == stream.name
    ]
    declared = {name: value for name, value in asdict(stream).items() if value}
    return {**declared, "subjects": list(stream.subjects), "consumers": consumers}


def _words(kind: type[Message]) -> dict[str, str]:
    summary, description = words(kind)
    return {"summary": summary, "description": description or f"{summary}."}


def _channel(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{name}"}


def _message_of(channel: str, kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}/messages/{kind.__name__}"}
