"""A log that cannot continue what was signed of it begins a new epoch; the end of the one before is kept."""

from alembic import op

from causeloop_common import rls

revision = "0014"
down_revision = "0013"

JOBS = "causeloop_vault_jobs"


def upgrade() -> None:
    """Add the epoch to what was signed, and let an operator see what was signed of all logs; make the table of ends."""
    every = rls.Policy("jobs_select", "select", JOBS, using="true")
    statements = [
        "ALTER TABLE vault.checkpoints ADD COLUMN epoch integer NOT NULL DEFAULT 1 CHECK (epoch > 0)",
        *rls.narrow("vault", "checkpoints", "causeloop_vault", "epoch", "size", "root"),
        every.ddl("vault.checkpoints"),
        f"GRANT SELECT (workspace_id, epoch, size, root) ON vault.checkpoints TO {JOBS}",
        """
        CREATE TABLE vault.epochs (
            workspace_id uuid NOT NULL DEFAULT vault.app_current_tenant(),
            epoch integer NOT NULL CHECK (epoch > 0),
            size bigint NOT NULL CHECK (size > 0),
            root bytea NOT NULL CHECK (octet_length(root) = 32),
            reason text NOT NULL CHECK (octet_length(reason) <= 1024),
            ended_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, epoch)
        )
        """,
        *rls.protect("vault", "epochs", "select", "insert"),
    ]
    for statement in statements:
        op.execute(statement)
