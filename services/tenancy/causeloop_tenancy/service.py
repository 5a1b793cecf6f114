"""Use cases of tenancy: workspaces, their members, and the permissions of each."""

from causeloop_common.context import AuthContext
from causeloop_common.contracts.lists import page
from causeloop_common.contracts.tenancy import (
    CreateWorkspace,
    GetWorkspace,
    ListMyWorkspaces,
    MemberAdded,
    MyWorkspacePage,
    Resolve,
    Standing,
    WorkspaceCreated,
    WorkspaceView,
)
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, NotFound
from causeloop_tenancy import repository
from causeloop_tenancy.domain import standing


class TenancyService:
    """Workspaces and members."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_workspace(self, ctx: AuthContext, command: CreateWorkspace) -> WorkspaceView:
        """Bring the workspace of the context to life, its creator as owner, in one transaction.

        The gateway minted the id, from the Idempotency-Key if there is one: a retry, however late, finds the same
        workspace and makes no second one.
        """
        async with self._database.transaction(ctx, command) as tx:
            made = await repository.add_workspace(tx, command.name, command.slug, command.timezone, ctx.principal)
            workspace = await repository.workspace(tx)
            asked = (ctx.principal, command.name, command.slug, command.timezone)
            if workspace is None or (workspace.created_by, workspace.name, workspace.slug, workspace.timezone) != asked:
                raise Conflict("This workspace exists already, made by another request. Use a new Idempotency-Key.")
            if made:
                repository.add_member(tx, ctx.principal, standing.FIRST_ROLE)

                tx.publish(WorkspaceCreated(workspace_id=workspace.id))
                tx.publish(MemberAdded(person_id=ctx.principal, role=standing.FIRST_ROLE))
            return tx.answer(workspace)

    async def get_workspace(self, ctx: AuthContext, command: GetWorkspace) -> WorkspaceView:
        """The current workspace."""
        async with self._database.reading(ctx) as tx:
            workspace = await repository.workspace(tx)
        if workspace is None:
            raise NotFound("There is no such workspace.")
        return workspace

    async def list_my_workspaces(self, ctx: AuthContext, command: ListMyWorkspaces) -> MyWorkspacePage:
        """The caller's memberships."""
        async with self._database.reading_of_person(ctx) as tx:
            found = await repository.memberships_after(tx, ctx.principal, command.position, command.wanted)
        return page(found, command, key=lambda membership: membership.workspace_id)

    async def resolve(self, ctx: AuthContext, command: Resolve) -> Standing:
        """A person's role and permissions in the context's workspace."""
        async with self._database.reading(ctx) as tx:
            role = await repository.role_of(tx, command.principal)
        return Standing(role=role, permissions=sorted(standing.permissions_of(role)))
