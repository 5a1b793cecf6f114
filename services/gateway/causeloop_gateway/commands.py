"""From HTTP to a command and back: one declaration per route.

An `Endpoint` names method, path and command; what the route needs to know of the command (permission, fields, reply)
is read from its contract. A request passes these steps and no framework's: caller, permission, fields, ask, answer.
FastAPI has the routes for matching and for OpenAPI; its per-request pipeline would cost more than all the rest.
"""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import orjson
from fastapi.routing import APIRoute
from pydantic import ValidationError

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.base import Command, Envelope, Nothing, Page
from causeloop_common.errors import AppError, InvalidInput, Malformed
from causeloop_common.keys import KeyRing
from causeloop_common.messaging import Bus, Unread, invalid_input
from causeloop_gateway.cursors import Cursors
from causeloop_gateway.denials import Denial, Denials
from causeloop_gateway.inbound import ANONYMOUS_BODY_BYTES, BODY_BYTES, Inbound
from causeloop_gateway.security import Caller, Security, require, service_context

SESSION = frozenset({"session"})
ANY = frozenset({"session", "token"})
WHOLE = "causeloop.response"
"""An answer in one message, for the edge: status, headers and body."""
JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
REPLAYED = (b"idempotency-replayed", b"true")

_NAMED = 25
"""Of unknown fields at most so many are named: a refusal is no larger than what it refuses."""

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True)
class Endpoint:
    """One route. `credentials` are the kinds of tokens that may call it, none for signing in.

    `from_request` adds fields that the client cannot send; `tenant` chooses another tenant than the token's. `text`
    names the field of the reply that is the whole answer to a client who prefers `text/plain`.
    """

    method: str
    path: str
    command: type[Command[Any]]
    status: int = 200
    credentials: frozenset[str] = ANY
    from_request: Callable[[Inbound, int], dict[str, Any]] | None = None
    hidden: frozenset[str] = frozenset()
    tenant: Callable[["Gateway", AuthContext, str | None], str] | None = None
    text: str | None = None

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The fields that the path gives."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def is_list(self) -> bool:
        """Whether the reply is a page."""
        return issubclass(self.command.reply, Page)


class Gateway:
    """What every route works with."""

    def __init__(
        self,
        bus: Bus,
        security: Security,
        cursors: Cursors,
        denials: Denials,
        keys: KeyRing,
        trusted_proxies: int,
    ) -> None:
        self.bus = bus
        self.security = security
        self.cursors = cursors
        self.denials = denials
        self.trusted_proxies = trusted_proxies
        self._fingerprints = keys.own("idempotency/v1")
        self._workspaces = keys.own("workspace-id/v1")

    def fingerprint(self, request: Inbound, body: bytes) -> str:
        """A keyed digest of the request: whoever reads it learns nothing of a secret in the body."""
        told = b"\n".join((request.method.encode(), request.path.encode(), request.query, body))
        return hmac.digest(self._fingerprints, told, "sha256").hex()

    def new_workspace(self, ctx: AuthContext, key: str | None) -> str:
        """The id of the workspace that a request makes: with a key the same for every retry."""
        if key is None:
            return ids.new("ws")
        return ids.workspace(hmac.digest(self._workspaces, f"{ctx.principal}\n{key}".encode(), "sha256"))


