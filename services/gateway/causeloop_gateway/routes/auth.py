"""Routes of auth: signing in and out, personal access tokens."""

from typing import Any

from causeloop_common.contracts.auth import CreateApiToken, Exchange, ListApiTokens, Logout, Refresh, RevokeApiToken
from causeloop_gateway.commands import SESSION, Endpoint
from causeloop_gateway.inbound import Inbound

NOBODY: frozenset[str] = frozenset()


def _client(request: Inbound, trusted_proxies: int) -> dict[str, Any]:
    """Where the client is and what it calls itself; sealed at rest."""
    device = request.headers.get("user-agent", "")[:256]
    return {"address": request.client_address(trusted_proxies) or None, "device": device or None}


ENDPOINTS = (
    Endpoint(
        "POST", "/auth/exchange", Exchange,
        credentials=NOBODY, from_request=_client, hidden=frozenset({"address", "device"}),
    ),
    Endpoint("POST", "/auth/refresh", Refresh, credentials=NOBODY),
    Endpoint("POST", "/auth/logout", Logout, 204, credentials=SESSION),
    Endpoint("POST", "/api-tokens", CreateApiToken, 201, credentials=SESSION),
    Endpoint("GET", "/api-tokens", ListApiTokens, credentials=SESSION),
    Endpoint("DELETE", "/api-tokens/{id}", RevokeApiToken, 204, credentials=SESSION),
)  # fmt: skip
