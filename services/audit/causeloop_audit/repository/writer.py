"""Appending in sets, across tenants, by the writer's role."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, tee
from typing import NamedTuple
from uuid import UUID

import asyncpg
import orjson

from causeloop_audit.domain.entries import NewEntry
from causeloop_audit.domain.terms import Terms, with_term
from causeloop_audit.repository.faults import database_faults
from causeloop_audit.repository.held import HeldEvents, Transactions, row_is_gone
from causeloop_audit.repository.position import Positions, advance
from causeloop_log.tlog.merkle import EMPTY_ROOT, Frontier

_PART = 100
"""How many entries one statement writes: while the database works on them, the next are made."""


_LOCK_HEADS = """
    SELECT h.workspace_id, h.size, h.peaks FROM audit.heads h
    WHERE h.workspace_id = ANY($1::uuid[]) ORDER BY h.workspace_id FOR UPDATE
"""

_ADD_HEADS = """
    INSERT INTO audit.heads (workspace_id, size, root, peaks)
    SELECT w, 0, $2, '' FROM unnest($1::uuid[]) AS w ORDER BY w ON CONFLICT DO NOTHING
"""

_KNOWN = """
    SELECT e.workspace_id, e.service, e.event_id, e.digest, e.action FROM audit.entries e
    JOIN unnest($1::uuid[], $2::text[], $3::uuid[]) AS n(workspace_id, service, event_id)
        USING (workspace_id, service, event_id)
"""

_ADD_ENTRIES = """
    INSERT INTO audit.entries (index, workspace_id, service, event_id, digest, action, actor, credential, target,
                               request_id, occurred_at, leaf_hash, leaf)
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::uuid[], $5::bytea[], $6::text[], $7::text[],
                         $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::bytea[], $13::text[])
"""

_ADD_NODES = """
    INSERT INTO audit.nodes (workspace_id, level, index, hash)
    SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::bytea[])
"""

_MOVE_HEADS = """
    WITH moved AS (
        UPDATE audit.heads h SET size = n.size, root = n.root, peaks = n.peaks
        FROM unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bytea[]) AS n(workspace_id, size, root, peaks)
        WHERE h.workspace_id = ANY($1) AND h.workspace_id = n.workspace_id
    )
    UPDATE audit.intake SET batch = batch + 1, position = coalesce($5, position) RETURNING batch
