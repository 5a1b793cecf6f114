"""A session's sealed value is stored by the vault."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Let sessions be without it; the vault's migration moves what is here, and a later one drops the column."""
    op.execute("ALTER TABLE auth.sessions ALTER COLUMN sealed DROP NOT NULL")
