"""The HTTP interface as one OpenAPI 3.1 document.

An operation's words, fields and answer stand in its command's contract; its address, and what only HTTP knows, in its
`Endpoint`. Examples are put together from those of the fields. The errors follow from what a route does (it signs in,
takes a body, takes a key) and from what its use case raises, `Endpoint.errors`.

Source: https://spec.openapis.org/oas/v3.1.0
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from causeloop_common.contracts.base import Nothing, Page
from causeloop_common.errors import (
    AppError,
    Forbidden,
    HeadersTooLarge,
    IdempotencyInProgress,
    IdempotencyMismatch,
    Internal,
    InvalidInput,
    Malformed,
    PayloadTooLarge,
    RateLimited,
    SecretAlreadyShown,
    Timeout,
    Unauthorized,
    Unavailable,
)
from causeloop_gateway.endpoints import SESSION, Endpoint
from causeloop_gateway.inbound import ANONYMOUS_BODY_BYTES, BODY_BYTES, HEADER_BYTES
from causeloop_gateway.problems import MEDIA_TYPE, STATUS, problem, schema as problem_schema
from causeloop_gateway.routes import ENDPOINTS, STREAMS

TITLE = "Causeloop"
VERSION = "0.1.0"

_DESCRIPTION = """\
Sign-in and tokens, workspaces, secrets and keys, and a provable audit log.

- **Signing in.** Exchange a session of your identity provider for an access token (`POST /v1/auth/exchange`), or use \
a personal access token. Send it as `Authorization: Bearer …`. An operation lists the kinds of tokens that may call it \
in `x-credential`, and the permission it needs in `x-permission`. `make dev` writes two personal access tokens to \
`.causeloop/dev.json`.
- **Errors** are problem details (RFC 9457). Switch on `code`; `detail` is for people; `trace_id` equals the header \
`X-Request-Id`. A thing of another workspace is 404, never 403.
- **Retries.** Send an `Idempotency-Key` with a request that must not take effect twice.
- **Lists** give up to `limit` items and a `next_cursor`; send it back as `cursor` until `has_more` is false.
"""

_TAGS = {
    "auth": "Signing in and out, and personal access tokens.",
    "tenancy": "Workspaces, and the caller's memberships.",
    "vault": "Secrets, and named keys that encrypt and decrypt.",
    "audit": "The workspace's log of everything that was done, and proofs about it.",
}

_STREAM = {
    "summary": "Stream the log",
    "description": "Server-sent events: `id` is the index in the log, `data` the entry's stored bytes. Send the last "
    "id as `Last-Event-ID` to go on exactly after it, or `from` to begin at an index (0: everything); without either "
    "the stream begins now. An entry whose content retention removed is `event: pruned` with its hash. The stream ends "
    "with `event: end` and the code of a problem, such as `unauthorized` when the token is revoked or expires, "
    "`forbidden` when the permission is gone, `unavailable` when to connect again. A browser's EventSource cannot send "
    "`Authorization`; use `fetch`.",
    "parameters": [
        {
            "name": "from",
            "in": "query",
            "description": "The index of the first entry to send. Absent: entries from now on.",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
        },
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The last id that was received: the stream goes on after it, whatever `from` is.",
            "required": False,
            "schema": {"type": "integer", "minimum": -1},
        },
    ],
}
_STREAM_EXAMPLE = """\
retry: 1000
id: 41

id: 42
data: {"action":"vault.secret_written","actor":"usr_…","occurred_at":"2026-01-31T12:00:00.000Z"}

: heartbeat

event: end
data: {"code":"unauthorized","detail":"The token has expired. Sign in again or use another token."}

