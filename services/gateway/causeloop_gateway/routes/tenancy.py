"""Routes of tenancy: workspaces, and the caller's memberships."""

from causeloop_common.contracts import tenancy
from causeloop_common.errors import Conflict, NotFound
from causeloop_gateway.endpoints import RECORDED, SESSION, Endpoint

ENDPOINTS = (
    Endpoint(
        "POST", "/workspaces", tenancy.CreateWorkspace, 201, credentials=SESSION, new_workspace=True,
        errors=(
            RECORDED, Conflict("This workspace exists already, made by another request. Use a new Idempotency-Key."),
        ),
    ),
    Endpoint("GET", "/me/workspaces", tenancy.ListMyWorkspaces, credentials=SESSION),
    Endpoint("GET", "/workspace", tenancy.GetWorkspace, errors=(NotFound("There is no such workspace."),)),
)  # fmt: skip
