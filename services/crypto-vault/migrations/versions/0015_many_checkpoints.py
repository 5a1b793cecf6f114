"""The heads of many logs are locked and moved in one transaction, each under the row security of its tenant."""

from alembic import op

from causeloop_common import rls
from causeloop_vault.models import LOCK_CHECKPOINTS, MOVE_CHECKPOINTS

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Make the functions."""
    for statement in rls.visit_ddl("vault", LOCK_CHECKPOINTS, MOVE_CHECKPOINTS):
        op.execute(statement)
