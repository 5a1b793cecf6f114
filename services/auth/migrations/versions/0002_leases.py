"""Leases: which replica leads which work."""

from alembic import op

from causeloop_common import leases

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table, its rows, and the function that checks a term."""
    for statement in leases.ddl("auth", {"relay": "causeloop_auth_relay"}):
        op.execute(statement)
