"""The vault's first tables."""

from alembic import op

from causeloop_common import idempotency, outbox, rls

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the schema's tables, protected as they are made."""
    statements = [
        *rls.functions_ddl("vault"),
        *outbox.ddl("vault"),
        rls.guard_ddl("vault"),
        *idempotency.ddl("vault"),
        """
        CREATE TABLE vault.keyrings (
            workspace_id uuid NOT NULL DEFAULT vault.app_current_tenant(),
            version integer NOT NULL CHECK (version > 0),
            wrapped text NOT NULL,
            master text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, version)
        )
        """,
        *rls.protect("vault", "keyrings", "select", "insert"),
        """
        CREATE TABLE vault.secrets (
            workspace_id uuid NOT NULL DEFAULT vault.app_current_tenant(),
            path text NOT NULL,
            id uuid NOT NULL,
            version integer NOT NULL CHECK (version > 0),
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, path)
        )
        """,
        *rls.protect("vault", "secrets", "select", "insert", "update"),
        """
        CREATE TABLE vault.secret_versions (
            workspace_id uuid NOT NULL DEFAULT vault.app_current_tenant(),
            path text NOT NULL,
            version integer NOT NULL CHECK (version > 0),
            sealed text NOT NULL,
            created_by text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, path, version),
            FOREIGN KEY (workspace_id, path) REFERENCES vault.secrets
        )
        """,
        *rls.protect("vault", "secret_versions", "select", "insert"),
    ]
    for statement in statements:
        op.execute(statement)
