"""The outermost room: the first step of every request and the last of every answer.

Gives a request its ids, turns every failure into a problem, sets the headers every answer has, answers CORS, logs
and counts. Raw ASGI, since it stands before everything.
"""

import logging
import time
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from causeloop_common import telemetry
from causeloop_common.application import Operations
from causeloop_common.errors import AppError, Internal, MethodNotAllowed, NotFound
from causeloop_common.telemetry import metrics
from causeloop_gateway.commands import WHOLE, Route
from causeloop_gateway.inbound import Inbound
from causeloop_gateway.problems import problem
from causeloop_gateway.protocol import respond
from causeloop_gateway.security import Caller

_log = logging.getLogger(__name__)

_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_API_ONLY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_EXPLORER = "/docs"
_DESCRIPTION = (_EXPLORER, "/openapi.json", "/asyncapi.json", "/static-offline-docs/")
_OPERATIONS = frozenset({"/health", "/ready"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ALLOWED_HEADERS = b"authorization, content-type, idempotency-key, last-event-id, x-request-id, traceparent"
_SHOWN_HEADERS = b"x-request-id, idempotency-replayed, retry-after, ratelimit, ratelimit-policy"


class TransportSecurity:
    """HTTP Strict Transport Security (RFC 6797): the operator's words, sent where a trusted proxy names `https`.

    Over plain HTTP it would mean nothing, and behind a proxy only the proxy knows (RFC 6797 7.2).
    """

    def __init__(self, words: str, trusted_proxies: int) -> None:
        self.header = (b"strict-transport-security", words.encode())
        self._trusted_proxies = trusted_proxies if words else 0

    def applies(self, request: Inbound) -> bool:
        """Whether the client's connection has TLS, as the outermost trusted proxy saw it."""
        return bool(self._trusted_proxies) and request.scheme(self._trusted_proxies) == "https"


class Edge:
    """The gateway's ASGI app."""

    def __init__(
        self,
        api: FastAPI,
        operations: Operations,
        origins: frozenset[str],
        tracer: telemetry.Tracer,
        transport_security: TransportSecurity,
    ) -> None:
        self._api = api
        self._operations = operations
        self._origins = origins
        self._tracer = tracer
        self._transport_security = transport_security
        self._routes: dict[tuple[str, str], list[Route]] = {}
        for route in api.routes:
            if isinstance(route, Route):
                for method in _methods(route):
                    self._routes.setdefault((method, _section(route.path)), []).append(route)
        self._log = telemetry.AccessLog("gateway")
        self._requests = cache(metrics.HTTP_REQUESTS.labels)
        self._seconds = cache(metrics.HTTP_SECONDS.labels)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        request = Inbound(scope, receive)
        tracer = telemetry.UNTRACED if request.path in _OPERATIONS else self._tracer
        trace = request.headers.get("traceparent", "")
        scope["inbound"], scope["app"] = request, self._api
        telemetry.bind(telemetry.Act("gateway", request.request_id, ""))
        common = self._common_headers(request)
        status = 0

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == WHOLE:
                status = message["status"]
                await respond(send, status, (*message["headers"], *request.answered, *common), message["body"])
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *request.answered, *common]
            await send(message)

        with telemetry.caused(tracer, "HTTP", trace, telemetry.SpanKind.SERVER) as span:
            try:
                request.check()
                if request.path in _OPERATIONS:
                    if request.method not in ("GET", "HEAD"):
                        raise MethodNotAllowed.but("GET", "HEAD")
                    await self._operations(scope, receive, answer)
                elif request.method == "OPTIONS" and "access-control-request-method" in request.headers:
                    await answer({"type": "http.response.start", "status": 204, "headers": self._preflight(request)})
                    await answer({"type": "http.response.body", "body": b""})
                else:
                    await self._dispatch(scope, receive, answer)
            except AppError as error:
                await self._refuse(answer, error, request, status)
            except HTTPException as error:  # of the explorer
                await self._refuse(answer, _of_the_explorer(error), request, status)
            except Exception:  # noqa: BLE001  every failure is answered
                route = _route(scope)
                fields = {"method": request.method, "route": route, "status": status or 500}
                _log.exception("%s %s failed", request.method, route, extra=fields)
                failure = Internal("Something failed on our side. Report it with the trace id.")
                await self._refuse(answer, failure, request, status)
            finally:
                self._observe(scope, request, span, status, time.perf_counter() - started)
                del scope["inbound"]  # it leads back to the scope, and would wait for the collector of such cycles

    async def _dispatch(self, scope: Any, receive: Any, send: Any) -> None:
        """To the route directly; the explorer's pages are FastAPI's."""
        for route in self._routes.get((scope["method"], _section(scope["path"])), ()):
            if (found := route.path_regex.match(scope["path"])) is not None:
                scope["route"], scope["path_params"] = route, found.groupdict()
                await route.app(scope, receive, send)
                return
        if scope["path"] == "/" or scope["path"].startswith(_DESCRIPTION):
            await self._explore(scope, receive, send)
            return
        if allowed := self._allowed(scope["path"]):
            raise MethodNotAllowed.but(*allowed)
        raise _no_address()

    async def _explore(self, scope: Any, receive: Any, send: Any) -> None:
        """A page of the explorer; HTTPException instead of a refusal that FastAPI would write."""
        if "\n" in scope["path"]:  # FastAPI's patterns leave out a line break at the end
            raise _no_address()

        async def show(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise HTTPException(message["status"])
            await send(message)

        await self._api({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, show)

    def _allowed(self, path: str) -> list[str]:
        """The methods that an address takes."""
        section = _section(path)
        return sorted(
            {
                method
                for (method, name), routes in self._routes.items()
                if name == section and any(route.path_regex.match(path) for route in routes)
            }
        )

    async def _refuse(self, send: Any, error: AppError, request: Inbound, sent: int) -> None:
        telemetry.fail(telemetry.get_current_span(), error)
        if sent:
            return  # the answer has begun; the connection's end is the only sign left
        status, headers, body = problem(error, request.request_id, presented=_is_bearer(request.headers))
        await send({"type": WHOLE, "status": status, "headers": headers, "body": body})

    def _common_headers(self, request: Inbound) -> list[tuple[bytes, bytes]]:
        headers = [*_ALWAYS, (b"x-request-id", request.request_id.encode())]
        if self._transport_security.applies(request):
            headers.append(self._transport_security.header)
        if not request.path.startswith(_EXPLORER):
            headers.append(_API_ONLY)
        origin = request.headers.get("origin")
        if origin is not None and origin in self._origins:
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", _SHOWN_HEADERS),
                (b"vary", b"Origin"),
            ]
        return headers

    def _preflight(self, request: Inbound) -> list[tuple[bytes, bytes]]:
        if request.headers.get("origin") not in self._origins:
            return []
        return [
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", b"600"),
        ]

    def _observe(self, scope: Any, request: Inbound, span: telemetry.Span, status: int, seconds: float) -> None:
        route = _route(scope)
        self._requests(route, status).inc()
        if getattr(scope.get("route"), "timed", True):
            self._seconds(route).observe(seconds)
        if request.path not in _OPERATIONS:
            act = telemetry.Act("gateway", request.request_id, _tenant(scope))
            self._log.write(act, request.method, route, status, round(seconds * 1000, 2))
            if span.is_recording():
                _describe(span, request, act.tenant, getattr(scope.get("route"), "path_format", route), status)


def _describe(span: telemetry.Span, request: Inbound, tenant: str, route: str, status: int) -> None:
    """Name a request's span by its route's template; an unknown method has the name `_OTHER`."""
    method = request.method if request.method in _METHODS else "_OTHER"
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "causeloop.request_id": request.request_id,
        }
    )
    if tenant:
        span.set_attribute("causeloop.tenant", tenant)


