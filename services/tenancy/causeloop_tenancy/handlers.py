"""Messages in: each command with its use case."""

from causeloop_common.contracts import tenancy
from causeloop_common.messaging import CommandRouter
from causeloop_tenancy.service import TenancyService


def router(service: TenancyService) -> CommandRouter:
    """The commands that tenancy answers."""
    return CommandRouter(
        {
            tenancy.CreateWorkspace: service.create_workspace,
            tenancy.GetWorkspace: service.get_workspace,
            tenancy.ListMyWorkspaces: service.list_my_workspaces,
            tenancy.Resolve: service.resolve,
        }
    )
