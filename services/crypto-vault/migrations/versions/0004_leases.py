"""Leases: which replica leads which work."""

from alembic import op

from causeloop_common import leases

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table, its rows, and the function that checks a term."""
    for statement in leases.ddl("vault", {"relay": "causeloop_vault_relay"}):
        op.execute(statement)
