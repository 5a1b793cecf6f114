"""An event is known by tenant, service and id, with a digest; events of a damaged log are held."""

from alembic import op

from causeloop_common import rls

revision = "0008"
down_revision = "0007"

WRITER = "causeloop_audit_writer"


def upgrade() -> None:
    """Add the columns, and the service of what was logged before: the first part of its action.

    An audit service of before gives no service: the database refuses its entries, and their events wait in the stream.
    """
    statements = [
        "ALTER TABLE audit.entries NO FORCE ROW LEVEL SECURITY",
        """ALTER TABLE audit.entries ADD COLUMN service text COLLATE "C", ADD COLUMN digest bytea""",
        "UPDATE audit.entries SET service = split_part(action, '.', 1)",
        "ALTER TABLE audit.entries ALTER COLUMN service SET NOT NULL",
        "ALTER TABLE audit.entries ADD UNIQUE (workspace_id, event_id, service)",
        "ALTER TABLE audit.entries DROP CONSTRAINT entries_workspace_id_event_id_key",
        "ALTER TABLE audit.entries FORCE ROW LEVEL SECURITY",
        f"GRANT SELECT (service, digest, action) ON audit.entries TO {WRITER}",
        """
        CREATE TABLE audit.held (
            workspace_id uuid NOT NULL,
            service text NOT NULL,
            event_id uuid NOT NULL,
            number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
            until timestamptz NOT NULL,
            subject text NOT NULL,
            headers bytea NOT NULL,
            data bytea NOT NULL,
            PRIMARY KEY (workspace_id, service, event_id)
        )
        """,
        *rls.protect_from_service(
            "audit", "held",
            rls.Policy("writer_select", "select", WRITER, using="true"),
            rls.Policy("writer_insert", "insert", WRITER, check="true"),
            rls.Policy("writer_delete", "delete", WRITER, using="true"),
            reason="events on their way into the log",
        ),
    ]  # fmt: skip
    for statement in statements:
        op.execute(statement)
