"""The first tables of tenancy."""

from alembic import op

from causeloop_common import idempotency, outbox, rls

revision = "0001"
down_revision = None

MEMBER_SELF_SELECT = rls.Policy(
    "member_self_select",
    "select",
    "causeloop_tenancy",
    using=f"((person_id = {rls.person('tenancy')}) AND ({rls.tenant('tenancy')} IS NULL))",
)


def upgrade() -> None:
    """Make the schema's tables, protected as they are made."""
    statements = [
        *rls.functions_ddl("tenancy"),
        *outbox.ddl("tenancy"),
        rls.guard_ddl("tenancy"),
        *idempotency.ddl("tenancy"),
        """
        CREATE TABLE tenancy.workspaces (
            workspace_id uuid PRIMARY KEY DEFAULT tenancy.app_current_tenant(),
            name text NOT NULL,
            slug text NOT NULL,
            timezone text NOT NULL,
            created_by uuid NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )
        """,
        *rls.protect("tenancy", "workspaces", "select", "insert"),
        """
        CREATE TABLE tenancy.members (
            workspace_id uuid NOT NULL DEFAULT tenancy.app_current_tenant() REFERENCES tenancy.workspaces,
            person_id uuid NOT NULL,
            role text NOT NULL,
            joined_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, person_id)
        )
        """,
        "CREATE INDEX ON tenancy.members (person_id, workspace_id)",
        *rls.protect("tenancy", "members", "select", "insert", extra=(MEMBER_SELF_SELECT,)),
    ]
    for statement in statements:
        op.execute(statement)
