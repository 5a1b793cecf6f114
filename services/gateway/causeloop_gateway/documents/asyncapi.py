"""The messages of all services as one AsyncAPI 3.0 document.

A command is a channel its owner receives from, with a reply; an event is a channel its owner sends to. Extensions
carry what AsyncAPI has no field for: `x-permission` and `x-issuers` of a command, `x-stream` of an event, and
`x-streams` with the streams and their durable consumers.

Source: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from causeloop_common import messaging
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import ATTRIBUTES, DEFAULTS
from causeloop_common.contracts.base import Command, Event, Message, commands, events
from causeloop_gateway.documents.words import words

_Mode = Literal["validation", "serialization"]

_HEADERS = {
    "CommandHeaders": {
        messaging.TOKEN: "Service token: the asking service, the principal, its tenant and permissions.",
        messaging.DEADLINE: "Milliseconds since the epoch; a command that arrives later is not executed.",
        messaging.REQUEST_ID: "The id of the request that caused the command.",
        messaging.TRACEPARENT: "W3C Trace Context.",
        messaging.IDEMPOTENCY_KEY: "The client's key, if the command takes one: a retry gets the same answer.",
        messaging.FINGERPRINT: "Keyed digest of the request that the key was sent with.",
    },
    "ReplyHeaders": {
        messaging.REPLAYED: "'true' when this is the first answer to the same Idempotency-Key once more.",
        messaging.ERROR: "A refusal's sentence (NATS ADR-32).",
        messaging.ERROR_CODE: "A refusal's code; its payload is empty or an object with `fields`.",
        messaging.RETRY_AFTER: "Seconds to wait before trying again.",
    },
    "EventHeaders": {
        "Nats-Msg-Id": "The event's id: JetStream drops a second message with the same one.",
        "ce-specversion": "CloudEvents version, 1.0.",
        "ce-source": "The service that sent the event.",
        **dict(ATTRIBUTES.values()),
    },
}
_OPTIONAL = {
    *(ATTRIBUTES[name].header for name, default in DEFAULTS.items() if default is None),
    messaging.IDEMPOTENCY_KEY, messaging.FINGERPRINT, *_HEADERS["ReplyHeaders"],
}  # fmt: skip


def document() -> dict[str, Any]:
    """The whole document."""
    asked = [kind for owner in topology.OWNERS.values() for kind in commands(owner)]
    announced = [kind for owner in topology.ANNOUNCERS.values() for kind in events(owner)]
    payloads, schemas = _schemas(asked, announced)
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for command in asked:
        channels[command.subject] = _asking(command, payloads)
        channels[f"{command.subject}.reply"] = _answering(command, payloads)
        operations[f"{command.service}.{command.operation}"] = _operation(command)
    for event in announced:
        channels[f"evt.{event.type}"] = _announcing(event, payloads)
        operations[f"{event.type}.announce"] = _announcement(event)
    channels["head"], operations["audit.head.announce"] = _head()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Causeloop messages",
            "contact": {"name": "The maintainers of Causeloop"},
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": name} for name in topology.SERVICES],
            "version": version("causeloop-common"),
            "description": "The commands and events that services exchange over NATS. Clients use the HTTP interface. "
            "A message whose payload is `x-sealed` is sent as one ciphertext of its JSON: salt 16, nonce 12, "
            "AES-256-GCM ciphertext and tag.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "bus": {
                "host": "{host}",
                "protocol": "nats",
                "description": "NATS with JetStream. Each service has an nkey of its own, good for its subjects alone.",
                "variables": {"host": {"default": "127.0.0.1:4222", "description": "NATS_URL"}},
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas},
        "x-streams": [_stream(stream) for stream in topology.STREAMS],
    }


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
    schemas: dict[str, dict[str, Any]] = defined["$defs"]
    return payloads, schemas | {name: _headers(described) for name, described in _HEADERS.items()}


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


def _head() -> tuple[dict[str, Any], dict[str, Any]]:
    """The one message that is neither command nor event."""
    channel = {
        "address": topology.head("{tenant}"),
        "description": "Live and without durability, for the gateway, which looks by itself a little later.",
        "parameters": {"tenant": {"description": "The workspace (ws_…) or the person's realm (usr_…)."}},
        "messages": {
            "Head": {
                "name": "Head",
                "summary": "A tenant's log has grown: its new size.",
                "contentType": "text/plain",
                "payload": {"type": "string", "pattern": "^[0-9]+$"},
            }
        },
    }
    operation = {
        "action": "send",
        "channel": _channel("head"),
        "messages": [{"$ref": "#/channels/head/messages/Head"}],
        "summary": "A tenant's log has grown",
        "description": "Sent after each batch of entries.",
        "tags": [{"name": "audit"}],
    }
    return channel, operation


def _message(kind: type[Message], payload: Any, headers: str) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        **_words(kind),
        "headers": {"$ref": f"#/components/schemas/{headers}"},
        "payload": payload,
    }


def _headers(described: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": words} for name, words in described.items()},
        "required": [name for name in described if name not in _OPTIONAL],
    }


def _stream(stream: topology.Stream) -> dict[str, Any]:
    return {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "max_age_seconds": stream.max_age_seconds,
        "max_bytes": stream.max_bytes,
        "duplicate_window_seconds": stream.duplicate_window_seconds,
        "consumers": [
            {"name": consumer.name, "service": consumer.service, "filters": list(consumer.filters)}
            for consumer in topology.CONSUMERS
            if consumer.stream == stream.name
        ],
    }


def _words(kind: type[Message]) -> dict[str, str]:
    summary, description = words(kind)
    return {"summary": summary, "description": description or f"{summary}."}


def _channel(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/{name}"}


def _message_of(channel: str, kind: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/channels/{channel}/messages/{kind.__name__}"}
