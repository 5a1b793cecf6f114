"""The signer: it signs logs that nobody asks for, in one replica."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest import mock
from uuid import UUID

import asyncpg
import pytest

from causeloop_audit.models import WRITER
from causeloop_audit.repository import LogWatch, LogWriter, SignedHead
from causeloop_audit.service import LogService, Readers, ReadLogs, Signer, Signing, signing as room
from causeloop_audit.settings import AuditSettings
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import GetConsistency, ReadStream
from causeloop_common.database import Database, role_connections
from causeloop_common.errors import Conflict, Unavailable
from causeloop_common.leader import Leader, Work
from causeloop_common.telemetry import metrics
from causeloop_dev.testing import Servers, context
from tests.support.witnessed import Witnessed, tree

PATIENCE = 10.0

Sign = Callable[[Signing], tuple[Leader, Signer]]


@pytest.fixture
async def sign(servers: Servers) -> AsyncIterator[Sign]:
    """Makes a signer, and its part in the lead."""
    settings = AuditSettings.load("audit", servers.environ["audit"])
    own, writer = (role_connections(settings.dsn(role), role) for role in ("causeloop_audit", WRITER))

    def make(signing: Signing) -> tuple[Leader, Signer]:
        leader = Leader(own, "audit", "signer")
        return leader, Signer(leader, LogWatch(writer), signing, seconds=0.05)

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
        leader, signer = sign(witnessed.signing)
        async with running(leader, signer):
            assert await signed(witnessed.superuser, sound, 1)
            await leader.check()
        assert not await signed(witnessed.superuser, spoilt, 10, seconds=0)

    async def test_says_so_while_the_vault_is_away_and_goes_on_after_the_logs_that_it_tried(
        self, witnessed: Witnessed, sign: Sign
    ) -> None:
        for _ in range(room.AT_ONCE * 2 + 1):
            await witnessed.of(context(ids.new("ws"))).grow(1)
        tried: list[Sequence[UUID]] = []
        again = asyncio.Event()
        ask = witnessed.signing_away.sign

        async def noted(logs: Sequence[UUID], **more: Any) -> Any:
            tried.append(logs)
            if len(tried) == 3:  # after two at once, which failed
                again.set()
            return await ask(logs, **more)

        witnessed.signing_away.sign = noted  # type: ignore[method-assign]
        leader, signer = sign(witnessed.signing_away)
        async with running(leader, signer), asyncio.timeout(PATIENCE):
            await again.wait()
            with pytest.raises(Unavailable, match="The signer waits"):
                await leader.check()
        assert tried[0][-1] < tried[1][0] <= tried[1][-1] < tried[2][0]

    async def test_signs_all_others_where_one_cannot_be_signed_with_them(
        self, witnessed: Witnessed, sign: Sign
    ) -> None:
        first, ill, last = sorted((context(ids.new("ws")) for _ in range(3)), key=lambda ctx: ctx.tenant_uuid)
        for one in (first, ill, last):
            await witnessed.of(one).grow(1)
        ask = witnessed.signing.sign

        async def fails(logs: Sequence[UUID], **more: Any) -> Any:
            if ill.tenant_uuid in logs:
                raise Unavailable("PostgreSQL does not answer: QueryCanceledError.")
            return await ask(logs, **more)

        witnessed.signing.sign = fails  # type: ignore[method-assign]
        leader, signer = sign(witnessed.signing)
        async with running(leader, signer):
            for one in (first, last):
                assert await signed(witnessed.superuser, one, 1)
        assert signer._alone == {ill.tenant_uuid}
        witnessed.signing.sign = ask  # type: ignore[method-assign]
        async with running(leader, signer):
            assert await signed(witnessed.superuser, ill, 1)

    async def test_signs_many_logs_at_once(self, witnessed: Witnessed) -> None:
        logs = [context(ids.new("ws")) for _ in range(20)]
        for number, ctx in enumerate(logs):
            await witnessed.of(ctx).grow(1 + number % 3)
            if number % 2:
                await witnessed.of(ctx).checkpoint()
                await witnessed.of(ctx).grow(2)
        commands = 0
        call = witnessed.signing._bus.call

        async def counted(ctx: AuthContext, command: Any) -> Any:
            nonlocal commands
            commands += 1
            return await call(ctx, command)

        with mock.patch.object(witnessed.signing._bus, "call", counted):
            outcomes = await witnessed.signing.sign([ctx.tenant_uuid for ctx in logs])
        assert commands == 1
        for number, ctx in enumerate(logs):
            size = 1 + number % 3 + 2 * (number % 2)
            outcome = outcomes[ctx.tenant_uuid]
            assert isinstance(outcome, SignedHead)
            assert f"log/{ctx.tenant}\n{size}\n" in outcome.note
            assert await signed(witnessed.superuser, ctx, size, seconds=0)

    async def test_finds_a_quiet_log_that_lost_its_end_and_lets_it_go_on_once_it_has_it_again(
        self, witnessed: Witnessed, sign: Sign
    ) -> None:
        """P6: a quiet log of an older copy of the database is refused in every way, until it is whole again."""
        first, *_ = await witnessed.grow(7)
        older = await witnessed.checkpoint()
        await witnessed.grow(2)
        await witnessed.checkpoint()
        await witnessed.shorten(7, older.checkpoint)
        leader, signer = sign(witnessed.signing)
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
        leader, signer = sign(witnessed.signing)
        signer._quiet_after = UUID(int=witnessed.ctx.tenant_uuid.int - 1)  # other tests left logs that come before it
        async with running(leader, signer):
            assert await refused(witnessed, 9)

    async def test_stands_by_while_another_leads(self, witnessed: Witnessed, sign: Sign) -> None:
        leader, _ = sign(witnessed.signing)
        await witnessed.grow(1)
        async with running(leader, Idle()):
            async with asyncio.timeout(PATIENCE):
                while not leader.leads:  # noqa: ASYNC110  it lies in the database
                    await asyncio.sleep(0.02)
            other, signer = sign(witnessed.signing)
            task = asyncio.create_task(other.run(signer))
            assert not await signed(witnessed.superuser, witnessed.ctx, 1, seconds=0.5)
            await other.check()
        assert await signed(witnessed.superuser, witnessed.ctx, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestReadLogs:
    async def test_signs_what_is_read_and_nothing_else(
        self, witnessed: Witnessed, servers: Servers, database: Database
    ) -> None:
        """A log that somebody reads goes first."""
        quiet = context(ids.new("ws"))
        for one in (quiet, witnessed.ctx):
            await witnessed.of(one).grow(3)
        readers = Readers()
        dsn = AuditSettings.load("audit", servers.environ["audit"]).dsn(WRITER)
        connections = role_connections(dsn, WRITER)
        read = ReadLogs(readers, LogWatch(connections), witnessed.signing)
        await read.sign()
        assert not await signed(witnessed.superuser, witnessed.ctx, 3, seconds=0)

        await LogService(database, LogWriter(mock.Mock()), bytes(32), readers).read_stream(
            witnessed.ctx, ReadStream(start=0)
        )
        await read.sign()
        assert await signed(witnessed.superuser, witnessed.ctx, 3, seconds=0)
        assert not await signed(witnessed.superuser, quiet, 3, seconds=0)
        await witnessed.grow(1)
        await read.sign()
        assert await signed(witnessed.superuser, witnessed.ctx, 4, seconds=0)
        await connections.close(1)


class TestReaders:
    def test_a_log_has_a_reader_for_ten_seconds(self) -> None:
        now = 1000.0
        readers, tenant = Readers(lambda: now), ids.new("ws")
        readers.note(tenant)
        now += 9
        assert readers.logs() == [ids.tenant_uuid(tenant)]
        now += 2
        assert readers.logs() == []

    def test_are_bounded(self) -> None:
        readers = Readers()
        first = ids.new("ws")
        readers.note(first)
        for _ in range(10_100):
            readers.note(ids.new("ws"))
        readers.note(first)
        assert len(readers.logs()) == 10_000


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
