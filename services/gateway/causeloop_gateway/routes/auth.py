"""Routes of auth: signing in and out, personal access tokens."""

from causeloop_common.contracts import auth
from causeloop_common.errors import Forbidden, InvalidGrant, NotFound
from causeloop_gateway.endpoints import NONE, RECORDED, SESSION, Endpoint
from causeloop_gateway.inbound import Inbound


def _address(request: Inbound, trusted_proxies: int) -> str | None:
    return request.client_address(trusted_proxies) or None


def _device(request: Inbound, _: int) -> str | None:
    return request.headers.get("user-agent", "")[:256] or None


_NO_WORKSPACE = NotFound("There is no such workspace.")
ENDPOINTS = (
    Endpoint(
        "POST", "/auth/exchange", auth.Exchange,
        credentials=NONE, from_client={"address": _address, "device": _device},
        errors=(RECORDED, _NO_WORKSPACE, InvalidGrant("The subject token has expired. Sign in again.")),
    ),
    Endpoint(
        "POST", "/auth/refresh", auth.Refresh, credentials=NONE,
        errors=(
            RECORDED, _NO_WORKSPACE, InvalidGrant("The refresh token is not, or no longer, good. Sign in again."),
        ),
    ),
    Endpoint(
        "POST", "/api-tokens", auth.CreateApiToken, 201, credentials=SESSION,
        errors=(RECORDED, Forbidden("You cannot grant what you do not hold: secrets:reveal.")),
    ),
    Endpoint("GET", "/api-tokens", auth.ListApiTokens, credentials=SESSION),
    Endpoint(
        "DELETE", "/api-tokens/{id}", auth.RevokeApiToken, 204, credentials=SESSION,
        errors=(RECORDED, NotFound("There is no such token in this workspace.")),
    ),
    Endpoint("POST", "/auth/logout", auth.Logout, 204, credentials=SESSION, errors=(RECORDED,)),
)  # fmt: skip
