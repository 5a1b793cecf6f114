"""The routes: caller, command, the owner's answer.

A request passes these steps and no framework's: caller, permission, fields, command, reply. The router has the routes
for matching; a framework's pipeline per request would cost more than all the rest.
"""

import asyncio
import re
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

import orjson
from starlette.routing import Route as MatchedRoute

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.errors import AppError, Timeout, Unavailable
from causeloop_common.keys import KeyRing
from causeloop_common.messaging import Answer, Bus
from causeloop_gateway.cursors import Cursors
from causeloop_gateway.denials import Denial, Denials
from causeloop_gateway.endpoints import Asked, Endpoint
from causeloop_gateway.flight import Flight, Load
from causeloop_gateway.inbound import Inbound
from causeloop_gateway.limits import Limits, network
from causeloop_gateway.reader import Reader
from causeloop_gateway.security import Caller, Identity, Security, require, service_context

WHOLE = "causeloop.response"
"""An answer in one message, for the edge: status, headers and body."""
JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
REPLAYED = (b"idempotency-replayed", b"true")

_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


@dataclass(frozen=True)
class Gateway:
    """The parts that all routes share."""

    bus: Bus
    security: Security
    limits: Limits
    cursors: Cursors
    denials: Denials
    flight: Flight
    keys: KeyRing
    trusted_proxies: int


class Route(MatchedRoute, ABC):
    """A route that the router matches. Each kind of it answers in its own `_respond`."""

    timed: ClassVar[bool] = True
    """Whether the duration of its answers is a measure of the gateway."""

    def __init__(self, gateway: Gateway, endpoint: Endpoint) -> None:
        super().__init__(f"/v1{endpoint.path}", self._respond_or_note, name=endpoint.command.operation)
        # Starlette's ends with `$`, which leaves out a line break at the end: `db` and `db%0A` would be one address.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")
        self.methods = {endpoint.method}
        self.app = self._respond_or_note
        self._gateway = gateway
        self._endpoint = endpoint
        self._limits = gateway.limits.of(endpoint.command, signed_in=bool(endpoint.credentials))

    @abstractmethod
    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; an AppError is noted, and answered by the edge."""

    async def _respond_or_note(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._respond(scope, receive, send)
        except AppError as error:
            caller: Caller | None = scope.get("caller")
            who = () if caller is None else attrgetter(*Denial._fields[2:])(caller.identity)
            self._gateway.denials.note(Denial(self._endpoint.command.operation, error.code, *who))
            raise

    async def _signed_in(self, request: Inbound, *, is_counted: bool = True) -> AuthContext:
        """The caller, if permitted; Unauthorized, RateLimited, Forbidden or MfaRequired for any other."""
        security, proxies = self._gateway.security, self._gateway.trusted_proxies
        identity = await security.identify(
            request.headers.get("authorization"), request.request_id, partial(request.client_address, proxies)
        )
        if is_counted:
            self._admit(request, identity)
        caller = await security.caller(identity, request.request_id)
        request.scope["caller"] = caller
        require(caller, self._endpoint.command.permission, self._endpoint.credentials)
        ctx = identity.context(caller.permissions, request.request_id)
        if self._endpoint.command.step_up:
            ctx.require_step_up(time.time())
        return ctx

    def _network(self, request: Inbound) -> str:
        return network(request.client_address(self._gateway.trusted_proxies))

    def _admit(self, request: Inbound, identity: Identity | None = None) -> None:
        """Count the request; RateLimited when it is one too many. The answer's headers have the limits either way."""
        address = self._network(request) if self._limits.needs_address else ""
        principal, tenant = ("", "") if identity is None else (identity.principal, identity.tenant)
        request.answered, refusal = self._limits.take(principal, tenant, address)
        if refusal is not None:
            raise refusal


