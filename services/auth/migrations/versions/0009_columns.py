"""Updates reach the columns that change, and the guard looks at the tenant a row leaves, too."""

from alembic import op

from causeloop_common import rls

revision = "0009"
down_revision = "0008"

SESSION_CHANGES = ("current", "siblings", "previous", "spent", "rotated_at", "entered", "ended_at")
CHANGES = (
    rls.guard_ddl("auth"),
    *rls.narrow("auth", "sessions", "causeloop_auth", *SESSION_CHANGES),
    *rls.narrow("auth", "tokens", "causeloop_auth", "revoked_at"),
)


def upgrade() -> None:
    """Grant UPDATE by columns, so that tenant, ids, scopes and expiry stay; replace the guard."""
    for statement in CHANGES:
        op.execute(statement)
