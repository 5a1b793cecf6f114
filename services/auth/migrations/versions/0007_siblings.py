"""A refresh token that two tabs present at once has two successors, and both live."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Keep, beside the newest refresh token and its predecessor, the others of both kinds."""
    op.execute(
        """
        ALTER TABLE auth.sessions
            ADD COLUMN siblings bytea[] NOT NULL DEFAULT '{}',
            ADD COLUMN spent bytea[] NOT NULL DEFAULT '{}'
        """
    )