class Route(APIRoute):
    """A route that FastAPI matches and describes, and that answers by itself: `_respond`, of each kind its own."""

    timed: ClassVar[bool] = True
    """Whether the time to its answers' end says how fast the gateway is."""

    def __init__(self, gateway: Gateway | None, endpoint: Endpoint, **documented: Any) -> None:
        async def documented_only() -> None:
            """Never called: `app` below answers."""

        super().__init__(
            f"/v1{endpoint.path}",
            documented_only,
            methods=[endpoint.method],
            status_code=endpoint.status,
            name=endpoint.command.operation,
            operation_id=endpoint.command.operation,
            **documented,
        )
        if gateway is None:
            return
        self._gateway = gateway
        self._endpoint = endpoint
        self.app = self._respond_or_note

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    async def _respond_or_note(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._respond(scope, receive, send)
        except AppError as error:
            caller: Caller | None = scope.get("caller")
            identity = caller.identity if caller else None
            self._gateway.denials.note(
                Denial(
                    identity.tenant if identity else ids.INSTALLATION,
                    identity.principal if identity else None,
                    identity.credential if identity else None,
                    self._endpoint.command.operation,
                    error.code,
                )
            )
            raise

    async def _signed_in(self, request: Inbound) -> AuthContext:
        """What is asked on the caller's behalf; a refusal when nobody calls, or somebody who may not."""
        caller = await self._gateway.security.caller(
            request.headers.get("authorization"), request.request_id, request.traceparent
        )
        request.scope["caller"] = caller
        require(caller, self._endpoint.command.permission, self._endpoint.credentials)
        identity = caller.identity
        return AuthContext(
            tenant=identity.tenant,
            principal=identity.principal,
            permissions=caller.permissions,
            credential=identity.credential,
            issuer="gateway",
            request_id=request.request_id,
            traceparent=request.traceparent,
        )


class CommandRoute(Route):
    """Answers with a command's reply."""

    def __init__(self, gateway: Gateway | None, endpoint: Endpoint, **documented: Any) -> None:
        super().__init__(gateway, endpoint, **documented)
        self._takes_body = endpoint.method in _CHANGING
        self._most = BODY_BYTES if endpoint.credentials else ANONYMOUS_BODY_BYTES
        self._keyed = self._takes_body and endpoint.command.keyed
        self._sealed = bool(endpoint.command.reply.sealed_fields)
        self._names = frozenset(endpoint.command.fields()) - endpoint.hidden - frozenset(endpoint.path_fields)

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        request: Inbound = scope["inbound"]
        gateway, endpoint = self._gateway, self._endpoint
        ctx = await self._context(request)
        body = await request.body(self._most) if self._takes_body else b""
        fields = self._fields(request, body, scope["path_params"], ctx)
        key = request.idempotency_key() if self._keyed else None
        if endpoint.tenant is not None:
            ctx = ctx.of_tenant(endpoint.tenant(gateway, ctx, key), *ctx.permissions)
        if key is not None:
            ctx = replace(ctx, idempotency=Idempotency(key, gateway.fingerprint(request, body)))
        command: Command[Any] | Unread
        try:
            if endpoint.command.wholly_sealed:  # the service reads it, and refuses as would be refused here
                command = Unread(endpoint.command, orjson.dumps(fields))
            elif self._takes_body:  # as JSON, so that a number is a number and not a text or true
                command = endpoint.command.model_validate_json(orjson.dumps(fields), strict=True)
            else:
                command = endpoint.command.model_validate(fields)
        except ValidationError as error:
            raise invalid_input(error) from error
        except orjson.JSONEncodeError as error:
            raise Malformed("The body is nested too deep.") from error
        answer = await gateway.bus.request(ctx, command)
        content = answer.body
        if self._sealed:
            content = self._shown(content, gateway.bus.envelope_of_reply(ctx, command))
        elif endpoint.is_list:
            content = self._page(content, ctx, request)
        if endpoint.text is not None and _prefers_text(request.headers.get("accept", "")):
            content, kind = orjson.loads(content)[endpoint.text].encode(), TEXT
        else:
            kind = JSON
        await _send(send, endpoint.status, content, kind, replayed=answer.replayed)

    def _shown(self, content: bytes, envelope: Envelope) -> bytes:
        reply = self._endpoint.command.reply
        if reply.wholly_sealed:
            return envelope.open(content)  # which is what the client is to see
        return reply.model_validate_json(content, context=envelope).to_client()

    async def _context(self, request: Inbound) -> AuthContext:
        endpoint = self._endpoint
        if not endpoint.credentials:
            return service_context(
                ids.INSTALLATION, request.request_id, request.traceparent, endpoint.command.permission
            )
        return await self._signed_in(request)

    def _fields(self, request: Inbound, body: bytes, path: dict[str, Any], ctx: AuthContext) -> dict[str, Any]:
        """The command's fields from path, query or body; a field the route does not take is refused by name."""
        if self._takes_body:
            given = _json_object(request, body)
        else:
            given = dict(request.parameters())
            if self._endpoint.is_list and (cursor := given.pop("cursor", None)) is not None:
                given["position"] = self._gateway.cursors.open(cursor, *self._scope(ctx, request))
            elif "position" in given:
                raise InvalidInput.of(position="is not a parameter; use cursor")
        if unknown := [name for name in given if name not in self._names]:
            raise InvalidInput.of(**dict.fromkeys(unknown[:_NAMED], "is not a field of this request"))
        more = self._endpoint.from_request
        return {**given, **path, **(more(request, self._gateway.trusted_proxies) if more else {})}

    def _scope(self, ctx: AuthContext, request: Inbound) -> tuple[str, ...]:
        """What a cursor is bound to: tenant, person, list and filters, whatever their order."""
        filters = sorted(
            f"{name}={value}" for name, value in request.parameters().items() if name not in ("cursor", "limit")
        )
        return (ctx.tenant, ctx.principal, self._endpoint.command.subject, "&".join(filters))

    def _page(self, content: bytes, ctx: AuthContext, request: Inbound) -> bytes:
        reply = orjson.loads(content)
        position = reply["next_position"]
        cursor = None if position is None else self._gateway.cursors.seal(position, *self._scope(ctx, request))
        page = {"next_cursor": cursor, "has_more": cursor is not None}
        return orjson.dumps({"data": reply["data"], "page": page})


def _json_object(request: Inbound, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", ""):
        raise Malformed("Send the body as application/json.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: {str(error).partition(':')[0]}.") from error
    if not isinstance(value, dict):
        raise Malformed("The body must be a JSON object.")
    return value


def _prefers_text(accept: str) -> bool:
    """Whether a client asks for plain text and not for JSON: whoever takes anything gets JSON."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "text/plain" in kinds and "application/json" not in kinds


async def _send(send: Any, status: int, content: bytes, kind: tuple[bytes, bytes], *, replayed: bool) -> None:
    if status == 204:
        content = b""
    headers = [(b"content-length", str(len(content)).encode())] if status != 204 else []
    if content:
        headers.append(kind)
    if replayed:
        headers.append(REPLAYED)
    await send({"type": WHOLE, "status": status, "headers": headers, "body": content})


def documented(endpoint: Endpoint) -> dict[str, Any]:
    """What FastAPI needs to describe the route in OpenAPI."""
    command = endpoint.command
    schema = command.model_json_schema(ref_template="#/components/schemas/{model}")
    path = endpoint.path_fields
    properties = {
        name: value
        for name, value in schema.get("properties", {}).items()
        if name not in endpoint.hidden and name not in path
    }
    required = [name for name in schema.get("required", []) if name in properties]
    parameters = [{"name": name, "in": "path", "required": True, "schema": schema["properties"][name]} for name in path]
    extra: dict[str, Any] = {
        "x-permission": command.permission if endpoint.credentials else None,
        "x-credential": sorted(endpoint.credentials),
        "security": [{"bearer": []}] if endpoint.credentials else [],
    }
    if endpoint.method in _CHANGING:
        if properties:
            content = {"type": "object", "additionalProperties": False, "properties": properties, "required": required}
            extra["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": content}}}
        if command.keyed:
            key = {"type": "string", "minLength": 1, "maxLength": 255}
            parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": key})
    else:
        for name, value in properties.items():
            shown = "cursor" if name == "position" and endpoint.is_list else name
            parameters.append({"name": shown, "in": "query", "required": name in required, "schema": value})
    if parameters:
        extra["parameters"] = parameters
    summary, _, description = (command.__doc__ or "").strip().partition("\n")
    return {
        "summary": summary.rstrip("."),
        "description": " ".join(description.split()),
        "tags": [command.service],
        "response_model": None if endpoint.status == 204 or command.reply is Nothing else command.reply,
        "openapi_extra": extra,
    }


def page_schema(reply: dict[str, Any]) -> dict[str, Any]:
    """Properties of a list's answer: the reply's, with the cursor in place of the position that the service knows."""
    cursor = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    page = {
        "type": "object",
        "properties": {"next_cursor": cursor, "has_more": {"type": "boolean"}},
        "required": ["next_cursor", "has_more"],
    }
    kept = {name: value for name, value in reply["properties"].items() if name != "next_position"}
    return {"properties": {**kept, "page": page}, "required": [*kept, "page"]}
