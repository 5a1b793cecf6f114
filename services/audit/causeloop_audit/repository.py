"""All SQL of the log: reading under row security; by the writer's role appending in sets, and seeing what is behind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy import BigInteger, bindparam, func, or_, select

from causeloop_audit.models import checkpoints, entries, heads
from causeloop_common import ids
from causeloop_common.database import KEEPALIVE, SILENCE_SECONDS, Transaction
from causeloop_common.errors import Unavailable
from causeloop_common.statements import Statement
from causeloop_common.tlog.merkle import EMPTY_ROOT, Frontier, Run


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as stored. `leaf` is None once retention removed it."""

    index: int
    id: str
    action: str
    actor: str
    credential: str | None
    target: str
    request_id: str
    occurred_at: datetime
    leaf_hash: bytes
    leaf: str | None


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to append, its place in the log still open."""

    workspace_id: UUID
    event_id: UUID
    action: str
    actor: str
    credential: str | None
    target: str
    request_id: str
    occurred_at: datetime
    leaf_hash: bytes
    leaf: str


@dataclass(frozen=True, slots=True)
class Head:
    """A log's size and root."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint: the size it is of, and the signed note."""

    size: int
    note: str


Place = tuple[UUID, UUID]
"""Tenant and event: where an entry belongs."""

_COLUMNS = (
    entries.c.index, entries.c.event_id, entries.c.action, entries.c.actor, entries.c.credential, entries.c.target,
    entries.c.request_id, entries.c.occurred_at, entries.c.leaf_hash, entries.c.leaf,
)  # fmt: skip
_ENTRY = Statement.of(select(*_COLUMNS).where(entries.c.event_id == bindparam("event_id")))

_FILTERS = {
    "actor": entries.c.actor == bindparam("actor"),
    "action": func.starts_with(entries.c.action, bindparam("action")),  # LIKE would read % and _ as patterns
    "target": entries.c.target == bindparam("target"),
    "since": entries.c.occurred_at >= bindparam("since"),
    "until": entries.c.occurred_at < bindparam("until"),
    "after": entries.c.index > bindparam("after"),
    "before": entries.c.index < bindparam("before"),
}


@lru_cache(maxsize=256)
def _list(newest: bool, present: tuple[str, ...]) -> Statement:
    """The statement for one combination of filters; each has a plan of its own."""
    order = entries.c.index.desc() if newest else entries.c.index.asc()
    return Statement.of(
        select(*_COLUMNS).where(*(_FILTERS[name] for name in present)).order_by(order).limit(bindparam("limit"))
    )


_HEAD = Statement.of(select(heads.c.size, heads.c.root))
_CHECKPOINT = Statement.of(select(checkpoints.c.size, checkpoints.c.note))
_KEEP_CHECKPOINT = Statement.raw(
    """
    INSERT INTO audit.checkpoints (size, note) VALUES ($1, $2)
    ON CONFLICT (workspace_id) DO UPDATE SET size = excluded.size, note = excluded.note
    WHERE checkpoints.size < excluded.size
    """,
    "size", "note",
)  # fmt: skip
_HASHES = Statement.raw(
    """
    SELECT CASE WHEN run.level = 0 THEN
               (SELECT string_agg(e.leaf_hash, '' ORDER BY e.index) FROM audit.entries e
                WHERE e.index >= run.first AND e.index < run.first + run.count)
           ELSE
               (SELECT string_agg(n.hash, '' ORDER BY n.index) FROM audit.nodes n
                WHERE n.level = run.level AND n.index >= run.first AND n.index < run.first + run.count)
           END AS hashes
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS run(level, first, count, number)
    ORDER BY run.number
    """,
    "levels", "firsts", "counts",
)  # fmt: skip


async def list_entries(tx: Transaction, *, newest: bool, limit: int, filters: dict[str, Any]) -> list[StoredEntry]:
    """The tenant's entries that pass the filters; those that are None do not count."""
    present = tuple(sorted(name for name, value in filters.items() if value is not None))
    return [_entry(row) for row in await tx.fetch(_list(newest, present), limit=limit, **filters)]


_AROUND_BYTES = 160
"""Of an entry on its way, what stands around the leaf: index, hash, names."""


def _read() -> Statement:
    """Size and entries in one statement, and so of one moment.

    Sizes are summed up in the database, which knows them without reading the leaves (`octet_length` asks the row): a
    page of large leaves is never fetched to be cut here.
    """
    size = func.coalesce(func.octet_length(entries.c.leaf), 0) + _AROUND_BYTES
    page = (
        select(
            entries.c.index, entries.c.leaf, entries.c.leaf_hash,
            func.sum(size).over(order_by=entries.c.index).label("bytes"),
        )
        .where(entries.c.index >= bindparam("start"))
        .order_by(entries.c.index)
        .limit(bindparam("limit"))
        .subquery()
    )  # fmt: skip
    fits = or_(page.c.bytes <= bindparam("max_bytes", type_=BigInteger), page.c.index == bindparam("start"))
    return Statement.of(
        select(heads.c.size, page.c.index, page.c.leaf, page.c.leaf_hash)
        .select_from(heads.outerjoin(page, fits))
        .order_by(page.c.index)
    )


