"""The outbox keeps a row until the log has receipted it."""

from alembic import op

from causeloop_common import outbox

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns, the condition of what can be announced, and the table of what cannot."""
    for statement in outbox.receipts_ddl("tenancy"):
        op.execute(statement)
