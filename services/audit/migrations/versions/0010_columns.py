"""Updates reach the columns that change, and the guard looks at the tenant a row leaves, too."""

from alembic import op

from causeloop_common import rls

revision = "0010"
down_revision = "0009"

CHANGES = (
    rls.guard_ddl("audit"),
    *rls.narrow("audit", "heads", "causeloop_audit_writer", "size", "root", "peaks"),
    *rls.narrow("audit", "checkpoints", "causeloop_audit", "size", "root", "note"),
)


def upgrade() -> None:
    """Grant UPDATE by columns, so that tenant, ids, scopes and expiry stay; replace the guard."""
    for statement in CHANGES:
        op.execute(statement)
