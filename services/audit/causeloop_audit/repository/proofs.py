"""The hashes for proofs, the checkpoints that proofs lead to, and what the vault refused, under row security."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select

from causeloop_audit.models import heads
from causeloop_common.database import Reading, Transaction
from causeloop_common.statements import Statement
from causeloop_log.tlog.merkle import EMPTY, Frontier, Run, TreeHead


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint: the head it is of, the signed note, and the log's epoch."""

    head: TreeHead
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
    """A log's head, whether it can be appended to (the peaks, which are kept beside, lead to the root), the last
    checkpoint of it that is here (the vault may have signed a later one), and the refusal of a log that does not
    continue what was signed.
    """

    head: TreeHead
    is_whole: bool
    signed: SignedHead | None
    refusal: Refusal | None

    @property
    def is_signed(self) -> bool:
        """Whether the last checkpoint is of the head, and nothing is wrong with the log as far as that is known."""
        return self.signed is not None and self.signed.head == self.head and self.is_whole and self.refusal is None


_HEAD = Statement.of(select(heads.c.size, heads.c.root))

_STATES = Statement.raw("SELECT * FROM audit.log_states($1)", "tenants")
_HASHES = Statement.raw(
    "SELECT * FROM audit.log_hashes($1, $2, $3, $4, $5)", "tenants", "runs", "levels", "firsts", "counts"
)
_KEEP_CHECKPOINTS = Statement.raw(
    "SELECT audit.keep_checkpoints($1, $2, $3, $4, $5)", "tenants", "sizes", "roots", "notes", "epochs"
)

_KEEP_REFUSAL = Statement.raw(
    """
    WITH before AS (SELECT size FROM audit.refused),
         kept AS (
             INSERT INTO audit.refused (size, entries, why)
             SELECT $1::bigint, $2::bigint, $3 WHERE $2 = coalesce((SELECT h.size FROM audit.heads h), 0)
             ON CONFLICT (workspace_id) DO UPDATE
             SET size = excluded.size, entries = excluded.entries, why = excluded.why
             WHERE (refused.size, refused.entries, refused.why)
                   IS DISTINCT FROM (excluded.size, excluded.entries, excluded.why)
             RETURNING size
         )
    SELECT EXISTS (SELECT FROM kept WHERE size NOT IN (SELECT size FROM before)) AS is_new
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


async def head(tx: Reading) -> TreeHead:
    """The head of the tenant's log; of a log without entries, that of the empty tree."""
    row = await tx.fetchrow(_HEAD)
    return EMPTY if row is None else TreeHead(row["size"], row["root"])


async def state(tx: Reading) -> State:
    """The state of the tenant's log."""
    log = tx.ctx.tenant_uuid
    return (await states(tx, [log]))[log]


async def states(tx: Reading, logs: Sequence[UUID]) -> dict[UUID, State]:
    """By tenant, the state of each of these logs."""
    return {row["of_tenant"]: _state(row) for row in await tx.fetch(_STATES, tenants=logs)}


def _state(row: Any) -> State:
    signed = refusal = None
    if row["note"] is not None:
        signed = SignedHead(TreeHead(row["signed_size"], row["signed_root"]), row["note"], row["epoch"])
    if row["why"] is not None:
        refusal = Refusal(row["refused_size"], row["entries"], row["why"])
    if row["size"] is None:
        return State(EMPTY, True, signed, refusal)
    try:
        is_whole = Frontier.unpack(row["size"], row["peaks"]).root() == row["root"]
    except ValueError:
        is_whole = False
    return State(TreeHead(row["size"], row["root"]), is_whole, signed, refusal)


async def keep_checkpoints(tx: Transaction, signed: Mapping[UUID, SignedHead]) -> None:
    """By tenant, keep a checkpoint of each of these logs, unless a later one is here, and forget that it was refused:
    it continues what was signed.
    """
    await tx.execute(
        _KEEP_CHECKPOINTS,
        tenants=list(signed),
        sizes=[one.head.size for one in signed.values()],
        roots=[one.head.root for one in signed.values()],
        notes=[one.note for one in signed.values()],
        epochs=[one.epoch for one in signed.values()],
    )


async def keep_refusal(tx: Transaction, refusal: Refusal) -> bool:
    """Keep a refusal, unless the log has grown since; whether it was not refused before for the same signed head."""
    row = await tx.fetchrow(_KEEP_REFUSAL, size=refusal.size, entries=refusal.entries, why=refusal.why)
    return bool(row["is_new"])


def begin_epoch(tx: Transaction, why: str) -> None:
    """Have the vault asked about the log as it is, and nothing proven of it until then."""
    tx.later(_BEGIN_EPOCH, why=why)


async def hashes(tx: Reading, runs: Sequence[Run]) -> list[bytes]:
    """The packed hashes of each run of the tenant's log, in the order of the runs."""
    log = tx.ctx.tenant_uuid
    return (await hashes_of_logs(tx, {log: runs}))[log]


async def hashes_of_logs(tx: Reading, runs: Mapping[UUID, Sequence[Run]]) -> dict[UUID, list[bytes]]:
    """By tenant, the packed hashes of each run, in the order of the runs."""
    found: dict[UUID, list[bytes]] = {log: [] for log in runs}
    wanted = {log: one for log, one in runs.items() if one}
    if not wanted:
        return found
    flat = [run for one in wanted.values() for run in one]
    rows = await tx.fetch(
        _HASHES,
        tenants=list(wanted),
        runs=[len(one) for one in wanted.values()],
        levels=[run.level for run in flat],
        firsts=[run.first for run in flat],
        counts=[run.count for run in flat],
    )
    for row in rows:
        found[row["of_tenant"]].append(row["hashes"] or b"")
    return found