"""

_REFERENCE = "#/components/schemas/"
_REQUEST_ID = "req_01m8dsrxbsema9yya5chhjw0tm"
_SHOWN = "tok_01m8dsrxbsfkfbvv69fgcbmcqc"
_PAGING = {"limit": "Limit", "position": "Cursor"}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A text of your choice that stands for this act. Sent again within 24 hours with the same "
        "request, the act is not done again: the first answer comes once more, with `Idempotency-Replayed: true`.",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    },
    "Cursor": {
        "name": "cursor",
        "in": "query",
        "description": "Where to go on: `next_cursor` of the page before. It is good for this list, with these filters "
        "and this caller. Absent: the first page.",
        "required": False,
        "schema": {"type": "string", "maxLength": 1024},
    },
    "Limit": {
        "name": "limit",
        "in": "query",
        "description": "How many items a page has at most.",
        "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 25},
    },
}

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's id: the `X-Request-Id` that was sent, if it is 8 to 64 letters, digits, `.`, `_` "
        "or `-`, else a new one. Entries of the audit log carry it.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "`true` when this is the first answer to the same `Idempotency-Key` once more.",
        "schema": {"type": "string", "const": "true"},
    },
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {
        "description": "The scheme to authenticate with (RFC 6750).",
        "schema": {"type": "string", "const": 'Bearer realm="causeloop"'},
    },
}
_HEADERS_OF_STATUS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}

_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An access token (`exchange`, `refresh`) or a personal access token (`create_api_token`).",
}

_PAGE = {
    "type": "object",
    "description": "Where a list goes on.",
    "properties": {
        "next_cursor": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "description": "Send it as `cursor` for the next page; null on the last one.",
            "examples": [None],
        },
        "has_more": {"type": "boolean", "description": "Whether there is a next page.", "examples": [False]},
    },
    "required": ["next_cursor", "has_more"],
}

_EVERYWHERE: tuple[AppError, ...] = (
    HeadersTooLarge(f"The request's headers are larger than {HEADER_BYTES} bytes. Send less."),
    Internal("Something failed on our side. Report it with the trace id."),
    Unavailable("The message bus cannot be reached. Nothing was done; try again."),
    Timeout("The database did not confirm. Retry with the same Idempotency-Key."),
)
_SIGNED_IN = Unauthorized("The token has expired. Sign in again or use another token.")
_KEYED: tuple[AppError, ...] = (
    IdempotencyInProgress(
        "The first request with this Idempotency-Key is still running. Wait for its answer.", retry_after=1
    ),
    IdempotencyMismatch("This Idempotency-Key was used with another request. Use a new key for a new request."),
)
_SHARED = frozenset({HeadersTooLarge, PayloadTooLarge, RateLimited, Internal, Unavailable, Timeout, Unauthorized})
"""Errors that are equal for every operation, and so described once."""


def refusals(endpoint: Endpoint) -> Iterator[AppError]:
    """One example of each error that an operation can answer."""
    command = endpoint.command
    yield from _EVERYWHERE
    if endpoint.is_list:
        yield Malformed("The cursor was not made for this list, filter and workspace. Start without one.")
    else:
        yield Malformed(
            "Send the body as application/json." if endpoint.takes_body else "The query string cannot be read."
        )
    missing = [
        name for name, field in command.fields().items() if field.is_required() and name in endpoint.other_fields
    ]
    wrong = dict.fromkeys(missing, "Field required") or {"colour": "is not a field of this request"}
    yield InvalidInput.of(**wrong)
    if endpoint.credentials:
        yield _SIGNED_IN
    if endpoint.credentials == SESSION:
        yield Forbidden("This cannot be done with a token. Use a session.")
    elif endpoint.credentials:
        yield Forbidden(f"This needs the permission '{command.permission}'. Ask an administrator of the workspace.")
    if endpoint.takes_body:
        most = BODY_BYTES if endpoint.credentials else ANONYMOUS_BODY_BYTES
        yield PayloadTooLarge(f"The body is larger than {most} bytes. Send less at once.")
    if endpoint.keyed:
        yield from _KEYED
        if command.reply.is_sealed:
            yield SecretAlreadyShown(
                f"This request was done before and its secret was shown then. It made {_SHOWN}.",
                fields={"id": [_SHOWN]},
            )
    yield from endpoint.errors


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    return _Writer().document()


class _Schemas(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # a title would only be the name once more


class _Writer:
    """Writes the operations, and collects what they refer to."""

    def __init__(self) -> None:
        replies = {endpoint.command.reply for endpoint in ENDPOINTS} - {Nothing}
        messages: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
            *((endpoint.command, "validation") for endpoint in ENDPOINTS),
            *((reply, "serialization") for reply in sorted(replies, key=lambda reply: reply.__name__)),
        ]
        _, defined = models_json_schema(messages, ref_template=_REFERENCE + "{model}", schema_generator=_Schemas)
        self._schemas: dict[str, Any] = {**_without(defined["$defs"], "x-sealed"), "Page": _PAGE}
        self._commands = {endpoint.command: self._schemas.pop(endpoint.command.__name__) for endpoint in ENDPOINTS}
        self._responses: dict[str, Any] = {}
        for reply in replies:
            if issubclass(reply, Page):
                properties = self._schemas[reply.__name__]["properties"]
                properties["page"] = {"$ref": f"{_REFERENCE}Page"}
                del properties["next_position"]
                self._schemas[reply.__name__]["required"] = [*properties]

    def document(self) -> dict[str, Any]:
        """The whole document."""
        paths: dict[str, dict[str, Any]] = {}
        for endpoint in (*ENDPOINTS, *STREAMS):
            address = "/v1" + endpoint.path.replace(":path}", "}")
            paths.setdefault(address, {})[endpoint.method.lower()] = self._operation(endpoint)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": TITLE,
                "version": VERSION,
                "description": _DESCRIPTION,
                "contact": {"name": "The maintainers of Causeloop"},
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [
                {"url": "/", "description": "The gateway that serves this document."},
                {"url": "http://127.0.0.1:4000", "description": "`make dev` on this machine."},
            ],
            "tags": [{"name": name, "description": words} for name, words in _TAGS.items()],
            "paths": paths,
            "components": {
                "schemas": {**self._schemas, "Problem": problem_schema()},
                "parameters": _PARAMETERS,
                "headers": _HEADERS,
                "responses": self._responses,
                "securitySchemes": {"bearer": _BEARER},
            },
        }

    def _operation(self, endpoint: Endpoint) -> dict[str, Any]:
        command = endpoint.command
        summary, _, description = (command.__doc__ or "").strip().partition("\n")
        operation: dict[str, Any] = {
            "operationId": command.operation,
            "summary": summary.rstrip("."),
            "description": " ".join(description.split()),
            "tags": [command.service],
            "security": [{"bearer": []}] if endpoint.credentials else [],
            "x-permission": str(command.permission) if endpoint.credentials else None,
            "x-credential": sorted(endpoint.credentials),
            "responses": {str(endpoint.status): self._answer(endpoint), **self._refusals(endpoint)},
        }
        if endpoint in STREAMS:
            operation |= _STREAM
            return operation
        if parameters := list(self._parameters(endpoint)):
            operation["parameters"] = parameters
        if endpoint.takes_body and endpoint.other_fields:
            operation["requestBody"] = self._body(endpoint)
        return operation

    def _parameters(self, endpoint: Endpoint) -> Iterator[dict[str, Any]]:
        schema = self._commands[endpoint.command]
        for name in endpoint.path_fields:
            yield self._parameter(name, "path", schema["properties"][name], required=True)
        if endpoint.keyed:
            yield {"$ref": "#/components/parameters/IdempotencyKey"}
        if not endpoint.takes_body:
            for name in endpoint.other_fields:
                if endpoint.is_list and name in _PAGING:
                    yield {"$ref": f"#/components/parameters/{_PAGING[name]}"}
                else:
                    required = name in schema.get("required", ())
                    yield self._parameter(name, "query", schema["properties"][name], required=required)

    def _parameter(self, name: str, place: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
        schema = dict(schema)
        described = {"description": schema.pop("description")} if "description" in schema else {}
        if "anyOf" in schema:  # null is for JSON
            schema = {**schema.pop("anyOf")[0], **schema}
            del schema["default"]
        example = {"example": self._example(schema)} if required else {}  # the explorer sends what has an example
        return {"name": name, "in": place, **described, "required": required, "schema": schema, **example}

    def _body(self, endpoint: Endpoint) -> dict[str, Any]:
        name, schema = endpoint.command.__name__, self._commands[endpoint.command]
        required = [field for field in schema.get("required", ()) if field in endpoint.other_fields]
        self._schemas[name] = {
            **schema,
            "description": f"The body of `{endpoint.command.operation}`.",
            "properties": {field: schema["properties"][field] for field in endpoint.other_fields},
            "required": required,
        }
        content = {"schema": {"$ref": _REFERENCE + name}, "example": self._example(self._schemas[name])}
        return {"required": bool(required), "content": {"application/json": content}}

    def _answer(self, endpoint: Endpoint) -> dict[str, Any]:
        reply = endpoint.command.reply
        headers = _headers("X-Request-Id", *(["Idempotency-Replayed"] if endpoint.keyed else []))
        if endpoint in STREAMS:
            content = {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}}
            return {"description": "The log, until the stream ends.", "headers": headers, "content": content}
        if reply is Nothing:
            return {"description": "Done.", "headers": headers}
        schema = self._schemas[reply.__name__]
        example = self._example(schema)
        content = {"application/json": {"schema": {"$ref": _REFERENCE + reply.__name__}, "example": example}}
        if endpoint.text is not None:
            content["text/plain"] = {"schema": {"type": "string"}, "example": example[endpoint.text]}
        return {"description": schema["description"], "headers": headers, "content": content}

    def _refusals(self, endpoint: Endpoint) -> dict[str, Any]:
        by_status: dict[int, list[AppError]] = {}
        for error in refusals(endpoint):
            by_status.setdefault(STATUS[error.code][0], []).append(error)
        return {str(status): self._refusal(status, errors) for status, errors in sorted(by_status.items())}

    def _refusal(self, status: int, errors: list[AppError]) -> dict[str, Any]:
        examples: dict[str, Any] = {}
        for error in errors:
            name = error.code if error.code not in examples else f"{error.code}_{len(examples) + 1}"
            examples[name] = {"summary": STATUS[error.code][1], "value": orjson.loads(problem(error, _REQUEST_ID)[2])}
        codes = dict.fromkeys(error.code for error in errors)
        made = {
            "description": ", ".join(f"{STATUS[code][1]} (`{code}`)" for code in codes),
            "headers": _headers("X-Request-Id", *_HEADERS_OF_STATUS.get(status, ())),
            "content": {MEDIA_TYPE.decode(): {"schema": {"$ref": f"{_REFERENCE}Problem"}, "examples": examples}},
        }
        kinds = {type(error) for error in errors}
        if kinds <= _SHARED:
            name = "And".join(kind.__name__ for kind in kinds)
            if self._responses.setdefault(name, made) == made:
                return {"$ref": f"#/components/responses/{name}"}
        return made

    def _example(self, schema: dict[str, Any]) -> Any:
        """A value that the schema allows: of the fields that are always there, and of those that have an example."""
        if "examples" in schema:
            return schema["examples"][0]
        if "$ref" in schema:
            return self._example(self._schemas[schema["$ref"].removeprefix(_REFERENCE)])
        if "anyOf" in schema:
            return self._example(schema["anyOf"][0])
        if "items" in schema:
            return [self._example(schema["items"])]
        if "properties" in schema:
            always = schema.get("required", ())
            return {
                name: self._example(field)
                for name, field in schema["properties"].items()
                if name in always or "examples" in field
            }
        for constant in ("const", "default"):
            if constant in schema:
                return schema[constant]
        return schema["enum"][0] if "enum" in schema else None


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _without(part: Any, name: str) -> Any:
    """A document's part without a key, at any depth."""
    if isinstance(part, dict):
        return {key: _without(value, name) for key, value in part.items() if key != name}
    return [_without(value, name) for value in part] if isinstance(part, list) else part
