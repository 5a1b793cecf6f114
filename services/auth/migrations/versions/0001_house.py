"""The first tables of auth."""

from alembic import op

from causeloop_common import idempotency, outbox, rls

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the schema's tables, protected as they are made."""
    statements = [
        *rls.functions_ddl("auth"),
        *outbox.ddl("auth"),
        rls.guard_ddl("auth"),
        *idempotency.ddl("auth"),
        """
        CREATE TABLE auth.sessions (
            workspace_id uuid NOT NULL DEFAULT auth.app_current_tenant(),
            id uuid NOT NULL,
            current bytea NOT NULL,
            previous bytea,
            rotated_at timestamptz NOT NULL,
            entered uuid,
            sealed text NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            ended_at timestamptz,
            PRIMARY KEY (workspace_id, id)
        )
        """,
        *rls.protect("auth", "sessions", "select", "insert", "update"),
        """
        CREATE TABLE auth.tokens (
            workspace_id uuid NOT NULL DEFAULT auth.app_current_tenant(),
            id uuid NOT NULL,
            owner uuid NOT NULL,
            name text NOT NULL,
            scopes text[] NOT NULL,
            digest bytea NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            revoked_at timestamptz,
            PRIMARY KEY (workspace_id, id),
            UNIQUE (workspace_id, digest)
        )
        """,
        "CREATE INDEX ON auth.tokens (workspace_id, owner, id)",
        *rls.protect("auth", "tokens", "select", "insert", "update"),
    ]
    for statement in statements:
        op.execute(statement)
