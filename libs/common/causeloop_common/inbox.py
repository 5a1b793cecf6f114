"""The inbox: events already seen, so that at-least-once delivery has one effect.

Claimed in the transaction of the effect; a second delivery finds the claim and does nothing.
"""

from collections.abc import Iterator

from sqlalchemy import Column, DateTime, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_common import rls

_REASON = "bookkeeping of deliveries; the effect writes the event"


def table(metadata: MetaData) -> Table:
    """Declare the inbox in a service's metadata."""
    return Table(
        "inbox",
        metadata,
        rls.tenant_column(),
        Column("consumer", Text, primary_key=True),
        Column("event_id", UUID, primary_key=True),
        Column("seen_at", DateTime(timezone=True), nullable=False),
        info=rls.protected("select", "insert", audited=False, reason=_REASON),
    )


def ddl(schema: str) -> Iterator[str]:
    """The statements that make the inbox, for a service's first migration."""
    yield f"""
        CREATE TABLE {schema}.inbox (
            workspace_id uuid NOT NULL DEFAULT {schema}.app_current_tenant(),
            consumer text NOT NULL,
            event_id uuid NOT NULL,
            seen_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (workspace_id, consumer, event_id)
        )
    """
    yield from rls.protect(schema, "inbox", "select", "insert", audited=False, reason=_REASON)


def claim(schema: str) -> str:
    """Inserts the claim of consumer and event; 'INSERT 0 0' means that the event was seen before."""
    return f"INSERT INTO {schema}.inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"  # noqa: S608
