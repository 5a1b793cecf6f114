"""A tenant's log that a vault witnesses: it grows, is signed, and is spoilt as an attacker at the database would."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import asyncpg

from causeloop_audit.service import CheckpointService, LogService, Signing
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import CheckpointView, EventProof, GetCheckpoint, GetEventProof
from causeloop_common.telemetry import metrics
from causeloop_log.tlog.merkle import Frontier, leaf_hash


@dataclass(frozen=True)
class Witnessed:
    """The log of the context's tenant. To `signing_away`, and for `away`, the vault cannot be reached."""

    log: LogService
    checkpoints: CheckpointService
    signing: Signing
    signing_away: Signing
    away: CheckpointService
    superuser: asyncpg.Connection
    event: Callable[..., Announced]
    ctx: AuthContext

    def of(self, ctx: AuthContext) -> "Witnessed":
        """The log of another tenant."""
        return replace(self, ctx=ctx)

    async def grow(self, count: int) -> list[Announced]:
        """Append so many entries."""
        events = [self.event(tenant=self.ctx.tenant) for _ in range(count)]
        await self.log.append(events)
        return events

    async def checkpoint(self) -> CheckpointView:
        return await self.checkpoints.get_checkpoint(self.ctx, GetCheckpoint())

    async def outcome(self, *, anew: bool = False) -> Any:
        """What comes of having the log signed."""
        return (await self.signing.sign([self.ctx.tenant_uuid], anew=anew))[self.ctx.tenant_uuid]

    async def proof(self, event: Announced) -> EventProof:
        return await self.checkpoints.get_event_proof(self.ctx, GetEventProof(id=event.id))

    async def hashes(self) -> list[bytes]:
        """The leaf hashes as they lie in the database."""
        rows = "SELECT leaf_hash FROM audit.entries WHERE workspace_id = $1 ORDER BY index"
        return [row["leaf_hash"] for row in await self.superuser.fetch(rows, self.ctx.tenant_uuid)]

    async def remove(self, condition: str) -> None:
        """Delete the entries for which the condition is true."""
        await self.superuser.execute(
            f"DELETE FROM audit.entries WHERE workspace_id = $1 AND {condition}",
            self.ctx.tenant_uuid,
        )

    async def cut(self, size: int) -> None:
        """Delete the entries from `size` on and move the head back, as if restored from before them."""
        await self.remove(f"index >= {size}")
        await self._put_head()

    async def shorten(self, size: int, note: str) -> None:
        """Put an older copy of the log in its place, to which this checkpoint belongs. The rest waits for `reenter`."""
        log = self.ctx.tenant_uuid
        await self.superuser.execute(
            f"CREATE TEMP TABLE later AS SELECT * FROM audit.entries WHERE workspace_id = '{log}' AND index >= {size}"
        )
        await self.cut(size)
        root = tree(await self.hashes()).root()
        kept = "UPDATE audit.checkpoints SET size = $2, root = $3, note = $4 WHERE workspace_id = $1"
        await self.superuser.execute(kept, log, size, root, note)

    async def reenter(self) -> None:
        """Enter the rest again, as it was."""
        await self.superuser.execute("INSERT INTO audit.entries SELECT * FROM later")
        await self._put_head()

    async def rewrite(self, index: int) -> None:
        """Change an entry, and the head so that it fits."""
        await self.superuser.execute(
            "UPDATE audit.entries SET leaf = 'forged', leaf_hash = $3 WHERE workspace_id = $1 AND index = $2",
            self.ctx.tenant_uuid, index, leaf_hash(b"forged"),
        )  # fmt: skip
        await self._put_head()

    async def _put_head(self) -> None:
        frontier = tree(await self.hashes())
        await self.superuser.execute(
            "UPDATE audit.heads SET size = $2, root = $3, peaks = $4 WHERE workspace_id = $1",
            self.ctx.tenant_uuid, frontier.size, frontier.root(), frontier.pack(),
        )  # fmt: skip


def tree(leaves: list[bytes]) -> Frontier:
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier


def broken() -> float:
    """How often a log was found broken."""
    return float(metrics.LOGS_BROKEN._value.get())
