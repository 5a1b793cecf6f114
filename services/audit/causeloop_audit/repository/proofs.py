"""The hashes for proofs, and the checkpoints that proofs lead to, under row security."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from causeloop_audit.models import checkpoints, heads
from causeloop_common.database import Transaction
from causeloop_common.statements import Statement
from causeloop_log.tlog.merkle import EMPTY_ROOT, Frontier, Run


@dataclass(frozen=True, slots=True)
class Head:
    """A log's size and root, and whether it can be appended to: the peaks, which are kept beside, lead to the root."""

    size: int
    root: bytes
    is_whole: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint: the head it is of, and the signed note."""

    head: Head
    note: str


_HEAD = Statement.of(select(heads.c.size, heads.c.root, heads.c.peaks))

_CHECKPOINT = Statement.of(select(checkpoints.c.size, checkpoints.c.root, checkpoints.c.note))

_KEEP_CHECKPOINT = Statement.raw(
    """
    INSERT INTO audit.checkpoints (size, root, note) VALUES ($1, $2, $3)
    ON CONFLICT (workspace_id) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note
    WHERE checkpoints.size <= excluded.size
    """,
    "size", "root", "note",
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


async def head(tx: Transaction) -> Head:
    """The head of the tenant's log; of a log without entries, that of the empty tree."""
    row = await tx.fetchrow(_HEAD)
    if row is None:
        return Head(0, EMPTY_ROOT)
    try:
        is_whole = Frontier.unpack(row["size"], row["peaks"]).root() == row["root"]
    except ValueError:
        is_whole = False
    return Head(row["size"], row["root"], is_whole)


async def checkpoint(tx: Transaction) -> SignedHead | None:
    """The last checkpoint of the tenant's log that is here; the vault may have signed a later one."""
    row = await tx.fetchrow(_CHECKPOINT)
    return None if row is None else SignedHead(Head(row["size"], row["root"]), row["note"])


async def keep_checkpoint(tx: Transaction, signed: SignedHead) -> None:
    """Keep a checkpoint, unless a later one is here."""
    await tx.execute(_KEEP_CHECKPOINT, size=signed.head.size, root=signed.head.root, note=signed.note)


async def hashes(tx: Transaction, runs: Sequence[Run]) -> list[bytes]:
    """The packed hashes of each run, in the order of the runs."""
    rows = await tx.fetch(
        _HASHES,
        levels=[run.level for run in runs],
        firsts=[run.first for run in runs],
        counts=[run.count for run in runs],
    )
    return [row["hashes"] or b"" for row in rows]
