"""A checkpoint is of an epoch of its log; one of a later epoch takes the place of one of an earlier."""

from alembic import op

from causeloop_common import rls

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the epoch, which is the first of what was signed before."""
    statements = [
        "ALTER TABLE audit.checkpoints ADD COLUMN epoch integer NOT NULL DEFAULT 1 CHECK (epoch > 0)",
        *rls.narrow("audit", "checkpoints", "causeloop_audit", "epoch", "size", "root", "note"),
    ]
    for statement in statements:
        op.execute(statement)
