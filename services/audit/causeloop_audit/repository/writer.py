"""Across tenants, by the writer's role: appending in sets, and seeing which logs grew since they were signed."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import ClassVar, NamedTuple
from uuid import UUID

import asyncpg

from causeloop_common.database import KEEPALIVE, SILENCE_SECONDS
from causeloop_common.errors import Unavailable
from causeloop_log.tlog.merkle import EMPTY_ROOT, Frontier

_PART = 100
"""How many entries one statement writes: while the database works on them, the next are made."""


class NewEntry(NamedTuple):
    """What an entry holds besides its place, in the order of `_ADD_ENTRIES`."""

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

MakeEntry = Callable[[int], NewEntry]
"""Makes the entry of the n-th place."""

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
    WHERE (h.size, h.root) IS DISTINCT FROM (c.size, c.root) AND h.workspace_id > $1 ORDER BY h.workspace_id LIMIT $2
"""


class Appended(NamedTuple):
    """What a batch added: the place of each entry that was new, with its index, and the size of each log that grew."""

    entries: list[tuple[Place, int]]
    sizes: dict[UUID, int]

    @classmethod
    def all(cls, parts: Sequence["Appended"]) -> "Appended":
        """What several batches added, one after the other."""
        return cls(
            [entry for part in parts for entry in part.entries],
            {log: size for part in parts for log, size in part.sizes.items()},
        )


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

    async def append(self, places: Sequence[Place], make: MakeEntry) -> Appended:
        """Append the entries of these places, of any tenants, in their order; what a log holds already is passed over.

        Heads are locked in the order of their ids, so that any number of writers cannot block each other for ever.
        Hardly ever does a log hold an event already: only when the database refuses one is it asked for which.
        """
        connection = self._ready()
        with _told():
            try:
                async with connection.transaction():
                    return await self._append(connection, places, make, all_new=True)
            except asyncpg.UniqueViolationError:
                async with connection.transaction():
                    return await self._append(connection, places, make, all_new=False)

    async def _append(
        self, connection: asyncpg.Connection, places: Sequence[Place], make: MakeEntry, *, all_new: bool
    ) -> Appended:
        # By number, since a UUID's own hash is computed in Python every time.
        tenants = {tenant.int: tenant for tenant, _ in places}
        frontiers = await self._lock_heads(connection, list(tenants.values()))
        new: Sequence[int] = range(len(places))
        if not all_new or len({event.int for _, event in places}) < len(places):
            new = await self._new(connection, places)
            tenants = {places[number][0].int: places[number][0] for number in new}
        if not new:
            return Appended([], {})
        entries = await self._add_entries(connection, places, new, make, frontiers)
        moved = {tenant: frontiers[number] for number, tenant in tenants.items()}
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
        return Appended(entries, {tenant: frontier.size for tenant, frontier in moved.items()})

    async def _add_entries(
        self,
        connection: asyncpg.Connection,
        places: Sequence[Place],
        new: Sequence[int],
        make: MakeEntry,
        frontiers: dict[int, Frontier],
    ) -> list[tuple[Place, int]]:
        """Write the entries of the new places, part by part: one is made while the database writes the one before."""
        added: list[tuple[Place, int]] = []
        writing: asyncio.Task[str] | None = None
        try:
            for start in range(0, len(new), _PART):
                numbers = new[start : start + _PART]
                part = [make(number) for number in numbers]
                owners, events = zip(*(places[number] for number in numbers), strict=True)
                indexes = [
                    frontiers[owner.int].append(entry.leaf_hash) for owner, entry in zip(owners, part, strict=True)
                ]
                added += zip(zip(owners, events, strict=True), indexes, strict=True)
                if writing is not None:
                    await writing
                columns = zip(*part, strict=True)
                writing = asyncio.create_task(connection.execute(_ADD_ENTRIES, owners, indexes, events, *columns))
                await asyncio.sleep(0)  # until it is sent
        finally:
            if writing is not None:  # the connection takes one statement at a time, a ROLLBACK too
                await writing
        return added

    async def _new(self, connection: asyncpg.Connection, places: Sequence[Place]) -> list[int]:
        """The numbers of the places that the logs do not hold yet, each event once."""
        seen = {tuple(row) for row in await connection.fetch(_KNOWN, *zip(*places, strict=True))}
        fresh = []
        for number, place in enumerate(places):
            if place not in seen:
                seen.add(place)
                fresh.append(number)
        return fresh

    async def _lock_heads(self, connection: asyncpg.Connection, tenants: list[UUID]) -> dict[int, Frontier]:
        rows = await connection.fetch(_LOCK_HEADS, tenants)
        if len(rows) < len(tenants):
            await connection.execute(_ADD_HEADS, tenants, EMPTY_ROOT)
            rows = await connection.fetch(_LOCK_HEADS, tenants)
        return {row["workspace_id"].int: Frontier.unpack(row["size"], row["peaks"]) for row in rows}


class LogWatch(_Leader):
    """Sees which logs grew since they were last signed."""

    kind, lock = "watch", 0x0_CA05E_1002

    async def behind(self, after: UUID, limit: int) -> list[UUID]:
        """The tenants whose head is not the one that was signed, grown or restored; by id, after the given one."""
        with _told():
            return [row["workspace_id"] for row in await self._ready().fetch(_BEHIND, after, limit)]