_READ = _read()


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """A leaf as stored, at its place. `leaf` is None once retention removed it."""

    index: int
    leaf: str | None
    leaf_hash: bytes


async def read(tx: Transaction, *, start: int, limit: int, max_bytes: int) -> tuple[list[StoredLeaf], int]:
    """The tenant's leaves from `start` on that fit into `limit` and `max_bytes`, at least one; and the log's size."""
    rows = await tx.fetch(_READ, start=start, limit=limit, max_bytes=max_bytes)
    leaves = [StoredLeaf(row["index"], row["leaf"], row["leaf_hash"]) for row in rows if row["index"] is not None]
    return leaves, rows[0]["size"] if rows else 0


async def entry(tx: Transaction, event_id: str) -> StoredEntry | None:
    """The tenant's entry of an event."""
    row = await tx.fetchrow(_ENTRY, event_id=ids.decode(event_id, "evt"))
    return None if row is None else _entry(row)


async def head(tx: Transaction) -> Head:
    """The size and root of the tenant's log; of a log without entries, those of the empty tree."""
    row = await tx.fetchrow(_HEAD)
    return Head(0, EMPTY_ROOT) if row is None else Head(row["size"], row["root"])


async def checkpoint(tx: Transaction) -> SignedHead | None:
    """The last checkpoint of the tenant's log that is here; the vault may have signed a later one."""
    row = await tx.fetchrow(_CHECKPOINT)
    return None if row is None else SignedHead(row["size"], row["note"])


async def keep_checkpoint(tx: Transaction, signed: SignedHead) -> None:
    """Keep a checkpoint, unless a later one is here."""
    await tx.execute(_KEEP_CHECKPOINT, size=signed.size, note=signed.note)


async def hashes(tx: Transaction, runs: Sequence[Run]) -> list[bytes]:
    """The packed hashes of each run, in the order of the runs."""
    rows = await tx.fetch(
        _HASHES,
        levels=[run.level for run in runs],
        firsts=[run.first for run in runs],
        counts=[run.count for run in runs],
    )
    return [row["hashes"] or b"" for row in rows]


def _entry(row: Any) -> StoredEntry:
    return StoredEntry(
        index=row["index"],
        id=ids.encode("evt", row["event_id"]),
        action=row["action"],
        actor=row["actor"],
        credential=row["credential"],
        target=row["target"],
        request_id=row["request_id"],
        occurred_at=row["occurred_at"],
        leaf_hash=row["leaf_hash"],
        leaf=row["leaf"],
    )


_LOCK_HEADS = """
    SELECT h.workspace_id, h.size, h.peaks FROM audit.heads h
    WHERE h.workspace_id = ANY($1::uuid[]) ORDER BY h.workspace_id FOR UPDATE
"""
_ADD_HEADS = """
    INSERT INTO audit.heads (workspace_id, size, root, peaks)
    SELECT w, 0, $2, '' FROM unnest($1::uuid[]) AS w ORDER BY w ON CONFLICT DO NOTHING
"""
_KNOWN = """
    SELECT e.workspace_id, e.event_id FROM audit.entries e
    JOIN unnest($1::uuid[], $2::uuid[]) AS n(workspace_id, event_id) USING (workspace_id, event_id)
"""
_ADD_ENTRIES = """
    INSERT INTO audit.entries (workspace_id, index, event_id, action, actor, credential, target, request_id,
                               occurred_at, leaf_hash, leaf)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[],
                         $8::text[], $9::timestamptz[], $10::bytea[], $11::text[])
"""
_ADD_NODES = """
    INSERT INTO audit.nodes (workspace_id, level, index, hash)
    SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::bytea[])
"""
_MOVE_HEADS = """
    UPDATE audit.heads h SET size = n.size, root = n.root, peaks = n.peaks
    FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n(workspace_id, size, root, peaks)
    WHERE h.workspace_id = n.workspace_id
"""


_BEHIND = """
    SELECT h.workspace_id FROM audit.heads h LEFT JOIN audit.checkpoints c USING (workspace_id)
    WHERE h.size > coalesce(c.size, 0) AND h.workspace_id > $1 ORDER BY h.workspace_id LIMIT $2
"""


class Appended(NamedTuple):
    """What a batch added: how many entries were new, the new size of each log that grew, each new entry's index."""

    entries: int
    sizes: dict[UUID, int]
    places: dict[Place, int]


class NotStorable(Exception):
    """The database cannot hold a value of the batch, now or ever."""


_FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


