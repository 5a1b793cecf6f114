"""The intake keeps up to where it enters the stream again, so that its successor is not ready before that either."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the number in the stream; 0 while nothing is entered again."""
    op.execute("ALTER TABLE audit.intake ADD COLUMN again_to bigint NOT NULL DEFAULT 0")
