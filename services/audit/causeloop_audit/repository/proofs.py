"""The hashes for proofs, the checkpoints that proofs lead to, and what the vault refused, under row security."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from causeloop_audit.models import heads
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
    """A checkpoint: the head it is of, the signed note, and the log's epoch."""

    head: Head
    note: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The log is signed no more: the vault signed a head of `size` entries, and the log, when it had so many `entries`,
    did not continue that one. A log that had fewer may still get them; one that had as many has others, or is damaged.
    """

    size: int
    entries: int
    why: str

    def may_be_over(self, size: int) -> bool:
        """Whether the log, now of this size, may continue: it has what was signed, and more entries than then."""
        return size >= self.size and size > self.entries


@dataclass(frozen=True, slots=True)
class State:
    """A log's head, the last checkpoint of it that is here (the vault may have signed a later one), and the refusal of
    a log that does not continue what was signed.
    """

    head: Head
    signed: SignedHead | None
    refusal: Refusal | None


_HEAD = Statement.of(select(heads.c.size, heads.c.root, heads.c.peaks))

_STATE = Statement.raw(
    """
    SELECT h.size, h.root, h.peaks, c.size AS signed_size, c.root AS signed_root, c.note, c.epoch,
           r.size AS refused_size, r.entries, r.why
    FROM (VALUES (true)) AS log
    LEFT JOIN audit.heads h ON true LEFT JOIN audit.checkpoints c ON true LEFT JOIN audit.refused r ON true
    """
)

_KEEP_CHECKPOINT = Statement.raw(
    """
    INSERT INTO audit.checkpoints (size, root, note, epoch) VALUES ($1, $2, $3, $4)
    ON CONFLICT (workspace_id) DO UPDATE
    SET size = excluded.size, root = excluded.root, note = excluded.note, epoch = excluded.epoch
    WHERE (checkpoints.epoch, checkpoints.size) <= (excluded.epoch, excluded.size)
    """,
    "size", "root", "note", "epoch",
)  # fmt: skip

_KEEP_REFUSAL = Statement.raw(
    """
    INSERT INTO audit.refused (size, entries, why)
    SELECT $1::bigint, $2::bigint, $3 WHERE $2 = coalesce((SELECT h.size FROM audit.heads h), 0)
    ON CONFLICT (workspace_id) DO UPDATE SET size = excluded.size, entries = excluded.entries, why = excluded.why
    WHERE (refused.size, refused.entries, refused.why) IS DISTINCT FROM (excluded.size, excluded.entries, excluded.why)
    """,
    "size", "entries", "why",
)  # fmt: skip

_BEGIN_EPOCH = Statement.raw(
    """
    INSERT INTO audit.refused (size, entries, why) VALUES (0, 0, $1)
    ON CONFLICT (workspace_id) DO UPDATE SET size = 0, entries = 0, why = excluded.why
    """,
    "why",
)

_FORGET_REFUSAL = Statement.raw("DELETE FROM audit.refused")

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
    return _head(await tx.fetchrow(_HEAD))


async def state(tx: Transaction) -> State:
    """The state of the tenant's log."""
    row = await tx.fetchrow(_STATE)
    signed = refusal = None
    if row["note"] is not None:
        signed = SignedHead(Head(row["signed_size"], row["signed_root"]), row["note"], row["epoch"])
    if row["why"] is not None:
        refusal = Refusal(row["refused_size"], row["entries"], row["why"])
    return State(_head(row), signed, refusal)


def _head(row: Any) -> Head:
    if row is None or row["size"] is None:
        return Head(0, EMPTY_ROOT)
    try:
        is_whole = Frontier.unpack(row["size"], row["peaks"]).root() == row["root"]
    except ValueError:
        is_whole = False
    return Head(row["size"], row["root"], is_whole)


async def keep_checkpoint(tx: Transaction, signed: SignedHead) -> None:
    """Keep a checkpoint, unless a later one is here."""
    head = signed.head
    await tx.execute(_KEEP_CHECKPOINT, size=head.size, root=head.root, note=signed.note, epoch=signed.epoch)


async def keep_refusal(tx: Transaction, refusal: Refusal) -> bool:
    """Keep a refusal, unless the log has grown since; whether it is another than was kept."""
    return await tx.execute(_KEEP_REFUSAL, size=refusal.size, entries=refusal.entries, why=refusal.why) == 1


async def begin_epoch(tx: Transaction, why: str) -> None:
    """Have the vault asked about the log as it is, and nothing proven of it until then."""
    await tx.execute(_BEGIN_EPOCH, why=why)


async def forget_refusal(tx: Transaction) -> None:
    """Forget a refusal: the log continues what was signed."""
    await tx.execute(_FORGET_REFUSAL)


async def hashes(tx: Transaction, runs: Sequence[Run]) -> list[bytes]:
    """The packed hashes of each run, in the order of the runs."""
    rows = await tx.fetch(
        _HASHES,
        levels=[run.level for run in runs],
        firsts=[run.first for run in runs],
        counts=[run.count for run in runs],
    )
    return [row["hashes"] or b"" for row in rows]
