"""The signing key of the installation's logs, and what was last signed of each."""

from alembic import op

from causeloop_common import rls

revision = "0003"
down_revision = "0002"

REASON = "what the vault signed of a log; an event about it would move the log it signed"


def upgrade() -> None:
    """Make the tables, protected as they are made."""
    statements = [
        """
        CREATE TABLE vault.signing_keys (
            workspace_id uuid NOT NULL DEFAULT vault.app_current_tenant(),
            version integer NOT NULL CHECK (version > 0),
            public bytea NOT NULL CHECK (octet_length(public) = 32),
            sealed text NOT NULL,
            origin text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, version)
        )
        """,
        *rls.protect("vault", "signing_keys", "select", "insert"),
        """
        CREATE TABLE vault.checkpoints (
            workspace_id uuid PRIMARY KEY DEFAULT vault.app_current_tenant(),
            size bigint NOT NULL CHECK (size >= 0),
            root bytea NOT NULL CHECK (octet_length(root) = 32)
        )
        """,
        *rls.protect("vault", "checkpoints", "select", "insert", "update", audited=False, reason=REASON),
    ]
    for statement in statements:
        op.execute(statement)
