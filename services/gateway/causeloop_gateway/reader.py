"""From a request to the command it asks for: path, query, headers and body, each read once.

Anything that a route does not take is refused, on every method: a parameter beside a body, a body beside parameters.
A query is read as strictly as a body: a number is digits alone. No name is given twice, in the query or in any object
of the body.
"""

import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import orjson
from pydantic import ValidationError

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.base import Command
from causeloop_common.errors import InvalidInput, Malformed, UnsupportedMediaType
from causeloop_common.keys import KeyRing
from causeloop_common.messaging import invalid_input
from causeloop_gateway.bounds import Bounds
from causeloop_gateway.cursors import Cursors
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.flight import Load
from causeloop_gateway.inbound import ANONYMOUS_BODY_BYTES, BODY_BYTES, Inbound

_JSON = "application/json"
_MOST_DIGITS = 18
_CHARSET = re.compile(r"charset *=[^;]*")
_UTF_8 = re.compile(r"charset *= *\"?utf-?8\"? *")
_UNHEEDED = frozenset(
    {
        "content-range", "if-match", "if-none-match", "if-unmodified-since",
        "x-http-method", "x-http-method-override", "x-method-override",
    }
)  # fmt: skip
"""Headers that would forbid what is asked for, or make it something else, and that nothing here heeds."""


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
        self._numbers = tuple(name for name in endpoint.other_fields if _is_number(endpoint.command, name))
        self._bounds = Bounds(endpoint.command)
        self._fingerprints = keys.own("idempotency/v1")
        self._workspaces = keys.own("workspace-id/v1")

    async def read(self, request: Inbound, path: dict[str, Any], ctx: AuthContext, load: Load) -> Question:
        """Read a request of this caller; InvalidInput, Malformed or PayloadTooLarge if it is wrong.

        RateLimited or Unavailable when its body is one too many.
        """
        body, text = b"", None
        scope: tuple[str, ...] = ()
        if self._takes_body:
            if request.query:
                raise unknown_parameters(request)
            body = await request.body(self._most_bytes, load.take)
            fields, text = self._json_object(request, body)
        else:
            request.refuse_body()
            fields = request.parameters()
            if self._is_list:
                scope = self._bind(ctx, fields)
                self._place(fields, scope)
            self._require_known(fields)
        for name, read in self._endpoint.from_client.items():
            path = {**path, name: read(request, self._trusted_proxies)}
        key = request.idempotency_key() if self._keyed else None
        if self._endpoint.new_workspace:
            ctx = ctx.of_tenant(self._new_workspace(ctx, key), *ctx.permissions)
        if key is not None:
            ctx = replace(ctx, idempotency=Idempotency(key, self._fingerprint(request, body)))
        return Question(ctx, self._checked(_typed(fields, self._numbers) if text is None else text, path), scope)

    def _json_object(self, request: Inbound, body: bytes) -> tuple[dict[str, Any], bytes]:
        """The fields of a body, and their JSON; the names and the lengths are looked at before all else."""
        _require_json(request.headers)
        if not _UNHEEDED.isdisjoint(request.headers):
            raise _unheeded(request.headers)
        if not body:
            return {}, b"{}"
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Malformed(f"The body is not JSON: {str(error).partition(':')[0]}.") from error
        if not isinstance(value, dict):
            raise Malformed("The body must be a JSON object.")
        self._require_known(value)
        self._bounds.check(value)
        try:
            text = orjson.dumps(value)
        except orjson.JSONEncodeError as error:
            raise Malformed("The body is nested too deep.") from error
        if text != body and _quotes(text) != _quotes(body):
            _require_each_once(body)
        return value, text

    def _require_known(self, fields: dict[str, Any]) -> None:
        if unknown := [name for name in fields if name not in self._names]:
            raise unknown_fields(unknown)

    def _checked(self, text: bytes, path: dict[str, Any]) -> bytes:
        """The JSON of the command; InvalidInput if its fields are wrong, unless the service is to judge them.

        `text` is that of the fields of query or body, `path` has the others.
        """
        if path:
            others = orjson.dumps(path)
            text = others if text == b"{}" else b"".join((others[:-1], b",", text[1:]))
        try:
            return text if self._unread else self._command.from_json(text).to_json()
        except ValidationError as error:
            raise invalid_input(error) from error

    def _bind(self, ctx: AuthContext, parameters: dict[str, str]) -> tuple[str, ...]:
        """The scope of a cursor: tenant, person, list and filters, whatever their order."""
        filters = sorted(f"{name}={value}" for name, value in parameters.items() if name not in ("cursor", "limit"))
        return (ctx.tenant, ctx.principal, self._command.subject, *filters)

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
    return InvalidInput.of(**dict.fromkeys(names, "is not a field of this request"))


def unknown_parameters(request: Inbound) -> InvalidInput:
    """The refusal of a query at an address that takes none."""
    names = request.parameters() or {"?": ""}
    return InvalidInput.of(**dict.fromkeys(names, "is not a parameter of this request, which takes none"))


def _is_number(command: type[Command[Any]], name: str) -> bool:
    annotation = command.fields()[name].annotation
    return int in (annotation, *get_args(annotation))


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidInput.of(**{name: f"is not a whole number, written in at most {_MOST_DIGITS} digits and no more"})
    return int(text)


def _typed(parameters: dict[str, Any], numbers: Sequence[str]) -> bytes:
    """The JSON of a query's parameters, of which these are numbers."""
    if not parameters:
        return b"{}"
    for name in numbers:
        if name in parameters:
            parameters[name] = _number(name, parameters[name])
    return orjson.dumps(parameters)


def _unheeded(headers: dict[str, str]) -> Malformed:
    found = ", ".join(sorted(_UNHEEDED & headers.keys()))
    return Malformed(
        f"Nothing is done, since this has no effect here: {found}. A secret is written only over the version that you "
        "know if you send `version`."
    )


def _require_json(headers: dict[str, str]) -> None:
    if headers.get("content-type", _JSON) != _JSON:
        kind, _, parameters = headers["content-type"].lower().partition(";")
        if kind.strip() not in (_JSON, ""):
            raise UnsupportedMediaType(f"Send the body as {_JSON}.")
        if not all(map(_UTF_8.fullmatch, _CHARSET.findall(parameters))):
            raise UnsupportedMediaType("Send the body in UTF-8, which is JSON's one encoding.")
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise UnsupportedMediaType("Send the body as it is: no Content-Encoding is taken.")
    if headers.get("transfer-encoding", "chunked").lower() != "chunked":
        raise UnsupportedMediaType("Send the body as it is, in chunks at most: no other Transfer-Encoding is taken.")


def _quotes(text: bytes) -> int:
    """How many quotation marks of this JSON begin or end a text: two for each name, two for each value that is one.

    Of a body and what was read of it, the body has more if it gives a name twice, since reading keeps one of them.
    """
    if b"\\" not in text:
        return text.count(b'"')
    return text.count(b'"') - text.replace(b"\\\\", b"").count(b'\\"')


def _require_each_once(body: bytes) -> None:
    """Malformed for an object with a name twice: which one holds would be a matter of the reader.

    It costs ten times what reading costs, and is left out where `_quotes` are as many as they should be.
    """
    try:
        json.loads(body, object_pairs_hook=_object, parse_int=_unread, parse_float=_unread, parse_constant=_unread)
    except RecursionError as error:
        raise Malformed("The body is nested too deep.") from error


def _object(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise Malformed(f"The body gives {name[:64]!r} twice in one object. Give each name once.")
        seen.add(name)


def _unread(_: str) -> None:
    """A number, which is not looked at."""
