"""Routes of tenancy: workspaces, and where the caller belongs."""

from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import CreateWorkspace, GetWorkspace, ListMyWorkspaces
from causeloop_gateway.commands import SESSION, Endpoint, Gateway


def _new_workspace(gateway: Gateway, ctx: AuthContext, key: str | None) -> str:
    return gateway.new_workspace(ctx, key)


ENDPOINTS = (
    Endpoint("POST", "/workspaces", CreateWorkspace, 201, credentials=SESSION, tenant=_new_workspace),
    Endpoint("GET", "/workspace", GetWorkspace),
    Endpoint("GET", "/me/workspaces", ListMyWorkspaces, credentials=SESSION),
)
