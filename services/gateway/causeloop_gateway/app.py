"""Composition root of the gateway."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi_offline import FastAPIOffline

from causeloop_common.application import Application, Listener, Operations
from causeloop_gateway.commands import CommandRoute, Gateway
from causeloop_gateway.cursors import Cursors
from causeloop_gateway.denials import Denials
from causeloop_gateway.documents import asyncapi, openapi
from causeloop_gateway.edge import Edge, TransportSecurity
from causeloop_gateway.flight import Flight
from causeloop_gateway.limits import Limits
from causeloop_gateway.protocol import BoundedProtocol
from causeloop_gateway.routes import ENDPOINTS, STREAMS
from causeloop_gateway.security import Security
from causeloop_gateway.settings import GatewaySettings
from causeloop_gateway.streams.registry import Streams
from causeloop_gateway.streams.route import StreamRoute

_LINKS = {
    "/docs": "the API, to read and to try",
    "/openapi.json": "the API, for programs",
    "/asyncapi.json": "the messages between the services",
    "/ready": "whether the gateway can do its work",
}
"""Where the address without a path leads."""


def create(environ: Mapping[str, str]) -> Application:
    """The gateway, ready to be run."""
    settings = GatewaySettings.load("gateway", environ)
    application = Application(settings)
    limits = Limits(settings.rate_limit_factor)
    memories, seconds = application.memories, settings.remembered_seconds
    security = Security(application.bus, memories, limits, remembered_seconds=seconds)
    cursors = Cursors(application.keys.own("cursors/v1"))
    denials = Denials(application.bus)
    keys, proxies = application.keys, settings.trusted_proxies
    gateway = Gateway(application.bus, security, limits, cursors, denials, Flight(), keys, proxies)
    application.background("denials", denials.run)
    application.after_serving(denials.flush)
    streams = Streams(application.bus, application.memories)
    edge = Edge(
        api(gateway, streams),
        Operations([application]),
        frozenset(settings.cors_origins),
        application.tracer,
        TransportSecurity(settings.transport_security, proxies),
    )
    application.http(
        lambda: Listener.on(
            edge,
            settings.host,
            settings.port,
            http=BoundedProtocol,
            ws="none",
            timeout_keep_alive=30,
            backlog=2048,
            ending=(streams.stop,),
            delay=settings.stop_delay,
            setting="PORT or HOST",
        )
    )
    return application


def api(gateway: Gateway, streams: Streams) -> FastAPI:
    """The routes, the documents and the explorer."""
    # The explorer has its scripts with it: nothing is fetched from elsewhere.
    app = FastAPIOffline(title="Causeloop", openapi_url="/openapi.json", docs_url="/docs", redoc_url=None)
    app.openapi = openapi.document  # type: ignore[method-assign]
    app.add_route("/asyncapi.json", _messages)
    app.add_route("/", _entrance)
    app.router.redirect_slashes = False
    app.router.routes += [CommandRoute(gateway, endpoint) for endpoint in ENDPOINTS]
    app.router.routes += [StreamRoute(gateway, streams, endpoint) for endpoint in STREAMS]
    return app


async def _messages(_: Request) -> JSONResponse:
    return JSONResponse(asyncapi.document())


async def _entrance(request: Request) -> Response:
    """The addresses that a newcomer needs, as a page for a browser and as JSON for any other client."""
    hint = "README.md of the sources leads from the start to the first secret."
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"name": "Causeloop", "links": _LINKS, "readme": hint})
    links = "".join(f'<li><a href="{path}">{path}</a>: {text}</li>' for path, text in _LINKS.items())
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Causeloop</title>'
    return HTMLResponse(f"{head}<h1>Causeloop</h1><ul>{links}</ul><p>{hint}</p></html>")
