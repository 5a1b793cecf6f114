"""Schedules: what the service does once per period; its first task is to forget what is over."""

from alembic import op

from causeloop_common import idempotency, leases, schedules

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table and its lease, and let its role remove expired answers."""
    statements = [
        *schedules.ddl("auth"),
        *leases.add("auth", {"schedule": "causeloop_auth_jobs"}),
        *idempotency.expiry_ddl("auth"),
    ]
    for statement in statements:
        op.execute(statement)
