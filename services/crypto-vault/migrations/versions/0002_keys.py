"""Named keys: a row for each version of a key's material, sealed under the tenant's data key."""

from alembic import op

from causeloop_common import rls

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table, protected as it is made."""
    statements = [
        """
        CREATE TABLE vault.keys (
            workspace_id uuid NOT NULL DEFAULT vault.app_current_tenant(),
            name text NOT NULL,
            version integer NOT NULL CHECK (version > 0),
            id uuid NOT NULL,
            type text NOT NULL,
            sealed text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, name, version)
        )
        """,
        *rls.protect("vault", "keys", "select", "insert"),
    ]
    for statement in statements:
        op.execute(statement)