@contextmanager
def _told() -> Iterator[None]:
    """Convert the database's faults where they enter."""
    try:
        yield
    except asyncpg.DataError as error:
        raise NotStorable(type(error).__name__) from error
    except _FAULTS as error:
        raise Unavailable(f"The log cannot be written: {type(error).__name__}.") from error


class _Leader:
    """One connection with the writer's role, which sees across tenants; one of its kind leads.

    Leading (an advisory lock of this very connection) and working go together: who lost the connection lost both.
    """

    kind: ClassVar[str]
    lock: ClassVar[int]

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection | None = None

    async def connect(self) -> None:
        """Connect anew; `Unavailable` while that is not possible."""
        self.close()
        with _told():
            self._connection = await asyncpg.connect(
                self._dsn,
                timeout=5,
                command_timeout=SILENCE_SECONDS,
                server_settings={**KEEPALIVE, "application_name": f"causeloop-audit-{self.kind}"},
            )

    def close(self) -> None:
        """Disconnect, and so stop leading."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def lead(self) -> bool:
        """Whether this is the one of its kind that is at work."""
        with _told():
            return bool(await self._ready().fetchval("SELECT pg_try_advisory_lock($1)", self.lock))

    def _ready(self) -> asyncpg.Connection:
        if self._connection is None:
            raise Unavailable(f"The log's {self.kind} is not connected.")
        return self._connection


class LogWriter(_Leader):
    """Appends. A writer that lost its connection lost its lead, so two can never acknowledge for each other."""

    kind, lock = "writer", 0x0_CA05E_1001

    async def append(self, batch: Sequence[NewEntry]) -> Appended:
        """Append a batch, of any tenants, in its order; what a log holds already is passed over.

        Heads are locked in the order of their ids, so that any number of writers cannot block each other for ever.
        """
        connection = self._ready()
        with _told():
            async with connection.transaction():
                return await self._append(connection, batch)

    async def _append(self, connection: asyncpg.Connection, batch: Sequence[NewEntry]) -> Appended:
        frontiers = await self._lock_heads(connection, sorted({entry.workspace_id for entry in batch}))
        known = {
            (row["workspace_id"], row["event_id"])
            for row in await connection.fetch(
                _KNOWN, [entry.workspace_id for entry in batch], [entry.event_id for entry in batch]
            )
        }
        fresh: dict[tuple[UUID, UUID], NewEntry] = {}
        for entry in batch:
            place = (entry.workspace_id, entry.event_id)
            if place not in known:
                fresh.setdefault(place, entry)
        if not fresh:
            return Appended(0, {}, {})
        new = list(fresh.values())
        indexes = [frontiers[entry.workspace_id].append(entry.leaf_hash) for entry in new]
        await connection.execute(
            _ADD_ENTRIES,
            [entry.workspace_id for entry in new],
            indexes,
            [entry.event_id for entry in new],
            [entry.action for entry in new],
            [entry.actor for entry in new],
            [entry.credential for entry in new],
            [entry.target for entry in new],
            [entry.request_id for entry in new],
            [entry.occurred_at for entry in new],
            [entry.leaf_hash for entry in new],
            [entry.leaf for entry in new],
        )
        moved = {entry.workspace_id: frontiers[entry.workspace_id] for entry in new}
        if completed := [(tenant, node) for tenant, frontier in moved.items() for node in frontier.completed]:
            await connection.execute(
                _ADD_NODES,
                [tenant for tenant, _ in completed],
                [node.level for _, node in completed],
                [node.index for _, node in completed],
                [node.hash for _, node in completed],
            )
        await connection.execute(
            _MOVE_HEADS,
            list(moved),
            [frontier.size for frontier in moved.values()],
            [frontier.root() for frontier in moved.values()],
            [frontier.pack() for frontier in moved.values()],
        )
        sizes = {tenant: frontier.size for tenant, frontier in moved.items()}
        return Appended(len(new), sizes, dict(zip(fresh, indexes, strict=True)))

    async def _lock_heads(self, connection: asyncpg.Connection, tenants: list[UUID]) -> dict[UUID, Frontier]:
        rows = await connection.fetch(_LOCK_HEADS, tenants)
        if len(rows) < len(tenants):
            await connection.execute(_ADD_HEADS, tenants, EMPTY_ROOT)
            rows = await connection.fetch(_LOCK_HEADS, tenants)
        return {row["workspace_id"]: Frontier.unpack(row["size"], row["peaks"]) for row in rows}


class LogWatch(_Leader):
    """Sees which logs grew since they were last signed."""

    kind, lock = "watch", 0x0_CA05E_1002

    async def behind(self, after: UUID, limit: int) -> list[UUID]:
        """The tenants whose head is not signed, in order of their ids, after the given one."""
        with _told():
            return [row["workspace_id"] for row in await self._ready().fetch(_BEHIND, after, limit)]
