"""Messages in: each command with its use case."""

from causeloop_common.contracts.tenancy import (
    CreateWorkspace,
    GetWorkspace,
    ListMyWorkspaces,
    Resolve,
)
from causeloop_common.messaging import CommandRouter
from causeloop_tenancy.service import TenancyService


def router(service: TenancyService) -> CommandRouter:
    """The commands that tenancy answers."""
    return CommandRouter(
        {
            CreateWorkspace: service.create_workspace,
            GetWorkspace: service.get_workspace,
            ListMyWorkspaces: service.list_my_workspaces,
            Resolve: service.resolve,
        }
    )
