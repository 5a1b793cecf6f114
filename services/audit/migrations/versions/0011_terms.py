"""The intake keeps its terms, so that a relay which missed some still notices a restore."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the terms: an array of pairs, each a term and the batch after which it began."""
    op.execute("ALTER TABLE audit.intake ADD COLUMN terms jsonb NOT NULL DEFAULT '[]'")
