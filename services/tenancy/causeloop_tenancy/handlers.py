"""Messages in: each command to its use case."""

from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import (
    CreateWorkspace,
    GetWorkspace,
    ListMyWorkspaces,
    MyWorkspacePage,
    Resolve,
    Standing,
    WorkspaceView,
)
from causeloop_common.messaging import CommandRouter
from causeloop_tenancy.service import TenancyService


def router(service: TenancyService) -> CommandRouter:
    """What tenancy answers."""
    commands = CommandRouter()

    @commands.on(CreateWorkspace)
    async def create_workspace(ctx: AuthContext, command: CreateWorkspace) -> WorkspaceView:
        return await service.create_workspace(ctx, command)

    @commands.on(GetWorkspace)
    async def get_workspace(ctx: AuthContext, command: GetWorkspace) -> WorkspaceView:
        return await service.get_workspace(ctx, command)

    @commands.on(ListMyWorkspaces)
    async def list_my_workspaces(ctx: AuthContext, command: ListMyWorkspaces) -> MyWorkspacePage:
        return await service.list_my_workspaces(ctx, command)

    @commands.on(Resolve)
    async def resolve(ctx: AuthContext, command: Resolve) -> Standing:
        return await service.resolve(ctx, command)

    return commands
