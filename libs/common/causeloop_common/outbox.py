"""The outbox: events written in the transaction of their act.

A service may insert rows and see of them no more than tenant and transaction (for the commit guard). It cannot choose
`xid`, which is PostgreSQL's own default and not among the columns it may fill. Three partitions by day take turns:
the relay empties the one that is past the window, so that nothing is deleted row by row and nothing needs DDL.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, MetaData, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_common import ids, rls
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import DEFAULTS, TEXTS, Announced
from causeloop_common.contracts.base import EVENT_BYTES, Event
from causeloop_common.contracts.personal import PERSON
from causeloop_common.errors import PayloadTooLarge

BUCKETS = 3
"""Partitions, one per day in turn: today's, yesterday's, and the one to be emptied."""

EVENT = tuple({"id": "event_id", "tenant": "workspace_id"}.get(name, name) for name in Announced._fields)
"""The columns of an event, in the order of `Announced`. Its texts are columns of their own names."""

_FILLED = tuple(column for column in EVENT if column != "workspace_id")
_COLUMNS = {"tenant_insert": EVENT, "tenant_select": ("xid", "workspace_id")}
_INFO = {"actor": PERSON.info, "on_behalf_of": PERSON.info}
_ADDED = ("on_behalf_of",)
"""Texts that an outbox did not have at first: `add` makes their columns."""
_OUTBOX_REASON = "it is the record"
_STATE_REASON = "the relay's memory, no tenant's data"


def _relay_policies(schema: str, *verbs: str) -> tuple[rls.Policy, ...]:
    role = f"causeloop_{schema}_relay"
    clauses = {"select": {"using": "true"}, "insert": {"check": "true"}, "update": {"using": "true", "check": "true"}}
    return tuple(rls.Policy(f"relay_{verb}", verb, role, **clauses[verb]) for verb in verbs)


def tables(metadata: MetaData) -> Table:
    """Declare the outbox and the relay's memory in a service's metadata."""
    schema = str(metadata.schema)
    Table(
        "relay_state",
        metadata,
        Column("id", SmallInteger, primary_key=True),
        Column("last_sequence", BigInteger, nullable=False),
        Column("server_id", Text, nullable=False),
        info=rls.service_has_none(*_relay_policies(schema, "select", "insert", "update"), reason=_STATE_REASON),
    )
    return Table(
        "outbox",
        metadata,
        Column("bucket", SmallInteger, primary_key=True),
        Column("seq", BigInteger, primary_key=True),
        Column("workspace_id", UUID, nullable=False),
        Column("event_id", UUID, nullable=False),
        Column("type", Text, nullable=False),
        Column("occurred_at", DateTime(timezone=True), nullable=False),
        Column("data", Text, nullable=False),
        *(Column(name, Text, nullable=_may_be_null(name), info=_INFO.get(name, {})) for name in TEXTS),
        Column("xid", Text, nullable=False),
        Column("published_at", DateTime(timezone=True)),
        Column("stream_seq", BigInteger),
        info=rls.protected(
            "select",
            "insert",
            columns=_COLUMNS,
            extra=_relay_policies(schema, "select", "update"),
            audited=False,
            reason=_OUTBOX_REASON,
        )
        | {
            "partitions": tuple(f"outbox_{bucket}" for bucket in range(BUCKETS)),
            "functions": {"require_event": rls.guard_body(schema)},
        },
    )


def ddl(schema: str) -> Iterator[str]:
    """The statements that make the outbox, for a service's first migration."""
    texts = ", ".join(_column(name) for name in TEXTS if name not in _ADDED)
    columns = {verb: tuple(name for name in names if name not in _ADDED) for verb, names in _COLUMNS.items()}
    yield f"CREATE SEQUENCE {schema}.outbox_seq"
    yield f"""
        CREATE TABLE {schema}.outbox (
            bucket smallint NOT NULL DEFAULT (extract(epoch FROM now())::bigint / 86400 % {BUCKETS}),
            seq bigint NOT NULL DEFAULT nextval('{schema}.outbox_seq'),
            workspace_id uuid NOT NULL DEFAULT {schema}.app_current_tenant(),
            event_id uuid NOT NULL,
            type text NOT NULL,
            occurred_at timestamptz NOT NULL,
            data text NOT NULL CHECK (octet_length(data) <= 65536),
            {texts},
            xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
            published_at timestamptz,
            stream_seq bigint,
            PRIMARY KEY (bucket, seq)
        ) PARTITION BY LIST (bucket)
    """
    for bucket in range(BUCKETS):
        child = f"{schema}.outbox_{bucket}"
        yield f"CREATE TABLE {child} PARTITION OF {schema}.outbox FOR VALUES IN ({bucket})"
        yield f"ALTER TABLE {child} ENABLE ROW LEVEL SECURITY"
        yield f"ALTER TABLE {child} FORCE ROW LEVEL SECURITY"
        yield f"GRANT TRUNCATE ON {child} TO causeloop_{schema}_relay"
    yield f"CREATE INDEX ON {schema}.outbox (xid)"
    yield f"CREATE INDEX ON {schema}.outbox (seq) WHERE published_at IS NULL"
    yield f"GRANT USAGE ON SEQUENCE {schema}.outbox_seq TO causeloop_{schema}"
    yield from rls.protect(
        schema, "outbox", "select", "insert",
        columns=columns, extra=_relay_policies(schema, "select", "update"), audited=False, reason=_OUTBOX_REASON,
    )  # fmt: skip
    yield f"""
        CREATE TABLE {schema}.relay_state (
            id smallint PRIMARY KEY CHECK (id = 1),
            last_sequence bigint NOT NULL,
            server_id text NOT NULL
        )
    """
    policies = _relay_policies(schema, "select", "insert", "update")
    yield from rls.protect_from_service(schema, "relay_state", *policies, reason=_STATE_REASON)


