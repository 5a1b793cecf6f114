"""Routes of auth: signing in and out, personal access tokens."""

from causeloop_common.contracts.auth import CreateApiToken, Exchange, ListApiTokens, Logout, Refresh, RevokeApiToken
from causeloop_gateway.endpoints import NONE, SESSION, Endpoint
from causeloop_gateway.inbound import Inbound


def _address(request: Inbound, trusted_proxies: int) -> str | None:
    return request.client_address(trusted_proxies) or None


def _device(request: Inbound, _: int) -> str | None:
    return request.headers.get("user-agent", "")[:256] or None


ENDPOINTS = (
    Endpoint(
        "POST", "/auth/exchange", Exchange,
        credentials=NONE, from_client={"address": _address, "device": _device},
    ),
    Endpoint("POST", "/auth/refresh", Refresh, credentials=NONE),
    Endpoint("POST", "/auth/logout", Logout, 204, credentials=SESSION),
    Endpoint("POST", "/api-tokens", CreateApiToken, 201, credentials=SESSION),
    Endpoint("GET", "/api-tokens", ListApiTokens, credentials=SESSION),
    Endpoint("DELETE", "/api-tokens/{id}", RevokeApiToken, 204, credentials=SESSION),
)  # fmt: skip
