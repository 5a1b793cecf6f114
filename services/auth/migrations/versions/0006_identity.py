"""The identity behind a job, whole, and for whom the actor of an event acted."""

from alembic import op

from causeloop_common import jobs, outbox

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns to jobs and outbox."""
    for statement in (*jobs.identity_ddl("auth"), *outbox.add("auth", "on_behalf_of")):
        op.execute(statement)
