"""Indexes for tables that have grown."""

from alembic import op

from causeloop_common import idempotency, jobs

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Find open jobs by their kind, expired answers by their age, and what is held of a log in its order."""
    statements = [
        *jobs.open_ddl("audit"),
        *idempotency.order_ddl("audit"),
        "CREATE INDEX ON audit.held (workspace_id, number)",
    ]
    for statement in statements:
        op.execute(statement)
