"""Schedules: what the service does once per period; its first task is to forget what is over."""

from alembic import op

from causeloop_common import idempotency, leases, schedules

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the table and its lease, and let its role remove expired answers."""
    statements = [
        *schedules.ddl("vault"),
        *leases.add("vault", {"schedule": "causeloop_vault_jobs"}),
        *idempotency.expiry_ddl("vault"),
    ]
    for statement in statements:
        op.execute(statement)
