"""Versions of data keys: one is the primary, which seals; what older ones sealed can be sealed anew."""

from alembic import op

from causeloop_common import rls

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the state of data keys, and let the vault change it, and the ciphertexts that it stores."""
    statements = [
        """
        ALTER TABLE vault.keyrings
            ADD COLUMN state text NOT NULL DEFAULT 'primary' CHECK (state IN ('primary', 'enabled'))
        """,
        "CREATE UNIQUE INDEX keyrings_primary ON vault.keyrings (workspace_id) WHERE state = 'primary'",
        *rls.allow("vault", "keyrings", "update", "state"),
        *rls.allow("vault", "keys", "update", "sealed"),
        *rls.allow("vault", "secret_versions", "update", "sealed"),
        *rls.allow("vault", "signing_keys", "update", "sealed"),
    ]
    for statement in statements:
        op.execute(statement)
