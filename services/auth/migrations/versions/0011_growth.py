"""Indexes for tables that have grown."""

from alembic import op

from causeloop_common import idempotency, jobs

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Find open jobs by their kind, and expired answers by their age."""
    for statement in (*jobs.open_ddl("auth"), *idempotency.order_ddl("auth")):
        op.execute(statement)
