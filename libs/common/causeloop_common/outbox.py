"""The outbox: events written in the transaction of their act.

A service may insert rows and see of them no more than tenant and transaction (for the commit guard). It cannot choose
`xid`, which is PostgreSQL's own default and not among the columns it may fill. Three partitions by day take turns:
the relay empties the one that is past the window, so that nothing is deleted row by row and nothing needs DDL.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, UUID

from causeloop_common import ids, rls
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import DEFAULTS, TEXTS, Announced, new_salt
from causeloop_common.contracts.base import EVENT_BYTES, Event
from causeloop_common.contracts.personal import PERSON
from causeloop_common.errors import PayloadTooLarge

BUCKETS = 3
"""Partitions, one per day in turn: today's, yesterday's, and the one to be emptied."""

EVENT = tuple({"id": "event_id", "tenant": "workspace_id"}.get(name, name) for name in Announced._fields)
"""The columns of an event, in the order of `Announced`. Its texts are columns of their own names."""

_FILLED = tuple(column for column in EVENT if column != "workspace_id")
MARKS = ("published_at", "stream_seq", "digest", "confirmed_batch", "attempts")
"""The columns that the relay may change: when and under which number a row is in the stream, the digest that its
receipt must have, the log's batch that confirmed it, and how often it was sent again."""
_COLUMNS = {"tenant_insert": EVENT, "tenant_select": ("xid", "workspace_id")}
_MARKED = _COLUMNS | {"relay_update": MARKS}
_INFO = {"actor": PERSON.info, "on_behalf_of": PERSON.info}
_ADDED = ("on_behalf_of", "salt")
"""Texts that an outbox did not have at first: `add` makes their columns."""
_SALT_FORM = """octet_length(salt) = 32 AND salt COLLATE "C" !~ '[^0-9a-f]'"""
_NEWEST = "xid >= greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1000, 0)::text::xid8"
"""The rows of the last 1000 transactions, for the proof. It reads them by the index on `xid`: none begins with the
tenant."""
_OUTBOX_REASON = "it is the record"
_ASIDE_REASON = "events that nobody could read, for an operator"
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
        Column("term", Text, nullable=False),
        Column("confirmed_batch", BigInteger, nullable=False),
        info=rls.service_has_none(*_relay_policies(schema, "select", "insert", "update"), reason=_STATE_REASON),
    )
    Table(
        "outbox_set_aside",
        metadata,
        Column("number", BigInteger, primary_key=True),
        Column("event", JSONB, nullable=False),
        Column("reason", Text, nullable=False),
        Column("at", DateTime(timezone=True), nullable=False),
        info=rls.service_has_none(*_relay_policies(schema, "select", "insert"), reason=_ASIDE_REASON),
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
        Column("digest", LargeBinary),
        Column("confirmed_batch", BigInteger),
        Column("attempts", SmallInteger, nullable=False),
        info=rls.protected(
            "select",
            "insert",
            columns=_MARKED,
            extra=_relay_policies(schema, "select", "update"),
            audited=False,
            reason=_OUTBOX_REASON,
        )
        | {
            "partitions": tuple(f"outbox_{bucket}" for bucket in range(BUCKETS)),
            "newest": _NEWEST,
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


def salt_ddl(schema: str) -> Iterator[str]:
    """The statements that give each event of an outbox a salt, for a later migration. A row of before has none."""
    yield from add(schema, "salt")
    yield f"ALTER TABLE {schema}.outbox ADD CONSTRAINT salt_is_whole CHECK ({_SALT_FORM})"


def form(schema: str) -> str:
    """The SQL condition that a row can be announced: readers take an event of this form (`messaging.read_event`)."""
    return f"{_form(schema)} AND ({_SALT_FORM}) IS NOT FALSE"


def _form(schema: str) -> str:
    """The condition without that on the salt.

    Texts are printable ASCII without spaces at their ends, which a header would lose. PostgreSQL evaluates it with each
    write of a row: one simple pattern takes microseconds, one with a bounded repetition for each text takes hundreds.
    """
    texts = [name for name in TEXTS if name != "salt"]
    sizes = " AND ".join(f"(octet_length({name}) <= 256 AND {name} = btrim({name})) IS NOT FALSE" for name in texts)
    joined = " || ".join(f"coalesce({name}, '')" for name in texts)
    return rf"""
        workspace_id <> '{ids.NIL}' AND workspace_id <> '{ids.MAX}' AND event_id <> '{ids.NIL}'
        AND octet_length(type) <= {len(schema) + 65} AND type COLLATE "C" ~ '^{schema}\.[a-z][a-z0-9_]*$'
        AND occurred_at >= '2000-01-01 00:00+00' AND occurred_at < '9000-01-01 00:00+00'
        AND {sizes} AND ({joined}) COLLATE "C" !~ '[^ -~]'
    """


def receipts_ddl(schema: str) -> Iterator[str]:
    """The statements that have an outbox wait for the log's receipts, for a later migration.

    Rows of another form than readers take are set aside. A row that was published before counts as confirmed.
    """
    relay = f"causeloop_{schema}_relay"
    yield f"ALTER TABLE {schema}.outbox NO FORCE ROW LEVEL SECURITY"
    yield f"""
        ALTER TABLE {schema}.outbox ADD COLUMN digest bytea, ADD COLUMN confirmed_batch bigint,
            ADD COLUMN attempts smallint NOT NULL DEFAULT 0
    """
    yield f"""
        CREATE TABLE {schema}.outbox_set_aside (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            event jsonb NOT NULL,
            reason text NOT NULL,
            at timestamptz NOT NULL DEFAULT now()
        )
    """
    yield from rls.protect_from_service(
        schema, "outbox_set_aside", *_relay_policies(schema, "select", "insert"), reason=_ASIDE_REASON
    )
    yield f"ALTER TABLE {schema}.outbox_set_aside NO FORCE ROW LEVEL SECURITY"
    yield f"""
        WITH removed AS (DELETE FROM {schema}.outbox o WHERE NOT ({_form(schema)}) RETURNING to_jsonb(o) AS event)
        INSERT INTO {schema}.outbox_set_aside (event, reason) SELECT event, 'its form' FROM removed
    """  # noqa: S608  our own names
    yield f"ALTER TABLE {schema}.outbox_set_aside FORCE ROW LEVEL SECURITY"
    yield f"UPDATE {schema}.outbox SET confirmed_batch = 0 WHERE published_at IS NOT NULL"  # noqa: S608
    yield f"ALTER TABLE {schema}.outbox ADD CONSTRAINT can_be_announced CHECK ({_form(schema)})"
    yield f"ALTER TABLE {schema}.outbox FORCE ROW LEVEL SECURITY"
    yield f"REVOKE UPDATE ON {schema}.outbox FROM {relay}"
    yield f"GRANT UPDATE ({', '.join(MARKS)}) ON {schema}.outbox TO {relay}"
    yield f"CREATE INDEX ON {schema}.outbox (stream_seq) WHERE published_at IS NOT NULL AND confirmed_batch IS NULL"
    yield f"""
        ALTER TABLE {schema}.relay_state ADD COLUMN term text NOT NULL DEFAULT '',
            ADD COLUMN confirmed_batch bigint NOT NULL DEFAULT 0
    """


def insert(schema: str) -> str:
    """The statement that `insertion` fills."""
    names = ", ".join(_FILLED)
    marks = ", ".join(f"${n}" for n in range(1, len(_FILLED) + 1))
    return f"INSERT INTO {schema}.outbox ({names}) VALUES ({marks})"  # noqa: S608


def row(ctx: AuthContext, event: Event, traceparent: str) -> tuple[Any, ...]:
    """One event's values, in the order of `EVENT`, with the trace that caused it and a salt.

    PayloadTooLarge over 40 KiB.
    """
    data = event.to_json()
    if len(data) > EVENT_BYTES:
        raise PayloadTooLarge(f"The event '{event.type}' would be {len(data)} bytes; the limit is {EVENT_BYTES}.")
    identity = (ids.uuid7(), ctx.tenant_uuid, event.type, datetime.now(UTC), data.decode())
    texts = (ctx.principal, event.target_id, ctx.credential, ctx.on_behalf_of, ctx.request_id, traceparent, new_salt())
    return (*identity, *texts)


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
