"""The nodes that proofs are made from, and the checkpoints that the vault signed."""

from alembic import op
from sqlalchemy import Connection

from causeloop_common import rls
from causeloop_log.tlog.merkle import NODE_HEIGHT, Frontier

revision = "0002"
down_revision = "0001"

WRITER = "causeloop_audit_writer"
REASON = "the log is the record"


def upgrade() -> None:
    """Make the tables, protected as they are made, and the nodes of what was logged before there were any.

    An audit service of before knows no nodes: it has to be stopped before and not started after.
    """
    statements = [
        """
        CREATE TABLE audit.nodes (
            workspace_id uuid NOT NULL DEFAULT audit.app_current_tenant(),
            level smallint NOT NULL CHECK (level > 0),
            index bigint NOT NULL CHECK (index >= 0),
            hash bytea NOT NULL CHECK (octet_length(hash) = 32),
            PRIMARY KEY (workspace_id, level, index)
        )
        """,
        """
        CREATE TABLE audit.checkpoints (
            workspace_id uuid PRIMARY KEY DEFAULT audit.app_current_tenant(),
            size bigint NOT NULL CHECK (size >= 0),
            root bytea NOT NULL CHECK (octet_length(root) = 32),
            note text NOT NULL
        )
        """,
    ]
    for statement in statements:
        op.execute(statement)
    _add_nodes(op.get_bind())
    protected = [
        *rls.protect(
            "audit", "nodes", "select",
            extra=(rls.Policy("writer_insert", "insert", WRITER, check="true"),), audited=False, reason=REASON,
        ),
        *rls.protect(
            "audit", "checkpoints", "select", "insert", "update",
            columns={"writer_select": ("workspace_id", "size", "root")},
            extra=(rls.Policy("writer_select", "select", WRITER, using="true"),), audited=False, reason=REASON,
        ),
    ]  # fmt: skip
    for statement in protected:
        op.execute(statement)


def _add_nodes(connection: Connection) -> None:
    """From the leaves' hashes. The owner sees them only while the tables do not force row security on it, in here."""
    for table in ("heads", "entries"):
        op.execute(f"ALTER TABLE audit.{table} NO FORCE ROW LEVEL SECURITY")
    whole = 1 << NODE_HEIGHT
    logs = connection.exec_driver_sql(f"SELECT workspace_id FROM audit.heads WHERE size >= {whole}").scalars().all()
    for log in logs:
        frontier = Frontier()
        query = f"SELECT leaf_hash FROM audit.entries WHERE workspace_id = '{log}' ORDER BY index"
        for leaf_hash in connection.exec_driver_sql(query).scalars():
            frontier.append(bytes(leaf_hash))
        for node in frontier.completed:
            op.execute(
                "INSERT INTO audit.nodes (workspace_id, level, index, hash) "
                f"VALUES ('{log}', {node.level}, {node.index}, '\\x{node.hash.hex()}')"
            )
    for table in ("heads", "entries"):
        op.execute(f"ALTER TABLE audit.{table} FORCE ROW LEVEL SECURITY")
