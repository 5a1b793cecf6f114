"""Audit's part in the recovery of logs that do not continue what the vault signed of them."""

from uuid import UUID

from causeloop_audit import repository
from causeloop_audit.domain.position import again_from
from causeloop_audit.repository import LogWatch
from causeloop_audit.service.checkpoints import path_of
from causeloop_audit.service.signing import own_context
from causeloop_common.database import Database
from causeloop_common.messaging import StreamEnds
from causeloop_log.tlog import merkle
from causeloop_log.tlog.merkle import TreeHead


class RecoveryService:
    """The heads of all logs, their growth, and the beginning of an epoch."""

    def __init__(self, database: Database, watch: LogWatch) -> None:
        self._database = database
        self._watch = watch

    async def heads(self) -> dict[UUID, TreeHead]:
        """By tenant, the head of every log that has entries."""
        return await self._watch.heads()

    async def is_entered(self, stream: StreamEnds, floor: int) -> bool:
        """Whether the intake will not enter the stream again from an earlier place than `floor`, as after a restore."""
        position = await self._watch.position()
        begin = again_from(position, stream=stream.created, first=stream.first, last=stream.last, floor=floor)
        return begin is None

    async def term(self) -> str:
        """The last term of the intake; empty before the first."""
        return await self._watch.term()

    async def growth(self, tenant: str, size: int) -> tuple[TreeHead, list[bytes]]:
        """A log's head, and the consistency proof from a size on, which is empty where the log has less.

        Conflict when hashes that the proof needs are missing.
        """
        async with self._database.reading(own_context(tenant)) as tx:
            head = await repository.head(tx)
            return head, await path_of(tx, merkle.consistency_spans(size, head.size)) if head.size > size else []

    async def epoch(self, tenant: str) -> int:
        """The epoch of the log's last checkpoint here; 1 without one."""
        async with self._database.reading(own_context(tenant)) as tx:
            signed = (await repository.state(tx)).signed
        return 1 if signed is None else signed.epoch

    async def begin_epoch(self, tenant: str, epoch: int) -> None:
        """Have the log signed in an epoch that the vault opened. Until then nothing is proven or streamed of it."""
        async with self._database.transaction(own_context(tenant)) as tx:
            repository.begin_epoch(tx, f"its epoch {epoch} begins, and is not signed yet")
