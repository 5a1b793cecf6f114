"""Checkpoints of the log, and the proofs that lead to them.

The vault signs (`signing`). The last checkpoint is kept, so that a proof of an old entry asks nobody. The refusal of a
log that does not continue what the vault signed, or is damaged, is kept, too: until the log continues, nothing is
proven or streamed of it.
"""

from collections.abc import Sequence

from causeloop_audit import repository
from causeloop_audit.repository import SignedHead, State, StoredEntry
from causeloop_audit.service.damage import broken, not_continued, require_unchanged
from causeloop_audit.service.log import entry_of
from causeloop_audit.service.signing import MISSING, Signing
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import (
    CheckpointView,
    ConsistencyProof,
    EventProof,
    GetCheckpoint,
    GetConsistency,
    GetEventProof,
)
from causeloop_common.database import Database, Reading
from causeloop_common.errors import AppError, InvalidInput
from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.merkle import Span
from causeloop_log.tlog.proof import LogProof


class CheckpointService:
    """Have the log's head signed; prove entries and growth."""

    def __init__(self, database: Database, signing: Signing) -> None:
        self._database = database
        self._signing = signing

    async def get_checkpoint(self, ctx: AuthContext, command: GetCheckpoint) -> CheckpointView:
        """The log's head as it is now, signed."""
        signed = await self._signed(ctx)
        head = signed.head
        return CheckpointView(epoch=signed.epoch, size=head.size, root=head.root.hex(), checkpoint=signed.note)

    async def get_event_proof(self, ctx: AuthContext, command: GetEventProof) -> EventProof:
        """A proof that leads from an entry to the last checkpoint, or to a new one where the entry is younger."""
        async with self._database.reading(ctx) as tx:
            entry = await entry_of(tx, command.id)
            signed = (await _continued(tx)).signed
            if signed is not None and signed.head.size > entry.index:
                return await self._entry_proof(tx, entry, signed)

        signed = await self._signed(ctx)
        async with self._database.reading(ctx) as tx:
            return await self._entry_proof(tx, entry, signed)

    async def get_consistency(self, ctx: AuthContext, command: GetConsistency) -> ConsistencyProof:
        """A proof that the log of one size begins with the log of another."""
        async with self._database.reading(ctx) as tx:
            head = (await _continued(tx)).head
            new_size = head.size if command.new_size is None else command.new_size
            if new_size > head.size:
                raise InvalidInput.of(to=f"is more than the log has: {head.size} entries")
            if command.old_size > new_size:
                raise InvalidInput.of(**{"from": f"is more than 'to', which is {new_size}"})
            path = await path_of(tx, merkle.consistency_spans(command.old_size, new_size))
        return ConsistencyProof.model_validate(
            {"from": command.old_size, "to": new_size, "path": [sibling.hex() for sibling in path]}
        )

    async def _signed(self, ctx: AuthContext) -> SignedHead:
        """The head's checkpoint, signed by the vault unless it was. Conflict when the log is refused: by the vault, or
        because what it would have to see is damaged.
        """
        log = ctx.tenant_uuid
        outcome = (await self._signing.sign([log]))[log]
        if isinstance(outcome, AppError):
            raise outcome
        return outcome

    async def _entry_proof(self, tx: Reading, entry: StoredEntry, signed: SignedHead) -> EventProof:
        """The proof, which leads to the checkpoint's root: one that does not is of a log that was changed."""
        require_unchanged(tx.ctx, entry)
        size, root = signed.head.size, signed.head.root
        if size <= entry.index:
            raise broken(tx.ctx, f"entry {entry.index} lies beyond its head")
        path = await path_of(tx, merkle.inclusion_spans(entry.index, size))
        try:
            merkle.verify_inclusion(entry.index, size, entry.leaf_hash, path, root)
        except NotVerified as error:
            raise broken(tx.ctx, f"of entry {entry.index}, {error}") from error
        leaf = None if entry.leaf is None else entry.leaf.encode()
        return EventProof(
            index=entry.index,
            leaf=entry.leaf,
            leaf_hash=entry.leaf_hash.hex(),
            size=size,
            path=[sibling.hex() for sibling in path],
            checkpoint=signed.note,
            tlog_proof=str(LogProof(entry.index, path, signed.note, leaf)),
        )


async def _continued(tx: Reading) -> State:
    """The log's state; Conflict while it is known not to continue what was signed of it."""
    known = await repository.state(tx)
    if known.refusal is not None:
        raise not_continued(known.refusal.why)
    return known


async def path_of(tx: Reading, spans: Sequence[Span]) -> list[bytes]:
    """The roots of these subtrees. Conflict where a hash is missing below the head's size: it was removed."""
    stored = await repository.hashes(tx, [run for span in spans for run in merkle.runs(span)])
    try:
        return merkle.proof(spans, iter(stored))
    except ValueError as error:
        raise broken(tx.ctx, MISSING) from error
