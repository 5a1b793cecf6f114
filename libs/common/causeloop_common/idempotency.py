"""Idempotency: commands already done, kept 24 hours in the transaction of their effect.

A key that is used again after that is new. The schedule removes what is over, of idle tenants too.

The key is the client's, per tenant, principal and operation. The fingerprint is the gateway's keyed digest of the
whole request, so that the table reveals no secret. An answer that shows a secret is stored without it.
"""

from collections.abc import Iterator

from sqlalchemy import Column, DateTime, MetaData, Table, Text

from causeloop_common import rls, schedules
from causeloop_common.contracts.personal import PERSON


class Replayed(Exception):
    """The command was done before; `reply` is the JSON it was answered with. Not an error: the router answers it."""

    def __init__(self, reply: bytes) -> None:
        super().__init__("This command was done before.")
        self.reply = reply


_REASON = "remembers answers for 24 hours; the effect it belongs to writes the event"
_KEPT = "interval '24 hours'"
_EXPIRED = "(created_at <= (now() - '24:00:00'::interval))"
_SEEN = ("workspace_id", "principal", "operation", "key", "created_at")


def table(metadata: MetaData) -> Table:
    """Declare the table in a service's metadata."""
    return Table(
        "idempotency",
        metadata,
        rls.tenant_column(),
        Column("principal", Text, primary_key=True, info=PERSON.info),
        Column("operation", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("fingerprint", Text, nullable=False),
        Column("reply", Text, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        info=rls.protected(
            "select", "insert", "delete",
            columns={"expired_select": _SEEN}, extra=schedules.policies(str(metadata.schema), _EXPIRED),
            audited=False, reason=_REASON,
        ) | {"expired": _EXPIRED},
    )  # fmt: skip


def ddl(schema: str) -> Iterator[str]:
    """The statements that make the table, for a service's first migration."""
    yield f"""
        CREATE TABLE {schema}.idempotency (
            workspace_id uuid NOT NULL DEFAULT {schema}.app_current_tenant(),
            principal text NOT NULL,
            operation text NOT NULL,
            key text NOT NULL,
            fingerprint text NOT NULL,
            reply text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, principal, operation, key)
        )
    """
    yield f"CREATE INDEX ON {schema}.idempotency (workspace_id, created_at)"
    yield from rls.protect(schema, "idempotency", "select", "insert", "delete", audited=False, reason=_REASON)


LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))"
"""Whether no twin is at work: takes the transaction's advisory lock on (tenant, principal, operation, key).

A statement of its own: the look-up after it sees what a twin committed before the lock was free.
"""


def find(schema: str) -> str:
    """Fingerprint and reply of the first one, while it is remembered; by principal, operation and key."""
    return (
        f"SELECT fingerprint, reply FROM {schema}.idempotency "  # noqa: S608
        f"WHERE principal = $1 AND operation = $2 AND key = $3 AND created_at > now() - {_KEPT}"
    )


def forget(schema: str) -> str:
    """Removes what was remembered of this command too long ago, by principal, operation and key."""
    return (
        f"DELETE FROM {schema}.idempotency "  # noqa: S608
        f"WHERE principal = $1 AND operation = $2 AND key = $3 AND created_at <= now() - {_KEPT}"
    )


def expiry_ddl(schema: str) -> Iterator[str]:
    """The statements that let the schedule's role remove what is over, for a later migration than that of the table."""
    yield f"CREATE INDEX ON {schema}.idempotency USING brin (created_at)"
    for policy in schedules.policies(schema, _EXPIRED):
        yield policy.ddl(f"{schema}.idempotency")
    yield f"GRANT SELECT ({', '.join(_SEEN)}), DELETE ON {schema}.idempotency TO {schedules.role(schema)}"


def order_ddl(schema: str) -> Iterator[str]:
    """The statements that have what is over found by its age alone, for a later migration than `expiry_ddl`'s.

    Pages are used again, so the times of a page are in no order, and an index by ranges of pages excludes nothing.
    """
    yield f"DROP INDEX {schema}.idempotency_created_at_idx, {schema}.idempotency_workspace_id_created_at_idx"
    yield f"CREATE INDEX ON {schema}.idempotency (created_at)"


def remember(schema: str) -> str:
    """Stores the reply."""
    columns = "principal, operation, key, fingerprint, reply"
    return f"INSERT INTO {schema}.idempotency ({columns}) VALUES ($1, $2, $3, $4, $5)"  # noqa: S608
