"""The first tables of the log."""

from alembic import op

from causeloop_common import rls

revision = "0001"
down_revision = None

WRITER = "causeloop_audit_writer"
REASON = "the log is the record"


def upgrade() -> None:
    """Make the schema's tables, protected as they are made."""
    statements = [
        *rls.functions_ddl("audit"),
        """
        CREATE TABLE audit.heads (
            workspace_id uuid PRIMARY KEY DEFAULT audit.app_current_tenant(),
            size bigint NOT NULL CHECK (size >= 0),
            root bytea NOT NULL,
            peaks bytea NOT NULL
        )
        """,
        *rls.protect(
            "audit", "heads", "select",
            extra=(
                rls.Policy("writer_select", "select", WRITER, using="true"),
                rls.Policy("writer_insert", "insert", WRITER, check="true"),
                rls.Policy("writer_update", "update", WRITER, using="true", check="true"),
            ),
            audited=False, reason=REASON,
        ),
        """
        CREATE TABLE audit.entries (
            workspace_id uuid NOT NULL DEFAULT audit.app_current_tenant(),
            index bigint NOT NULL CHECK (index >= 0),
            event_id uuid NOT NULL,
            action text COLLATE "C" NOT NULL,
            actor text COLLATE "C" NOT NULL,
            credential text COLLATE "C",
            target text COLLATE "C" NOT NULL,
            request_id text NOT NULL,
            occurred_at timestamptz NOT NULL,
            leaf_hash bytea NOT NULL,
            leaf text,
            PRIMARY KEY (workspace_id, index),
            UNIQUE (workspace_id, event_id)
        )
        """,
        "CREATE INDEX ON audit.entries (workspace_id, actor, index)",
        "CREATE INDEX ON audit.entries (workspace_id, target, index)",
        *rls.protect(
            "audit", "entries", "select",
            columns={"writer_select": ("workspace_id", "event_id")},
            extra=(
                rls.Policy("writer_insert", "insert", WRITER, check="true"),
                rls.Policy("writer_select", "select", WRITER, using="true"),
            ),
            audited=False, reason=REASON,
        ),
    ]  # fmt: skip
    for statement in statements:
        op.execute(statement)
