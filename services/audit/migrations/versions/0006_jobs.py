"""The jobs of the service."""

from alembic import op

from causeloop_common import jobs

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table, protected as it is made."""
    for statement in jobs.ddl("audit"):
        op.execute(statement)
