"""The jobs of the service."""

from alembic import op

from causeloop_common import jobs

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table, protected as it is made."""
    for statement in jobs.ddl("tenancy"):
        op.execute(statement)
