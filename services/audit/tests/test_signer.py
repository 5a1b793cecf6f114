"""The signer: it signs logs that nobody asks for, in one replica."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from causeloop_audit.models import WRITER
from causeloop_audit.repository import LogWatch
from causeloop_audit.service import CheckpointService, Signer
from causeloop_audit.settings import AuditSettings
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import GetConsistency, ReadStream
from causeloop_common.database import role_connections
from causeloop_common.errors import Conflict, Unavailable
from causeloop_common.leader import Leader, Work
from causeloop_common.telemetry import metrics
from causeloop_dev.testing import Servers, context
from tests.support.witnessed import Witnessed, tree

PATIENCE = 10.0

Sign = Callable[[CheckpointService], tuple[Leader, Signer]]


@pytest.fixture
async def sign(servers: Servers) -> AsyncIterator[Sign]:
    """Makes a signer, and its part in the lead."""
    settings = AuditSettings.load("audit", servers.environ["audit"])
    own, writer = (role_connections(settings.dsn(role), role) for role in ("causeloop_audit", WRITER))

    def make(checkpoints: CheckpointService) -> tuple[Leader, Signer]:
        leader = Leader(own, "audit", "signer")
        return leader, Signer(leader, LogWatch(writer), checkpoints, seconds=0.05)

    yield make
    for connections in (own, writer):
        await connections.close(1)


class TestSigner:
    async def test_signs_a_log_nobody_asks_for_and_goes_on_after_a_broken_one(
        self, witnessed: Witnessed, sign: Sign
    ) -> None:
        spoilt, gone, sound = sorted((context(ids.new("ws")) for _ in range(3)), key=lambda ctx: ctx.tenant_uuid)
        for one in (spoilt, gone):
            await witnessed.of(one).grow(9)
            await witnessed.of(one).checkpoint()
        await witnessed.of(spoilt).rewrite(3)
        for one in (spoilt, gone, sound):
            await witnessed.of(one).grow(1)
        await witnessed.of(gone).remove("index = 9")
        leader, signer = sign(witnessed.checkpoints)
        async with running(leader, signer):
            assert await signed(witnessed.superuser, sound, 1)
            await leader.check()
        assert not await signed(witnessed.superuser, spoilt, 10, seconds=0)

    async def test_says_so_while_the_vault_is_away_and_holds_up_no_log_for_another(
        self, witnessed: Witnessed, sign: Sign
    ) -> None:
        first, second = sorted((context(ids.new("ws")) for _ in range(2)), key=lambda ctx: ctx.tenant_uuid)
        for one in (first, second):
            await witnessed.of(one).grow(1)
        tried: list[str] = []
        both = asyncio.Event()
        ask = witnessed.away.sign

        async def noted(ctx: AuthContext, **more: Any) -> Any:
            tried.append(ctx.tenant)
            if len(tried) == 2:
                both.set()
            return await ask(ctx, **more)

        witnessed.away.sign = noted  # type: ignore[method-assign]
        leader, signer = sign(witnessed.away)
        signer._after = UUID(int=first.tenant_uuid.int - 1)  # other tests left logs that are behind
        async with running(leader, signer), asyncio.timeout(PATIENCE):
            await both.wait()
            with pytest.raises(Unavailable, match="The signer waits"):
                await leader.check()
        assert tried[:2] == [first.tenant, second.tenant]

    async def test_finds_a_quiet_log_that_lost_its_end_and_lets_it_go_on_once_it_has_it_again(
        self, witnessed: Witnessed, sign: Sign
    ) -> None:
        """P6: a quiet log of an older copy of the database is refused in every way, until it is whole again."""
        first, *_ = await witnessed.grow(7)
        older = await witnessed.checkpoint()
        await witnessed.grow(2)
        await witnessed.checkpoint()
        await witnessed.shorten(7, older.checkpoint)
        leader, signer = sign(witnessed.checkpoints)
        signer._quiet_after = UUID(int=witnessed.ctx.tenant_uuid.int - 1)  # other tests left logs that come before it
        async with running(leader, signer):
            assert await refused(witnessed, 7)
            ctx, why = witnessed.ctx, "it has 7 entries, and 9 were signed"
            for asked in (
                witnessed.checkpoint(),
                witnessed.proof(first),
                witnessed.checkpoints.get_consistency(ctx, GetConsistency.model_validate({"from": 1})),
                witnessed.log.read_stream(ctx, ReadStream(start=0)),
            ):
                with pytest.raises(Conflict, match=why):
                    await asked
            with pytest.raises(Unavailable, match="does not continue what the vault signed of it"):
                await signer.examine()
            assert metrics.LOGS_REFUSED._value.get() > 0

            await witnessed.reenter()

            assert await refused(witnessed, None)
            assert await signed(witnessed.superuser, ctx, 9)
        assert (await witnessed.log.read_stream(ctx, ReadStream(start=0))).size == 9
        assert (await witnessed.proof(first)).size == 9

    async def test_finds_a_quiet_log_with_another_entry_than_was_signed(self, witnessed: Witnessed, sign: Sign) -> None:
        """P6: the witness is asked about logs that do not grow, too."""
        await witnessed.grow(9)
        note = (await witnessed.checkpoint()).checkpoint
        await witnessed.rewrite(3)
        root = tree(await witnessed.hashes()).root()
        forged = "UPDATE audit.checkpoints SET root = $2, note = $3 WHERE workspace_id = $1"
        await witnessed.superuser.execute(forged, witnessed.ctx.tenant_uuid, root, note)
        leader, signer = sign(witnessed.checkpoints)
        signer._quiet_after = UUID(int=witnessed.ctx.tenant_uuid.int - 1)  # other tests left logs that come before it
        async with running(leader, signer):
            assert await refused(witnessed, 9)

    async def test_stands_by_while_another_leads(self, witnessed: Witnessed, sign: Sign) -> None:
        leader, _ = sign(witnessed.checkpoints)
        await witnessed.grow(1)
        async with running(leader, Idle()):
            async with asyncio.timeout(PATIENCE):
                while not leader.leads:  # noqa: ASYNC110  it lies in the database
                    await asyncio.sleep(0.02)
            other, signer = sign(witnessed.checkpoints)
            task = asyncio.create_task(other.run(signer))
            assert not await signed(witnessed.superuser, witnessed.ctx, 1, seconds=0.5)
            await other.check()
        assert await signed(witnessed.superuser, witnessed.ctx, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Idle(Work):
    """Leads, and does nothing."""

    async def lead(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def running(leader: Leader, work: Work) -> AsyncIterator[None]:
    task = asyncio.create_task(leader.run(work))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def refused(witnessed: Witnessed, entries: int | None) -> bool:
    """Whether it is kept soon that the vault refuses the log with so many entries; None: that it does not."""
    kept = "SELECT entries FROM audit.refused WHERE workspace_id = $1"
    end = asyncio.get_running_loop().time() + PATIENCE
    while await witnessed.superuser.fetchval(kept, witnessed.ctx.tenant_uuid) != entries:
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(0.02)
    return True


async def signed(superuser: asyncpg.Connection, ctx: AuthContext, size: int, seconds: float = PATIENCE) -> bool:
    """Whether a checkpoint of this size is kept within so long."""
    kept = "SELECT size FROM audit.checkpoints WHERE workspace_id = $1"
    end = asyncio.get_running_loop().time() + seconds
    while await superuser.fetchval(kept, ctx.tenant_uuid) != size:
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(0.02)
    return True
