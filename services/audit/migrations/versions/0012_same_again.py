"""An event that is entered again becomes the same entry, in the same order."""

from alembic import op

from causeloop_common import outbox

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the salt to the outbox as in its twins, the time of what is held, and the stream of the position.

    The position that an audit service of before left belongs to no stream: it does not count what was known or held.
    """
    statements = [
        *outbox.salt_ddl("audit"),
        "ALTER TABLE audit.held ADD COLUMN came_at timestamptz NOT NULL DEFAULT now()",
        "ALTER TABLE audit.intake ADD COLUMN stream text NOT NULL DEFAULT ''",
    ]
    for statement in statements:
        op.execute(statement)