def add(schema: str, name: str) -> Iterator[str]:
    """The statements that give an outbox a text which it did not have at first, for a later migration."""
    yield f"ALTER TABLE {schema}.outbox ADD COLUMN {_column(name)}"
    yield f"GRANT INSERT ({name}) ON {schema}.outbox TO causeloop_{schema}"


def insert(schema: str) -> str:
    """The statement that `insertion` fills."""
    names = ", ".join(_FILLED)
    marks = ", ".join(f"${n}" for n in range(1, len(_FILLED) + 1))
    return f"INSERT INTO {schema}.outbox ({names}) VALUES ({marks})"  # noqa: S608


def row(ctx: AuthContext, event: Event, traceparent: str) -> tuple[Any, ...]:
    """One event's values, in the order of `EVENT`, with the trace that caused it; PayloadTooLarge over 40 KiB."""
    data = event.to_json()
    if len(data) > EVENT_BYTES:
        raise PayloadTooLarge(f"The event '{event.type}' would be {len(data)} bytes; the limit is {EVENT_BYTES}.")
    identity = (ids.uuid7(), ctx.tenant_uuid, event.type, datetime.now(UTC), data.decode())
    return (*identity, ctx.principal, event.target_id, ctx.credential, ctx.on_behalf_of, ctx.request_id, traceparent)


def kind(row: tuple[Any, ...]) -> str:
    """The type of a row's event."""
    return row[2]  # type: ignore[no-any-return]


def insertion(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of `insert`: the tenant is the column's default."""
    return (row[0], *row[2:])


def read(row: Any) -> Announced:
    """The event of a row that begins with the columns of `EVENT`."""
    event_id, workspace_id, kind, occurred_at, data, *texts = row[: len(EVENT)]
    return Announced(ids.encode("evt", event_id), ids.tenant_id(workspace_id), kind, occurred_at, data.encode(), *texts)


def _column(name: str) -> str:
    return f"{name} text" if _may_be_null(name) else f"{name} text NOT NULL"


def _may_be_null(name: str) -> bool:
    return DEFAULTS.get(name, "") is None
