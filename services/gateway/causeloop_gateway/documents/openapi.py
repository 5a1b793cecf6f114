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

from causeloop_common.context import STEP_UP_SECONDS
from causeloop_common.contracts.base import Nothing, example_id
from causeloop_common.contracts.limits import EVERYWHERE, Limit
from causeloop_common.contracts.lists import Page
from causeloop_common.contracts.vault.keyrings import ReencryptKeyring
from causeloop_common.errors import (
    AppError,
    Forbidden,
    HeadersTooLarge,
    IdempotencyInProgress,
    IdempotencyMismatch,
    Internal,
    InvalidInput,
    Malformed,
    MfaRequired,
    PayloadTooLarge,
    RateLimited,
    SecretAlreadyShown,
    Timeout,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from causeloop_common.permissions import OF_THE_JOB
from causeloop_gateway.documents.parts import frame, words
from causeloop_gateway.endpoints import RECORDED, SESSION, Endpoint
from causeloop_gateway.inbound import ANONYMOUS_BODY_BYTES, BODY_BYTES, HEADER_BYTES
from causeloop_gateway.limits import declared, refusal
from causeloop_gateway.problems import MEDIA_TYPE, STATUS, problem
from causeloop_gateway.routes import ENDPOINTS, STREAMS

_REFERENCE = "#/components/schemas/"
_NULL = ("default", None)
_REQUEST_ID = example_id("req")
_SHOWN = example_id("tok")
_ALWAYS = ("X-Request-Id", "RateLimit", "RateLimit-Policy")
_HEADERS_OF_STATUS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After",),
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
_SHARED = frozenset(map(type, (*_EVERYWHERE, _SIGNED_IN, RECORDED))) | {
    PayloadTooLarge,
    RateLimited,
    UnsupportedMediaType,
}
"""Errors that are equal for every operation, and so described once."""


def refusals(endpoint: Endpoint) -> Iterator[AppError]:
    """One example of each error that an operation can answer."""
    command = endpoint.command
    yield from _EVERYWHERE
    if endpoint.is_list:
        yield Malformed("The cursor was not made for this list, filter and workspace. Start without one.")
    else:
        yield Malformed(
            "The body must be a JSON object." if endpoint.takes_body else "The query string cannot be read."
        )
    missing = [
        name for name, field in command.fields().items() if field.is_required() and name in endpoint.other_fields
    ]
    wrong = dict.fromkeys(missing, "Field required") or {"colour": "is not a field of this request"}
    yield InvalidInput.of(**wrong)
    for name, limit in _limits(endpoint).items():
        yield refusal(name, limit, 1)
    if endpoint.credentials:
        yield _SIGNED_IN
    if endpoint.credentials == SESSION:
        yield Forbidden("This cannot be done with a token. Use a session.")
    elif endpoint.credentials:
        is_of_job = command.permission == OF_THE_JOB
        yield Forbidden.lacking(ReencryptKeyring.permission if is_of_job else command.permission)
    if command.step_up:
        yield MfaRequired(
            f"This needs a sign-in of the last {STEP_UP_SECONDS // 60} minutes. Sign in again, then repeat it."
        )
    if endpoint.takes_body:
        most = BODY_BYTES if endpoint.credentials else ANONYMOUS_BODY_BYTES
        yield PayloadTooLarge(f"The body is larger than {most} bytes. Send less at once.")
        yield UnsupportedMediaType("Send the body as application/json.")
    if endpoint.keyed:
        yield from _KEYED
        if command.reply.is_sealed:
            yield SecretAlreadyShown(
                f"This request was done before and its secret was shown then. It made {_SHOWN}.",
                fields={"id": [_SHOWN]},
            )
    yield from endpoint.errors


def _limits(endpoint: Endpoint) -> dict[str, Limit]:
    return declared(endpoint.command, signed_in=bool(endpoint.credentials))


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
        self._frame = frame("openapi")
        replies = {endpoint.command.reply for endpoint in ENDPOINTS} - {Nothing}
        messages: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
            *((endpoint.command, "validation") for endpoint in ENDPOINTS),
            *((reply, "serialization") for reply in sorted(replies, key=lambda reply: reply.__name__)),
        ]
        _, defined = models_json_schema(messages, ref_template=_REFERENCE + "{model}", schema_generator=_Schemas)
        self._schemas: dict[str, Any] = {
            **_without(defined["$defs"], "x-sealed"),
            **self._frame["components"]["schemas"],
        }
        self._schemas["Problem"]["properties"]["code"]["enum"] = sorted(STATUS)
        self._commands = {endpoint.command: self._schemas.pop(endpoint.command.__name__) for endpoint in ENDPOINTS}
        self._responses: dict[str, Any] = {}
        self._refusal(429, [refusal(limit.by, limit, 1) for limit in EVERYWHERE])  # of operations without their own
        for reply in replies:
            if issubclass(reply, Page):
                properties = self._schemas[reply.__name__]["properties"]
                properties["page"] = {"$ref": f"{_REFERENCE}Page"}
                del properties["next_position"]
                self._schemas[reply.__name__]["required"] = [*properties]
        for schema in self._schemas.values():
            for name, field in schema.get("properties", {}).items():
                if {"const", "default"} <= field.keys():  # it is always there, though pydantic marks it as optional
                    schema["required"].append(name)

    def document(self) -> dict[str, Any]:
        """The whole document."""
        paths: dict[str, dict[str, Any]] = {}
        for endpoint in (*ENDPOINTS, *STREAMS):
            address = "/v1" + endpoint.path.replace(":path}", "}")
            paths.setdefault(address, {})[endpoint.method.lower()] = self._operation(endpoint)
        components = self._frame["components"] | {"schemas": self._schemas, "responses": self._responses}
        components["parameters"]["Limit"] = self._limit
        del self._frame["stream"]
        return self._frame | {"paths": paths, "components": components}

    def _operation(self, endpoint: Endpoint) -> dict[str, Any]:
        command = endpoint.command
        summary, description = words(command)
        operation: dict[str, Any] = {
            "operationId": command.operation,
            "summary": summary,
            "description": description,
            "tags": [command.service],
            "security": [{"bearer": []}] if endpoint.credentials else [],
            "x-permission": str(command.permission) if endpoint.credentials else None,
            "x-credential": sorted(endpoint.credentials),
            **({"x-step-up": True} if command.step_up else {}),
            "x-rate-limits": [{"policy": name, **limit._asdict()} for name, limit in _limits(endpoint).items()],
        }
        if endpoint in STREAMS:
            operation |= self._frame["stream"]
            operation["responses"] = operation["responses"] | self._refusals(endpoint)
            return operation
        operation["responses"] = {str(endpoint.status): self._answer(endpoint), **self._refusals(endpoint)}
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
                if endpoint.is_list and name == "position":
                    yield {"$ref": "#/components/parameters/Cursor"}
                    continue
                required = name in schema.get("required", ())
                parameter = self._parameter(name, "query", schema["properties"][name], required=required)
                if endpoint.is_list and name == "limit":
                    self._limit = parameter
                    parameter = {"$ref": "#/components/parameters/Limit"}
                yield parameter

    def _parameter(self, name: str, place: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
        schema = dict(schema)
        described = {"description": schema.pop("description")} if "description" in schema else {}
        example = {"example": self._example(schema)} if required else {}  # the explorer sends what has an example
        return {"name": name, "in": place, **described, "required": required, "schema": _not_null(schema), **example}

    def _body(self, endpoint: Endpoint) -> dict[str, Any]:
        name, schema = endpoint.command.__name__, self._commands[endpoint.command]
        required = [field for field in schema.get("required", ()) if field in endpoint.other_fields]
        self._schemas[name] = {
            **schema,
            "description": f"The body of `{endpoint.command.operation}`.",
            "properties": {
                field: {key: value for key, value in schema["properties"][field].items() if (key, value) != _NULL}
                for field in endpoint.other_fields
            },
            "required": required,
        }
        content = {"schema": {"$ref": _REFERENCE + name}, "example": self._example(self._schemas[name])}
        return {"required": bool(required), "content": {"application/json": content}}

    def _answer(self, endpoint: Endpoint) -> dict[str, Any]:
        reply = endpoint.command.reply
        headers = _headers(*_ALWAYS, *(["Idempotency-Replayed"] if endpoint.keyed else []))
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
            "headers": _headers(*_HEADERS_OF_STATUS.get(status, ())),
            "content": {MEDIA_TYPE.decode(): {"schema": {"$ref": f"{_REFERENCE}Problem"}, "examples": examples}},
        }
        kinds = dict.fromkeys(type(error) for error in errors)
        if kinds.keys() <= _SHARED:
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


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A field that is absent where it has no value: a parameter, or what an answer leaves out."""
    if schema.get("default", "") is not None:
        return schema
    return {**schema["anyOf"][0], **{key: value for key, value in schema.items() if key not in ("anyOf", "default")}}


def _without(part: Any, name: str) -> Any:
    """A document's part without a key, at any depth."""
    if isinstance(part, dict):
        return {key: _without(value, name) for key, value in part.items() if key != name}
    return [_without(value, name) for value in part] if isinstance(part, list) else part
