"""Composition root of the gateway."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from causeloop_common.application import Application, Listener, Operations
from causeloop_gateway.commands import CommandRoute, Gateway, documented, page_schema
from causeloop_gateway.cursors import Cursors
from causeloop_gateway.denials import Denials
from causeloop_gateway.edge import Edge
from causeloop_gateway.problems import STATUS, schema
from causeloop_gateway.protocol import BoundedProtocol
from causeloop_gateway.routes import ENDPOINTS, STREAMS
from causeloop_gateway.security import Security
from causeloop_gateway.settings import GatewaySettings
from causeloop_gateway.streams.registry import Streams
from causeloop_gateway.streams.route import StreamRoute, documented as documented_stream

TITLE = "Causeloop"
VERSION = "0.1.0"
DESCRIPTION = (
    "Sign-in and tokens, workspaces, secrets, and a provable audit log. Errors are problem details (RFC 9457); "
    "switch on `code`. Send an `Idempotency-Key` with what must not happen twice."
)


def create(environ: Mapping[str, str]) -> Application:
    """The gateway, ready to be run."""
    settings = GatewaySettings.load("gateway", environ)
    application = Application(settings)
    security = Security(application.bus, remembered_seconds=settings.remembered_seconds)
    cursors = Cursors(application.keys.own("cursors/v1"))
    denials = Denials(application.bus)
    gateway = Gateway(application.bus, security, cursors, denials, application.keys, settings.trusted_proxies)
    application.background("denials", denials.run)
    application.after_serving(denials.flush)
    streams = Streams(application.bus, security)
    edge = Edge(api(gateway, streams), Operations([application]), settings.origins(), application.tracer)
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
        )
    )
    return application


def api(gateway: Gateway | None, streams: Streams | None = None) -> FastAPI:
    """The routes and their description; without a gateway only the description."""
    # The explorer brings its scripts along: nothing is fetched from elsewhere.
    app = FastAPIOffline(title=TITLE, version=VERSION, openapi_url="/openapi.json", docs_url="/docs", redoc_url=None)
    app.router.redirect_slashes = False
    for endpoint in ENDPOINTS:
        app.router.routes.append(CommandRoute(gateway, endpoint, **documented(endpoint)))
    for endpoint in STREAMS:
        app.router.routes.append(StreamRoute(gateway, streams, endpoint, **documented_stream(endpoint)))

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _openapi(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 with the error responses that every operation shares."""
    described = get_openapi(title=TITLE, version=VERSION, routes=app.routes, description=DESCRIPTION)
    components = described.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for endpoint in ENDPOINTS:
        schemas |= endpoint.command.model_json_schema(ref_template="#/components/schemas/{model}").get("$defs", {})
        if endpoint.is_list:
            schemas[endpoint.command.reply.__name__] |= page_schema(schemas[endpoint.command.reply.__name__])
    schemas["Problem"] = schema()
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An access token or a personal access token."}
    }
    refusal = {"$ref": "#/components/schemas/Problem"}
    shared = {
        str(status): {
            "description": f"{title} (`{code}`)",
            "content": {"application/problem+json": {"schema": refusal, "example": {"code": code, "status": status}}},
        }
        for code, (status, title) in STATUS.items()
    }
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"] = {**shared, **operation.get("responses", {})}
            operation.setdefault("x-permission", None)  # FastAPI leaves out what is null
    return described
