"""Checkpoints of the log, and the proofs that lead to them.

The vault signs; here is what it needs to see: the head, and a proof that it continues what was signed before. The
last checkpoint is kept, so that a proof of an old entry asks nobody. The refusal of a log that does not continue what
the vault signed, or is damaged, is kept, too: until the log continues, nothing is proven or streamed of it.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from causeloop_audit import repository
from causeloop_audit.repository import Refusal, SignedHead, State, StoredEntry
from causeloop_audit.service.damage import NOT_CONTINUED, broken, not_continued, require_unchanged
from causeloop_audit.service.log import entry_of
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import (
    CheckpointView,
    ConsistencyProof,
    EventProof,
    GetCheckpoint,
    GetConsistency,
    GetEventProof,
)
from causeloop_common.contracts.vault import SignCheckpoint
from causeloop_common.database import Database, Transaction
from causeloop_common.errors import Conflict, InvalidInput, Timeout, Unavailable
from causeloop_common.messaging import Bus
from causeloop_common.permissions import Internal
from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.merkle import Span
from causeloop_log.tlog.proof import LogProof

_MISSING = "entries or nodes of it are missing"
_TRIES = 3
"""The vault may have signed a later head than the one known here; its refusal names that size, for the next try."""


class CheckpointService:
    """Have the log's head signed; prove entries and growth."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    async def get_checkpoint(self, ctx: AuthContext, command: GetCheckpoint) -> CheckpointView:
        """The log's head as it is now, signed."""
        signed = await self.sign(ctx)
        head = signed.head
        return CheckpointView(epoch=signed.epoch, size=head.size, root=head.root.hex(), checkpoint=signed.note)

    async def get_event_proof(self, ctx: AuthContext, command: GetEventProof) -> EventProof:
        """A proof that leads from an entry to the last checkpoint, or to a new one where the entry is younger."""
        async with self._database.transaction(ctx) as tx:
            entry = await entry_of(tx, command.id)
            signed = (await _continued(tx)).signed
            if signed is not None and signed.head.size > entry.index:
                return await self._entry_proof(tx, entry, signed)

        signed = await self.sign(ctx)
        async with self._database.transaction(ctx) as tx:
            return await self._entry_proof(tx, entry, signed)

    async def get_consistency(self, ctx: AuthContext, command: GetConsistency) -> ConsistencyProof:
        """A proof that the log of one size begins with the log of another."""
        async with self._database.transaction(ctx) as tx:
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

    async def sign(self, ctx: AuthContext, *, anew: bool = False, fence: str | None = None) -> SignedHead:
        """The head's checkpoint, signed by the vault unless it was. Conflict when the log is refused: by the vault, or
        because what it would have to see is damaged.

        `anew` asks in any case: the vault shows whether it signed more than is here. Otherwise a log that was refused
        is refused again, and nobody asked, until it has grown so that it may continue: a reader who asks often raises
        no alarm. With a `fence` the answer is kept in a leader's term only.
        """
        async with self._database.transaction(ctx) as tx:
            known = await repository.state(tx)
        head, signed, refusal = known.head, known.signed, known.refusal
        if refusal is not None and not anew and not refusal.may_be_over(head.size):
            raise not_continued(refusal.why)
        if signed is not None and signed.head == head and head.is_whole and refusal is None and not anew:
            return signed
        try:
            signed = await self._ask_vault(ctx, _begin(known))
        except _Refused as refused:
            async with self._database.transaction(ctx, fence=fence) as tx:
                is_new = await repository.keep_refusal(tx, refused.refusal)
            raise broken(ctx, refused.refusal.why, is_known=not is_new) from refused
        if signed != known.signed or refusal is not None:
            async with self._database.transaction(ctx, fence=fence) as tx:
                await repository.keep_checkpoint(tx, signed)
                await repository.forget_refusal(tx)
        return signed

    async def _entry_proof(self, tx: Transaction, entry: StoredEntry, signed: SignedHead) -> EventProof:
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

    async def _ask_vault(self, ctx: AuthContext, old_size: int) -> SignedHead:
        asking = ctx.of_service("audit", Internal.SIGN_CHECKPOINT)
        for _ in range(_TRIES):
            async with self._database.transaction(ctx) as tx:
                head = await repository.head(tx)
                if head.size < old_size:
                    why = f"it has {head.size} entries, and {old_size} were signed"
                    raise _Refused(Refusal(old_size, head.size, why))
                try:
                    path = await _stored(tx, merkle.consistency_spans(old_size, head.size))
                except ValueError as error:
                    raise _Refused(Refusal(old_size, head.size, _MISSING)) from error
            try:
                command = SignCheckpoint(
                    old_size=old_size, size=head.size, root=head.root.hex(), proof=[sibling.hex() for sibling in path]
                )
            except ValidationError as error:
                raise _Refused(Refusal(old_size, head.size, "its hashes are none")) from error
            damaged = Refusal(old_size, head.size, "its head is damaged")
            try:
                answer = await self._bus.call(asking, command)
            except Conflict as refusal:
                fields = refusal.fields or {}
                if "old_size" not in fields:
                    why = refusal.detail.removeprefix(NOT_CONTINUED).removesuffix(".")
                    signed = int(fields.get("size", [str(head.size)])[0])
                    raise _Refused(Refusal(signed, head.size, why)) from refusal
                old_size = int(fields["old_size"][0])
            except (Unavailable, Timeout) as error:
                if head.is_whole:
                    raise
                raise _Refused(damaged) from error
            else:
                if not head.is_whole:
                    raise _Refused(damaged)
                return SignedHead(head, answer.checkpoint, answer.epoch)
        raise Conflict("The log grew faster than it could be signed. Try again.")


class _Refused(Exception):
    """The log is signed no more: the vault refuses it, or what the vault would have to see is damaged."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.why)
        self.refusal = refusal


def _begin(known: State) -> int:
    """The size from which to prove. Where the log is shorter than its checkpoint the vault shows what it signed."""
    return 0 if known.signed is None or known.signed.head.size > known.head.size else known.signed.head.size


async def _continued(tx: Transaction) -> State:
    """The log's state; Conflict while it is known not to continue what was signed of it."""
    known = await repository.state(tx)
    if known.refusal is not None:
        raise not_continued(known.refusal.why)
    return known


async def path_of(tx: Transaction, spans: Sequence[Span]) -> list[bytes]:
    """The roots of these subtrees. Conflict where a hash is missing below the head's size: it was removed."""
    try:
        return await _stored(tx, spans)
    except ValueError as error:
        raise broken(tx.ctx, _MISSING) from error


async def _stored(tx: Transaction, spans: Sequence[Span]) -> list[bytes]:
    """The roots of these subtrees, from stored hashes. ValueError where one is missing."""
    stored = await repository.hashes(tx, [run for span in spans for run in merkle.runs(span)])
    return merkle.proof(spans, iter(stored))
