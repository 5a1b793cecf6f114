"""All SQL of tenancy. Row security binds every statement to the transaction's tenant, or to the person."""

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import insert

from causeloop_common import ids
from causeloop_common.contracts.tenancy import MyWorkspace, WorkspaceView
from causeloop_common.database import Reading, Transaction
from causeloop_common.statements import Statement
from causeloop_tenancy.models import members, workspaces

_ADD_WORKSPACE = Statement.of(insert(workspaces).on_conflict_do_nothing(), "name", "slug", "timezone", "created_by")
_WORKSPACE = Statement.of(select(workspaces))
_ADD_MEMBER = Statement.insert(members, "person_id", "role")
_ROLE = Statement.of(
    select(members.c.role).where(
        members.c.workspace_id == func.tenancy.app_current_tenant(), members.c.person_id == bindparam("person")
    )
)
_MEMBERSHIPS = Statement.of(
    select(members.c.workspace_id, members.c.role, members.c.joined_at)
    .where(members.c.person_id == bindparam("person"), members.c.workspace_id > bindparam("after"))
    .order_by(members.c.workspace_id)
    .limit(bindparam("limit"))
)


async def add_workspace(tx: Transaction, name: str, slug: str, timezone: str, creator: str) -> bool:
    """Make the workspace of the transaction's tenant; False when it is there already."""
    by = ids.decode(creator, "usr")
    return await tx.execute(_ADD_WORKSPACE, name=name, slug=slug, timezone=timezone, created_by=by) == 1


async def workspace(tx: Reading) -> WorkspaceView | None:
    """The workspace of the transaction's tenant."""
    row = await tx.fetchrow(_WORKSPACE)
    if row is None:
        return None
    return WorkspaceView(
        id=ids.tenant_id(row["workspace_id"]),
        name=row["name"],
        slug=row["slug"],
        timezone=row["timezone"],
        created_by=ids.encode("usr", row["created_by"]),
        created_at=row["created_at"],
    )


def add_member(tx: Transaction, person: str, role: str) -> None:
    """Let a person belong to the workspace."""
    tx.later(_ADD_MEMBER, person_id=ids.decode(person, "usr"), role=role)


async def role_of(tx: Reading, person: str) -> str | None:
    """A person's role in the workspace; None for a stranger.

    It names the tenant for the key's sake: the policies, joined by OR, would have all memberships of the person read.
    """
    row = await tx.fetchrow(_ROLE, person=ids.decode(person, "usr"))
    return None if row is None else str(row["role"])


async def memberships_after(tx: Reading, person: str, workspace_id: str | None, limit: int) -> list[MyWorkspace]:
    """The memberships of the person of a person's transaction, by workspace, after the given one.

    The policies alone would have the database read every row: one of them is for tenants, and they are joined by OR.
    """
    after = ids.NIL if workspace_id is None else ids.tenant_uuid(workspace_id)
    rows = await tx.fetch(_MEMBERSHIPS, person=ids.decode(person, "usr"), after=after, limit=limit)
    return [MyWorkspace(**{**row, "workspace_id": ids.tenant_id(row["workspace_id"])}) for row in rows]