class CommandRoute(Route):
    """Answers with a command's reply."""

    def __init__(self, gateway: Gateway, endpoint: Endpoint) -> None:
        super().__init__(gateway, endpoint)
        self._reader = Reader(endpoint, gateway.cursors, gateway.keys, gateway.trusted_proxies)
        self._is_list = endpoint.is_list
        self._ask = {Asked.OWNER: self._ask_owner, Asked.NAMED: self._ask_named, Asked.EVERY: self._ask_every}[
            endpoint.asked
        ]

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        request: Inbound = scope["inbound"]
        endpoint = self._endpoint
        ctx = await (self._signed_in(request) if endpoint.credentials else self._unknown(request))
        load = Load(self._gateway.flight, ctx.tenant if endpoint.credentials else self._network(request))
        try:
            ctx, command, bound = await self._reader.read(request, scope["path_params"], ctx, load)
            answer = await self._ask(ctx, command)
            content, kind = answer.body, JSON
            if self._is_list:
                content = self._page(content, bound)
            if endpoint.text is not None and _prefers_text(request.headers.get("accept", "")):
                content, kind = orjson.loads(content)[endpoint.text].encode(), TEXT
            await _send(send, endpoint.status, content, kind, replayed=answer.replayed)
        finally:
            load.give_back()

    async def _unknown(self, request: Inbound) -> AuthContext:
        """The gateway itself, for somebody who is about to sign in."""
        self._admit(request)
        permission = self._endpoint.command.permission
        return service_context(ids.INSTALLATION, request.request_id, permission)

    def _page(self, content: bytes, bound: tuple[str, ...]) -> bytes:
        reply = orjson.loads(content)
        position = reply["next_position"]
        cursor = None if position is None else self._gateway.cursors.seal(position, *bound)
        del reply["next_position"]
        return orjson.dumps({**reply, "page": {"next_cursor": cursor, "has_more": cursor is not None}})

    async def _ask_owner(self, ctx: AuthContext, command: bytes) -> Answer:
        return await self._gateway.bus.request(ctx, self._endpoint.command, command)

    async def _ask_named(self, ctx: AuthContext, command: bytes) -> Answer:
        """Ask the service that the id names: `job_vault_…` is the vault's."""
        service = orjson.loads(command)["id"].split("_")[1]
        return await self._gateway.bus.request(ctx, topology.of_owner(self._endpoint.command, service), command)

    async def _ask_every(self, ctx: AuthContext, command: bytes) -> Answer:
        """Ask every service, and merge their pages, newest first by the ids; name the services without an answer."""
        kind, services = self._endpoint.command, topology.with_jobs()
        asked = (self._gateway.bus.request(ctx, topology.of_owner(kind, service), command) for service in services)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in failures:
            if len(failures) == len(services) or not isinstance(error, Unavailable | Timeout):
                raise error
        pages = [orjson.loads(answer.body) for answer in answers if isinstance(answer, Answer)]
        found = sorted((item for page in pages for item in page["data"]), key=_moment, reverse=True)
        shown = found[: orjson.loads(command)["limit"]]
        more = len(found) > len(shown) or any(page["next_position"] for page in pages)
        silent = [name for name, answer in zip(services, answers, strict=True) if not isinstance(answer, Answer)]
        position = f"job_{_moment(shown[-1])}" if more else None
        return Answer(orjson.dumps({"data": shown, "unanswered": silent, "next_position": position}), replayed=False)


def _moment(item: dict[str, Any]) -> str:
    """The part of an id that orders things of several services by time."""
    return str(item["id"].rpartition("_")[2])


def _prefers_text(accept: str) -> bool:
    """Whether a client prefers plain text to JSON (RFC 9110 12.5.1); one that takes both alike gets JSON."""
    text, json = _weight(accept, "text/plain", "text/*"), _weight(accept, "application/json", "application/*")
    return text[0] > 0 and text > json


def _weight(accept: str, kind: str, group: str) -> tuple[float, int]:
    """The weight of a type, by the most specific range that it lies in, and how specific that one is."""
    found = (0, 0.0)
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        specific = 3 if name == kind else 2 if name == group else 1 if name == "*/*" else 0
        if specific >= found[0] and specific:
            found = (specific, _quality(parameters))
    return found[1], found[0]


def _quality(parameters: list[str]) -> float:
    """The weight among the parameters of a range; 1 without one, 0 for one that is none."""
    for parameter in parameters:
        if parameter.startswith("q="):
            return float(parameter[2:]) if _WEIGHT.fullmatch(parameter[2:]) else 0.0
    return 1.0


async def _send(send: Any, status: int, content: bytes, kind: tuple[bytes, bytes], *, replayed: bool) -> None:
    if status == 204:
        content = b""
    headers = [(b"content-length", str(len(content)).encode())] if status != 204 else []
    if content:
        headers.append(kind)
    if replayed:
        headers.append(REPLAYED)
    await send({"type": WHOLE, "status": status, "headers": headers, "body": content})
