"""Updates reach the columns that change, and the guard looks at the tenant a row leaves, too."""

from alembic import op

from causeloop_common import rls

revision = "0007"
down_revision = "0006"

CHANGES = (rls.guard_ddl("tenancy"),)


def upgrade() -> None:
    """Grant UPDATE by columns, so that tenant, ids, scopes and expiry stay; replace the guard."""
    for statement in CHANGES:
        op.execute(statement)
