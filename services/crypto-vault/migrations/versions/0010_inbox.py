"""The inbox: events that the vault has handled."""

from alembic import op

from causeloop_common import inbox

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table, protected as it is made."""
    for statement in inbox.ddl("vault"):
        op.execute(statement)
