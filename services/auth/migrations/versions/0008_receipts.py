"""The outbox keeps a row until the log has receipted it."""

from alembic import op

from causeloop_common import outbox

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns, the condition of what can be announced, and the table of what cannot."""
    for statement in outbox.receipts_ddl("auth"):
        op.execute(statement)
