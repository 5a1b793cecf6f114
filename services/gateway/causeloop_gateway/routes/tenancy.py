"""Routes of tenancy: workspaces, and where the caller belongs."""

from causeloop_common.contracts.tenancy import CreateWorkspace, GetWorkspace, ListMyWorkspaces
from causeloop_gateway.endpoints import SESSION, Endpoint

ENDPOINTS = (
    Endpoint("POST", "/workspaces", CreateWorkspace, 201, credentials=SESSION, new_workspace=True),
    Endpoint("GET", "/workspace", GetWorkspace),
    Endpoint("GET", "/me/workspaces", ListMyWorkspaces, credentials=SESSION),
)
