"""Sealed values of other services, and what auth had sealed and kept itself."""

from alembic import op
from sqlalchemy import Connection, text

from causeloop_common import ids, rls

revision = "0007"
down_revision = "0006"

_SESSIONS = """
    SELECT 1 FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = 'auth' AND relname = 'sessions' AND attname = 'sealed' AND NOT attisdropped
    """


def upgrade() -> None:
    """Make the table, move the values of sessions into it, and protect it.

    An auth service of before keeps its values itself: it has to be stopped before and not started after.
    """
    op.execute(
        """
        CREATE TABLE vault.sealed_values (
            workspace_id uuid NOT NULL DEFAULT vault.app_current_tenant(),
            purpose text NOT NULL,
            record text NOT NULL,
            sealed text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, purpose, record)
        )
        """
    )
    connection = op.get_bind()
    if connection.execute(text(_SESSIONS)).first() is not None:
        _move_sessions(connection)
    for statement in rls.protect(
        "vault", "sealed_values", "select", "insert", "update", "delete",
        columns={"tenant_update": ("sealed", "updated_at")},
    ):  # fmt: skip
        op.execute(statement)


def _move_sessions(connection: Connection) -> None:
    """Move the ciphertexts as they are: their place is the session's in both tables. Those of ended sessions go.

    Auth's owner sees the rows only while the table does not force row security on it, in here. The commit guard rests
    as well: the log has the events of these sessions.
    """
    op.execute("SET LOCAL ROLE causeloop_auth_owner")
    op.execute("ALTER TABLE auth.sessions NO FORCE ROW LEVEL SECURITY, DISABLE TRIGGER require_event")
    rows = connection.execute(
        text(
            "SELECT workspace_id, id, sealed, created_at FROM auth.sessions "
            "WHERE sealed IS NOT NULL AND ended_at IS NULL"
        )
    ).all()
    op.execute("UPDATE auth.sessions SET sealed = NULL WHERE sealed IS NOT NULL")
    op.execute("ALTER TABLE auth.sessions ENABLE TRIGGER require_event, FORCE ROW LEVEL SECURITY")
    op.execute("SET LOCAL ROLE causeloop_vault_owner")
    if rows:
        connection.execute(
            text(
                "INSERT INTO vault.sealed_values (workspace_id, purpose, record, sealed, created_at, updated_at) "
                "VALUES (:workspace, 'auth/session', :record, :sealed, :at, :at)"
            ),
            [
                {"workspace": row[0], "record": ids.encode("ses", row[1]), "sealed": row[2], "at": row[3]}
                for row in rows
            ],
        )
