"""Schedules: what the service does once per period; its first task is to forget what is over."""

from alembic import op

from causeloop_common import idempotency, leases, schedules

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table and its lease, and let its role remove expired answers."""
    statements = [
        *schedules.ddl("tenancy"),
        *leases.add("tenancy", {"schedule": "causeloop_tenancy_jobs"}),
        *idempotency.expiry_ddl("tenancy"),
    ]
    for statement in statements:
        op.execute(statement)
