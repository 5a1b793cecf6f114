"""The inbox: events already seen, so that at-least-once delivery has one effect.

Claimed in the transaction of the effect; a second delivery finds the claim and does nothing. A claim is kept for longer
than its event can come again, from the stream or as a dead letter that is redriven; then the schedule removes it.
"""

from collections.abc import Iterator

from sqlalchemy import Column, DateTime, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_common import rls, schedules

_REASON = "bookkeeping of deliveries; the effect writes the event"
KEPT_DAYS = 40
_EXPIRED = f"(seen_at <= (now() - '{KEPT_DAYS} days'::interval))"
_SEEN = ("workspace_id", "consumer", "event_id", "seen_at")


def table(metadata: MetaData) -> Table:
    """Declare the inbox in a service's metadata."""
    return Table(
        "inbox",
        metadata,
        rls.tenant_column(),
        Column("consumer", Text, primary_key=True),
        Column("event_id", UUID, primary_key=True),
        Column("seen_at", DateTime(timezone=True), nullable=False),
        info=rls.protected(
            "select", "insert",
            columns={"expired_select": _SEEN}, extra=schedules.policies(str(metadata.schema), _EXPIRED),
            audited=False, reason=_REASON,
        ) | {"expired": _EXPIRED},
    )  # fmt: skip


def ddl(schema: str) -> Iterator[str]:
    """The statements that make the inbox, for a migration."""
    yield f"""
        CREATE TABLE {schema}.inbox (
            workspace_id uuid NOT NULL DEFAULT {schema}.app_current_tenant(),
            consumer text NOT NULL,
            event_id uuid NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, consumer, event_id)
        )
    """
    yield f"CREATE INDEX ON {schema}.inbox USING brin (seen_at)"
    yield from rls.protect(
        schema, "inbox", "select", "insert",
        columns={"expired_select": _SEEN}, extra=schedules.policies(schema, _EXPIRED), audited=False, reason=_REASON,
    )  # fmt: skip


def order_ddl(schema: str) -> Iterator[str]:
    """The statements that have what is over found by its age alone, for a later migration (see `idempotency`)."""
    yield f"DROP INDEX {schema}.inbox_seen_at_idx"
    yield f"CREATE INDEX ON {schema}.inbox (seen_at)"


def claim(schema: str) -> str:
    """Inserts the claim of consumer and event; 'INSERT 0 0' means that the event was seen before."""
    return f"INSERT INTO {schema}.inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"  # noqa: S608
