"""Indexes for tables that have grown."""

from alembic import op

from causeloop_common import idempotency, jobs

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Find open jobs by their kind, and expired answers by their age."""
    for statement in (*jobs.open_ddl("tenancy"), *idempotency.order_ddl("tenancy")):
        op.execute(statement)
