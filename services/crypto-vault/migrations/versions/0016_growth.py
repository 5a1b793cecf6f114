"""Indexes for tables that have grown."""

from alembic import op

from causeloop_common import idempotency, inbox, jobs

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Find open jobs by their kind, and expired answers and claims by their age."""
    for statement in (*jobs.open_ddl("vault"), *idempotency.order_ddl("vault"), *inbox.order_ddl("vault")):
        op.execute(statement)
