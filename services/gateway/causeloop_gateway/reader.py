"""From a request to the command it asks for: path, query, headers and body, each read once."""

import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.errors import InvalidInput, Malformed
from causeloop_common.keys import KeyRing
from causeloop_common.messaging import invalid_input
from causeloop_gateway.cursors import Cursors
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.inbound import ANONYMOUS_BODY_BYTES, BODY_BYTES, Inbound

_NAMED = 25
"""At most so many unknown fields are named: a refusal is no larger than the request."""


class Question(NamedTuple):
    """A request that was read: the caller, the command's JSON and, of a list, the scope of its cursors."""

    ctx: AuthContext
    command: bytes
    scope: tuple[str, ...]


class Reader:
    """Reads the requests of one endpoint."""

    def __init__(self, endpoint: Endpoint, cursors: Cursors, keys: KeyRing, trusted_proxies: int) -> None:
        self._endpoint = endpoint
        self._command = endpoint.command
        self._unread = endpoint.unread
        self._cursors = cursors
        self._trusted_proxies = trusted_proxies
        self._most_bytes = BODY_BYTES if endpoint.credentials else ANONYMOUS_BODY_BYTES
        self._takes_body = endpoint.takes_body
        self._is_list = endpoint.is_list
        self._keyed = endpoint.keyed
        self._names = frozenset(endpoint.other_fields)
        self._fingerprints = keys.own("idempotency/v1")
        self._workspaces = keys.own("workspace-id/v1")

    async def read(self, request: Inbound, path: dict[str, Any], ctx: AuthContext) -> Question:
        """Read a request of this caller; InvalidInput, Malformed or PayloadTooLarge if it is wrong."""
        body = b""
        scope: tuple[str, ...] = ()
        if self._takes_body:
            body = await request.body(self._most_bytes)
            fields = _json_object(request, body)
        else:
            fields = request.parameters()
            if self._is_list:
                scope = self._bind(ctx, fields)
                self._place(fields, scope)
        if unknown := [name for name in fields if name not in self._names]:
            raise unknown_fields(unknown)
        fields.update(path)
        for name, read in self._endpoint.from_client.items():
            fields[name] = read(request, self._trusted_proxies)
        key = request.idempotency_key() if self._keyed else None
        if self._endpoint.new_workspace:
            ctx = ctx.of_tenant(self._new_workspace(ctx, key), *ctx.permissions)
        if key is not None:
            ctx = replace(ctx, idempotency=Idempotency(key, self._fingerprint(request, body)))
        return Question(ctx, self._checked(fields), scope)

    def _checked(self, fields: dict[str, Any]) -> bytes:
        """The JSON of the command with these fields; InvalidInput if they are wrong, unless the service is to judge."""
        try:
            if not self._takes_body:
                return self._command.model_validate(fields).to_json()
            body = orjson.dumps(fields)
            return body if self._unread else self._command.from_json(body).to_json()
        except ValidationError as error:
            raise invalid_input(error) from error
        except orjson.JSONEncodeError as error:
            raise Malformed("The body is nested too deep.") from error

    def _bind(self, ctx: AuthContext, parameters: dict[str, str]) -> tuple[str, ...]:
        """The scope of a cursor: tenant, person, list and filters, whatever their order."""
        filters = sorted(f"{name}={value}" for name, value in parameters.items() if name not in ("cursor", "limit"))
        return (ctx.tenant, ctx.principal, self._command.subject, "&".join(filters))

    def _place(self, fields: dict[str, Any], scope: tuple[str, ...]) -> None:
        """Replace the cursor by its position."""
        if (cursor := fields.pop("cursor", None)) is not None:
            fields["position"] = self._cursors.open(cursor, *scope)
        elif "position" in fields:
            raise InvalidInput.of(position="is not a parameter; use cursor")

    def _fingerprint(self, request: Inbound, body: bytes) -> str:
        """A keyed digest of the request, which gives nothing away of a secret in the body."""
        content = b"\n".join((request.method.encode(), request.path.encode(), request.query, body))
        return hmac.digest(self._fingerprints, content, "sha256").hex()

    def _new_workspace(self, ctx: AuthContext, key: str | None) -> str:
        """The id of the workspace that a request makes: with a key the same for every retry."""
        if key is None:
            return ids.new("ws")
        return ids.workspace(hmac.digest(self._workspaces, f"{ctx.principal}\n{key}".encode(), "sha256"))


def unknown_fields(names: Sequence[str]) -> InvalidInput:
    """The refusal of fields that a route does not take."""
    return InvalidInput.of(**dict.fromkeys(names[:_NAMED], "is not a field of this request"))


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
