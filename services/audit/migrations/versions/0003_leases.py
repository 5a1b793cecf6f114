"""Leases: which replica leads which work."""

from alembic import op

from causeloop_common import leases

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table, its rows, and the function that checks a term."""
    for statement in leases.ddl("audit", {"intake": "causeloop_audit_writer", "signer": "causeloop_audit"}):
        op.execute(statement)