"""

_TERMS = "SELECT batch, terms FROM audit.intake FOR UPDATE"
_KEEP_TERMS = "UPDATE audit.intake SET terms = $1"

Identity = tuple[UUID, str, UUID]
"""Log, service and event."""


class Stored(NamedTuple):
    """The entry that a log has of an event: its digest (None for one of before there were digests), and its action."""

    digest: bytes | None
    action: str


class Appended(NamedTuple):
    """The entries that a batch added, each with its index, the new size of each log that grew, and of each event of the
    batch that its log had already the entry there; of one that is held, the entry that it is to become.
    """

    entries: list[tuple[NewEntry, int]]
    sizes: dict[UUID, int]
    known: dict[Identity, Stored]
    batch: int = 0
    """The number of the commit; 0 if there was nothing to append."""

    @classmethod
    def all(cls, parts: Sequence["Appended"]) -> "Appended":
        """The sum of several batches, one after the other."""
        return cls(
            [entry for part in parts for entry in part.entries],
            {log: size for part in parts for log, size in part.sizes.items()},
            {event: stored for part in parts for event, stored in part.known.items()},
            max((part.batch for part in parts), default=0),
        )


class LogWriter:
    """Appends entries. `held` keeps the events of logs that cannot be appended to, `positions` how far the stream is
    entered.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self.held = HeldEvents(transactions)
        self.positions = Positions(transactions)

    async def begin_term(self, term: str) -> Terms:
        """Keep a term, which begins after the last batch; the terms up to it."""
        with database_faults():
            async with self._transactions.transaction() as connection:
                row = await connection.fetchrow(_TERMS)
                if row is None:
                    raise row_is_gone()
                terms = with_term(
                    [(earlier, began) for earlier, began in orjson.loads(row["terms"])], term, row["batch"]
                )
                await connection.execute(_KEEP_TERMS, orjson.dumps(terms).decode())
        return terms

    async def known(self, events: Sequence[Identity]) -> dict[Identity, Stored]:
        """Of each of these events that its log has, the entry there."""
        with database_faults():
            return await _known(self._transactions, events)

    async def append(
        self, logs: Collection[UUID], entries: Iterable[NewEntry], *, position: int | None = None
    ) -> Appended:
        """Append entries in their order to these logs; an event that its log has already is passed over.

        `position` is the number in the stream up to which everything is entered with this commit.

        `entries` is read part by part, while the part before is written: an iterator that makes each entry when it is
        asked for costs no time of its own. Heads are locked in the order of their ids, so that any number of writers
        cannot block each other for ever. A log hardly ever has an event already, so the entries are compared with the
        log only after the database refused one.
        """
        entries, again = tee(entries)
        with database_faults():
            try:
                async with self._transactions.transaction() as connection:
                    return await self._append(connection, logs, entries, position)
            except asyncpg.UniqueViolationError:
                async with self._transactions.transaction() as connection:
                    return await self._append(connection, logs, again, position, all_new=False)

    async def _append(
        self,
        connection: asyncpg.Connection,
        logs: Collection[UUID],
        entries: Iterator[NewEntry],
        position: int | None,
        *,
        all_new: bool = True,
    ) -> Appended:
        frontiers = await self._lock_heads(connection, logs)
        known: dict[Identity, Stored] = {}
        if not all_new:
            batch = list(entries)
            known = await _known(connection, {entry[:3] for entry in batch})
            entries = iter(_new(batch, known))
        added = await self._add_entries(connection, entries, frontiers)
        if not added:
            await advance(connection, position)
            return Appended([], {}, known)
        grown = {entry.log.int: entry.log for entry, _ in added}
        moved = {log: frontiers[number] for number, log in grown.items()}
        if completed := [(log, node) for log, frontier in moved.items() for node in frontier.completed]:
            await connection.execute(
                _ADD_NODES,
                [log for log, _ in completed],
                [node.level for _, node in completed],
                [node.index for _, node in completed],
                [node.hash for _, node in completed],
            )
        batch = await connection.fetchval(
            _MOVE_HEADS,
            list(moved),
            [frontier.size for frontier in moved.values()],
            [frontier.root() for frontier in moved.values()],
            [frontier.pack() for frontier in moved.values()],
            position,
        )
        if batch is None:
            raise row_is_gone()
        return Appended(added, {log: frontier.size for log, frontier in moved.items()}, known, batch)

    async def _add_entries(
        self, connection: asyncpg.Connection, entries: Iterator[NewEntry], frontiers: dict[int, Frontier]
    ) -> list[tuple[NewEntry, int]]:
        """Write entries part by part, and return each with its index. One part is written while the next is made."""
        added: list[tuple[NewEntry, int]] = []
        writing: asyncio.Task[str] | None = None
        try:
            while part := list(islice(entries, _PART)):
                indexes = [frontiers[entry.log.int].append(entry.leaf_hash) for entry in part]
                added += zip(part, indexes, strict=True)
                if writing is not None:
                    await writing
                writing = asyncio.create_task(connection.execute(_ADD_ENTRIES, indexes, *zip(*part, strict=True)))
                await asyncio.sleep(0)  # until it is sent
        finally:
            if writing is not None:  # the connection takes one statement at a time, a ROLLBACK too
                await writing
        return added

    async def _lock_heads(self, connection: asyncpg.Connection, logs: Collection[UUID]) -> dict[int, Frontier]:
        """Each log's tree, by the number of its id: a UUID's own hash is computed in Python every time."""
        rows = await connection.fetch(_LOCK_HEADS, logs)
        if len(rows) < len(logs):
            await connection.execute(_ADD_HEADS, logs, EMPTY_ROOT)
            rows = await connection.fetch(_LOCK_HEADS, logs)
        return {row["workspace_id"].int: Frontier.unpack(row["size"], row["peaks"]) for row in rows}


async def _known(source: Transactions | asyncpg.Connection, events: Collection[Identity]) -> dict[Identity, Stored]:
    """Of each of these events that its log has, the entry there."""
    rows = await source.fetch(_KNOWN, *zip(*events, strict=True))
    return {tuple(row[:3]): Stored(row["digest"], row["action"]) for row in rows}


def _new(batch: list[NewEntry], known: dict[Identity, Stored]) -> list[NewEntry]:
    """The entries whose events are not known; of each event the first."""
    first: dict[Identity, NewEntry] = {}
    for entry in batch:
        first.setdefault(entry[:3], entry)
    return [entry for identity, entry in first.items() if identity not in known]
