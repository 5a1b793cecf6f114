"""An outbox, answers to commands already done, and a relay, as its twins have them."""

from alembic import op

from causeloop_common import idempotency, leases, outbox, rls

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables, protected as they are made, and the relay's lease."""
    statements = [
        *outbox.ddl("audit"),
        rls.guard_ddl("audit"),
        *idempotency.ddl("audit"),
        *leases.add("audit", {"relay": "causeloop_audit_relay"}),
    ]
    for statement in statements:
        op.execute(statement)
