"""All SQL of the log: reading under row security, and appending in sets by the writer's role."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import bindparam, func, select

from causeloop_audit.domain.merkle import EMPTY_ROOT, Frontier
from causeloop_audit.models import entries
from causeloop_common import ids
from causeloop_common.database import KEEPALIVE, SILENCE_SECONDS, Transaction
from causeloop_common.errors import Unavailable
from causeloop_common.statements import Statement

_INTAKE_LOCK = 0x0_CA05E_1001


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


async def list_entries(tx: Transaction, *, newest: bool, limit: int, filters: dict[str, Any]) -> list[StoredEntry]:
    """The tenant's entries that pass the filters; those that are None do not count."""
    present = tuple(sorted(name for name, value in filters.items() if value is not None))
    return [_entry(row) for row in await tx.fetch(_list(newest, present), limit=limit, **filters)]


async def entry(tx: Transaction, event_id: str) -> StoredEntry | None:
    """The tenant's entry of an event."""
    row = await tx.fetchrow(_ENTRY, event_id=ids.decode(event_id, "evt"))
    return None if row is None else _entry(row)


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
_MOVE_HEADS = """
    UPDATE audit.heads h SET size = n.size, root = n.root, peaks = n.peaks
    FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n(workspace_id, size, root, peaks)
    WHERE h.workspace_id = n.workspace_id
"""


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


class LogWriter:
    """The one connection that appends, with the writer's role.

    Leading (an advisory lock of this very connection) and appending go together: a writer that lost its connection
    lost both, so two can never acknowledge for each other.
    """

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
                server_settings={**KEEPALIVE, "application_name": "causeloop-audit-writer"},
            )

    def close(self) -> None:
        """Disconnect, and so stop leading."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def lead(self) -> bool:
        """Whether this is the one writer that takes in events."""
        with _told():
            return bool(await self._ready().fetchval("SELECT pg_try_advisory_lock($1)", _INTAKE_LOCK))

    async def append(self, batch: Sequence[NewEntry], places: dict[Place, int] | None = None) -> int:
        """Append a batch, of any tenants, in its order; what a log holds already is passed over. How many were new.

        `places` is told the index of each of them.
        Heads are locked in the order of their ids, so that any number of writers cannot block each other for ever.
        """
        connection = self._ready()
        with _told():
            async with connection.transaction():
                appended = await self._append(connection, batch)
        if places is not None:
            places |= appended
        return len(appended)

    async def _append(self, connection: asyncpg.Connection, batch: Sequence[NewEntry]) -> dict[Place, int]:
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
            return {}
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
        await connection.execute(
            _MOVE_HEADS,
            list(moved),
            [frontier.size for frontier in moved.values()],
            [frontier.root() for frontier in moved.values()],
            [frontier.pack() for frontier in moved.values()],
        )
        return dict(zip(fresh, indexes, strict=True))

    async def _lock_heads(self, connection: asyncpg.Connection, tenants: list[UUID]) -> dict[UUID, Frontier]:
        rows = await connection.fetch(_LOCK_HEADS, tenants)
        if len(rows) < len(tenants):
            await connection.execute(_ADD_HEADS, tenants, EMPTY_ROOT)
            rows = await connection.fetch(_LOCK_HEADS, tenants)
        return {row["workspace_id"]: Frontier.unpack(row["size"], row["peaks"]) for row in rows}

    def _ready(self) -> asyncpg.Connection:
        if self._connection is None:
            raise Unavailable("The log's writer is not connected.")
        return self._connection
