"""Audit keeps which logs the vault refuses, so that nothing is proven or streamed of them, quiet ones included."""

from alembic import op

from causeloop_common import rls

revision = "0013"
down_revision = "0012"

WRITER = "causeloop_audit_writer"


def upgrade() -> None:
    """Make the table, protected as it is made."""
    statements = [
        """
        CREATE TABLE audit.refused (
            workspace_id uuid PRIMARY KEY DEFAULT audit.app_current_tenant(),
            size bigint NOT NULL CHECK (size >= 0),
            entries bigint NOT NULL CHECK (entries >= 0),
            why text NOT NULL,
            since timestamptz NOT NULL DEFAULT now()
        )
        """,
        *rls.protect(
            "audit", "refused", "select", "insert", "update", "delete",
            columns={
                "writer_select": ("workspace_id", "size", "entries"),
                "tenant_update": ("size", "entries", "why"),
            },
            extra=(rls.Policy("writer_select", "select", WRITER, using="true"),),
            audited=False, reason="the log is the record",
        ),
    ]  # fmt: skip
    for statement in statements:
        op.execute(statement)
