"""An event brings the salt of its entry, so that the log enters it again as the same entry."""

from alembic import op

from causeloop_common import outbox

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the salt to the outbox as in its twins."""
    for statement in outbox.salt_ddl("vault"):
        op.execute(statement)
