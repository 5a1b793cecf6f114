"""The routes: one module per owner of the commands they lead to."""

from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.routes import audit, auth, jobs, tenancy, vault

ENDPOINTS: tuple[Endpoint, ...] = (
    *auth.ENDPOINTS,
    *tenancy.ENDPOINTS,
    *vault.ENDPOINTS,
    *audit.ENDPOINTS,
    *jobs.ENDPOINTS,
)
"""Every route under /v1 that answers with a command's reply."""

STREAMS: tuple[Endpoint, ...] = (audit.STREAM,)
"""Every route under /v1 that answers with a stream."""
