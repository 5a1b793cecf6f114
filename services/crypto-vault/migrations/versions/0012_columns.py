"""Updates reach the columns that change, and the guard looks at the tenant a row leaves, too."""

from alembic import op

from causeloop_common import rls

revision = "0012"
down_revision = "0011"

CHANGES = (
    rls.guard_ddl("vault"),
    *rls.narrow("vault", "secrets", "causeloop_vault", "version", "updated_at"),
    *rls.narrow("vault", "checkpoints", "causeloop_vault", "size", "root"),
)


def upgrade() -> None:
    """Grant UPDATE by columns, so that tenant, ids, scopes and expiry stay; replace the guard."""
    for statement in CHANGES:
        op.execute(statement)
