"""Everything that a tenant has sealed under its data key, walked in a stable order and sealed anew.

Each kind of row is walked by its table's key, so that a cursor stays good while rows come and go. A batch is bounded in
rows and in bytes, whatever it finds. A row gets its new ciphertext only if it still has the one that was read.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from causeloop_common import ids
from causeloop_common.database import Transaction
from causeloop_common.statements import Statement
from causeloop_vault.domain import places
from causeloop_vault.domain.places import Place

MOST_ROWS = 200
MOST_BYTES = 1024 * 1024
"""A batch ends with the row that passes this many bytes of ciphertext."""

Cursor = tuple[int, tuple[Any, ...]]
"""A kind of row, and the key of the last one that was walked."""


class Sealed(NamedTuple):
    """A row's key, its place and its ciphertext."""

    key: tuple[Any, ...]
    place: Place
    sealed: str


class _Kind(NamedTuple):
    start: tuple[Any, ...]
    walk: Statement
    reseal: Statement
    number: Statement
    key: tuple[str, ...]
    place: Callable[[Any], Place]


def _kind(table: str, key: dict[str, str], place: Callable[[Any], Place], *more: str) -> _Kind:
    """How the rows of a table are walked and sealed anew. `key` has the columns of its key behind the tenant, with
    their types; `more` are other columns that a place is made of.
    """
    names, numbers = ", ".join(key), ", ".join(f"${number}" for number in range(1, len(key) + 1))
    after, columns = len(key) + 1, ", ".join((*key, *more))
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate((*key.values(), "text", "text"), start=1))
    same = " AND ".join(f"t.{name} = new.{name}" for name in key)
    row = ", ".join(f"t.{name}" for name in key)
    given = [f"(${number}::{kind}[])" for number, kind in enumerate(key.values(), start=1)]
    first, last = ", ".join(f"{array}[1]" for array in given), ", ".join(f"{a}[cardinality({a})]" for a in given)
    walk = f"""
        SELECT {columns}, sealed FROM (
            SELECT {columns}, sealed, sum(octet_length(sealed)) OVER (ORDER BY {names}) - octet_length(sealed) AS before
            FROM (
                SELECT {columns}, sealed FROM {table} WHERE ({names}) > ({numbers}) ORDER BY {names} LIMIT ${after}
            ) AS rows
        ) AS batch
        WHERE before < ${after + 1} ORDER BY {names}
        """  # noqa: S608  names of our own
    reseal = f"""
        UPDATE {table} AS t SET sealed = new.sealed FROM unnest({arrays}) AS new ({names}, old, sealed)
        WHERE ({row}) >= ({first}) AND ({row}) <= ({last}) AND {same} AND t.sealed = new.old
        """  # noqa: S608
    return _Kind(
        tuple("" if kind == "text" else 0 for kind in key.values()),
        Statement.raw(walk, *key, "rows", "bytes"),
        Statement.raw(reseal, *key, "old", "new"),
        Statement.raw(f"SELECT count(*) FROM {table}"),  # noqa: S608
        tuple(key),
        place,
    )


_KINDS = (
    _kind(
        "vault.keys",
        {"name": "text", "version": "integer"},
        lambda row: places.of_key(ids.encode("key", row["id"]), row["version"]),
        "id",
    ),
    _kind(
        "vault.signing_keys",
        {"version": "integer"},
        lambda row: places.of_signing_key(row["origin"]),
        "origin",
    ),
    _kind(
        "vault.secret_versions",
        {"path": "text", "version": "integer"},
        lambda row: places.of_secret(row["path"], row["version"]),
    ),
    _kind(
        "vault.sealed_values",
        {"purpose": "text", "record": "text"},
        lambda row: Place(row["purpose"], row["record"]),
    ),
)

START: Cursor = (0, _KINDS[0].start)

_NEXT_WRITER = Statement.raw("SELECT pg_current_xact_id()::text::bigint")
_OLDEST_WRITER = Statement.raw("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")


async def walk(tx: Transaction, cursor: Cursor) -> tuple[list[Sealed], Cursor | None]:
    """The rows behind a cursor, of one kind, at most `MOST_ROWS`; and the cursor behind them, None at the end."""
    number, after = cursor
    kind = _KINDS[number]
    rows = await tx.fetch(kind.walk, **dict(zip(kind.key, after, strict=True)), rows=MOST_ROWS, bytes=MOST_BYTES)
    found = [Sealed(tuple(row[name] for name in kind.key), kind.place(row), row["sealed"]) for row in rows]
    if found:
        return found, (number, found[-1].key)
    return [], None if number + 1 == len(_KINDS) else (number + 1, _KINDS[number + 1].start)


async def reseal(tx: Transaction, cursor: Cursor, batch: Sequence[tuple[Sealed, str]]) -> int:
    """Give rows of the cursor's kind, in the order of the walk, their new ciphertexts; how many still had the one that
    was read.
    """
    if not batch:
        return 0
    kind = _KINDS[cursor[0]]
    keys = zip(*(row.key for row, _ in batch), strict=True)
    return await tx.execute(
        kind.reseal,
        **{name: list(values) for name, values in zip(kind.key, keys, strict=True)},
        old=[row.sealed for row, _ in batch],
        new=[sealed for _, sealed in batch],
    )


async def count_sealed(tx: Transaction) -> int:
    """How many rows a walk meets."""
    return sum([(await tx.fetchrow(kind.number))[0] for kind in _KINDS])


async def next_writer(tx: Transaction) -> int:
    """A number above that of every transaction that has written by now."""
    return int((await tx.fetchrow(_NEXT_WRITER))[0])


async def have_ended(tx: Transaction, writers: int) -> bool:
    """Whether every transaction with a number below has ended."""
    return int((await tx.fetchrow(_OLDEST_WRITER))[0]) >= writers