def _is_bearer(headers: dict[str, str]) -> bool:
    """Whether a request came with a token; one with another scheme has none to be wrong (RFC 6750 3.1)."""
    return headers.get("authorization", "")[:6].lower() == "bearer"


def _section(path: str) -> str:
    """The part of a path that names its noun: `keys` of `/v1/keys/a/encrypt`."""
    return path.split("/", 3)[2] if path.count("/") > 1 else ""


def _tenant(scope: Any) -> str:
    """The signed-in caller's tenant."""
    caller: Caller | None = scope.get("caller")
    return caller.identity.tenant if caller is not None else ""


def _route(scope: Any) -> str:
    """The route's template. A path may have a tenant's names in it."""
    route = scope.get("route")
    return str(getattr(route, "path", None) or (scope["path"] if scope["path"] in _OPERATIONS else "unmatched"))


def _methods(route: Route) -> set[str]:
    """The methods of a route. HEAD is answered as GET, and the server leaves out the body."""
    methods = set(route.methods or ())
    return methods | {"HEAD"} if "GET" in methods else methods


def _of_the_explorer(error: HTTPException) -> AppError:
    if error.status_code == 405:
        return MethodNotAllowed.but("GET", "HEAD")
    return _no_address()


def _no_address() -> AppError:
    return NotFound("There is no such address. The API is described at /docs.")
