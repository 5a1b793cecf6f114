"""The identity behind a job, whole, and for whom the actor of an event acted."""

from alembic import op

from causeloop_common import jobs, outbox

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns to jobs and outbox."""
    for statement in (*jobs.identity_ddl("vault"), *outbox.add("vault", "on_behalf_of")):
        op.execute(statement)
