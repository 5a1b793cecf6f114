"""The heads of many logs are read, and their checkpoints kept, in one transaction, each under its own row security."""

from alembic import op

from causeloop_audit.models import KEEP_CHECKPOINTS, LOG_HASHES, LOG_STATES
from causeloop_common import rls

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Make the functions."""
    for statement in rls.visit_ddl("audit", LOG_STATES, LOG_HASHES, KEEP_CHECKPOINTS):
        op.execute(statement)
