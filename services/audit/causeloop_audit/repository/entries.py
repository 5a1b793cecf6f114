"""Reading the log, under row security."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, bindparam, func, literal, or_, select, true

from causeloop_audit.models import checkpoints, entries, heads, refused
from causeloop_common import ids
from causeloop_common.database import Reading
from causeloop_common.statements import Statement


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


_COLUMNS = (
    entries.c.index, entries.c.event_id, entries.c.action, entries.c.actor, entries.c.credential, entries.c.target,
    entries.c.request_id, entries.c.occurred_at, entries.c.leaf_hash, entries.c.leaf,
)  # fmt: skip

_OF_EVENT = Statement.of(
    select(*_COLUMNS, entries.c.service).where(entries.c.event_id == bindparam("event_id")).order_by(entries.c.service)
)

_OF_REQUEST = Statement.raw(
    """
    SELECT true FROM audit.entries e
    WHERE e.index >= (SELECT h.size FROM audit.heads h) - 1000 AND e.request_id = $1 LIMIT 1
    """,
    "request_id",
)  # fmt: skip

_BOUNDS: dict[str, ColumnElement[bool]] = {
    "actor": entries.c.actor == bindparam("actor"),
    "target": entries.c.target == bindparam("target"),
    "after": entries.c.index > bindparam("after"),
    "before": entries.c.index < bindparam("before"),
}
"""The filters that an index serves."""
_TRIED: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "action": lambda row: func.starts_with(row.action, bindparam("action")),  # LIKE would read % and _ as patterns
    "since": lambda row: row.occurred_at >= bindparam("since"),
    "until": lambda row: row.occurred_at < bindparam("until"),
}
"""Those that are tried on one entry after the other."""
MOST_TRIED = 10_000
"""Entries that are tried for one page: what a log has beyond them is for the next one."""


class _Lists(NamedTuple):
    page: Statement
    last_tried: Statement


@lru_cache(maxsize=256)
def _list(newest: bool, present: tuple[str, ...]) -> _Lists:
    """The statements for one combination of filters; each has a plan of its own."""
    bounds = [_BOUNDS[name] for name in present if name in _BOUNDS]
    tried = [_TRIED[name] for name in present if name in _TRIED]
    order = entries.c.index.desc() if newest else entries.c.index.asc()
    part = select(*_COLUMNS).where(*bounds).order_by(order)
    if tried:
        rows = part.limit(MOST_TRIED).subquery().c
        part = select(*rows).where(*(holds(rows) for holds in tried))
        part = part.order_by(rows.index.desc() if newest else rows.index.asc())
    last = select(entries.c.index).where(*bounds).order_by(order).offset(MOST_TRIED - 1).limit(1)
    return _Lists(Statement.of(part.limit(bindparam("limit"))), Statement.of(last))


async def list_events(
    tx: Reading, *, newest: bool, limit: int, filters: dict[str, Any]
) -> tuple[list[StoredEntry], int | None]:
    """The tenant's entries that pass the filters; a filter that is None passes all.

    And the index of the last entry that was tried, where there may be more behind it than were found.
    """
    present = tuple(sorted(name for name, value in filters.items() if value is not None))
    lists = _list(newest, present)
    found = [_entry(row) for row in await tx.fetch(lists.page, limit=limit, **filters)]
    if len(found) == limit or not _TRIED.keys() & set(present):
        return found, None
    last = await tx.fetchrow(lists.last_tried, **filters)
    return found, None if last is None else last["index"]


_AROUND_BYTES = 160
"""Bytes of an entry in a message besides its leaf: index, hash, names."""


def _read() -> Statement:
    """Reads size and entries in one statement, so that they are of one moment.

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
    log = select(literal(1).label("one")).subquery("log")
    known = log.outerjoin(heads, true()).outerjoin(checkpoints, true()).outerjoin(refused, true())
    return Statement.of(
        select(heads.c.size, checkpoints.c.epoch, refused.c.why, page.c.index, page.c.leaf, page.c.leaf_hash)
        .select_from(known.outerjoin(page, fits))
        .order_by(page.c.index)
    )


_READ = _read()


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """A leaf as stored. `leaf` is None once retention removed it."""

    index: int
    leaf: str | None
    leaf_hash: bytes


class Leaves(NamedTuple):
    """A page of leaves, the log's size and epoch, and why the vault refuses the log, if it does."""

    page: list[StoredLeaf]
    size: int
    epoch: int
    refused: str | None


async def read(tx: Reading, *, start: int, limit: int, max_bytes: int) -> Leaves:
    """The tenant's leaves from `start` on that fit into `limit` and `max_bytes`, at least one."""
    rows = await tx.fetch(_READ, start=start, limit=limit, max_bytes=max_bytes)
    leaves = [StoredLeaf(row["index"], row["leaf"], row["leaf_hash"]) for row in rows if row["index"] is not None]
    return Leaves(leaves, rows[0]["size"] or 0, rows[0]["epoch"] or 1, rows[0]["why"])


async def is_entered(tx: Reading, awaited: str) -> bool:
    """Whether the tenant's log has this event, or among its newest 1000 entries one of this request."""
    try:
        event = ids.decode(awaited, "evt")
    except ValueError:
        return await tx.fetchrow(_OF_REQUEST, request_id=awaited) is not None
    return await tx.fetchrow(_OF_EVENT, event_id=event) is not None


async def entries_of(tx: Reading, event_id: str) -> dict[str, StoredEntry]:
    """The tenant's entries under an event's id, by the service that announced each: one, if nobody used it again."""
    rows = await tx.fetch(_OF_EVENT, event_id=ids.decode(event_id, "evt"))
    return {row["service"]: _entry(row) for row in rows}


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
