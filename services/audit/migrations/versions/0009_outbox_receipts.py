"""The outbox keeps a row until the log has receipted it, and the intake numbers its batches."""

from alembic import op

from causeloop_common import outbox, rls

revision = "0009"
down_revision = "0008"

WRITER = "causeloop_audit_writer"


def upgrade() -> None:
    """Add to the outbox as in its twins; make the row of the intake."""
    statements = [
        *outbox.receipts_ddl("audit"),
        """
        CREATE TABLE audit.intake (
            id smallint PRIMARY KEY CHECK (id = 1),
            batch bigint NOT NULL,
            position bigint NOT NULL
        )
        """,
        "INSERT INTO audit.intake VALUES (1, 0, 0)",
        *rls.protect_from_service(
            "audit", "intake",
            rls.Policy("writer_select", "select", WRITER, using="true"),
            rls.Policy("writer_update", "update", WRITER, using="true", check="true"),
            reason="how far the stream is entered, no tenant's data",
        ),
    ]  # fmt: skip
    for statement in statements:
        op.execute(statement)
