"""Checkpoints on real PostgreSQL, signed by a real vault: what holds, and what an attacker would try."""

import asyncio
from contextlib import suppress

import pytest

from causeloop_common.contracts.audit import GetCheckpoint, ReadStream
from causeloop_common.errors import Conflict, Unavailable
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import EMPTY_ROOT
from causeloop_log.tlog.note import VerifierKey
from tests.support.witnessed import Witnessed, broken, tree


class TestGetCheckpoint:
    async def test_of_an_empty_log(self, witnessed: Witnessed, key: VerifierKey) -> None:
        view = await witnessed.checkpoint()
        assert Checkpoint.verified(view.checkpoint, key) == Checkpoint(key.name, 0, EMPTY_ROOT)
        assert await witnessed.checkpoint() == view

    async def test_follows_a_log_that_grows(self, witnessed: Witnessed, key: VerifierKey) -> None:
        for count in (1, 6, 250, 1):
            await witnessed.grow(count)
            view = await witnessed.checkpoint()
            frontier = tree(await witnessed.hashes())
            assert Checkpoint.verified(view.checkpoint, key) == Checkpoint(key.name, frontier.size, frontier.root())
            assert (view.size, view.root) == (frontier.size, frontier.root().hex())

    async def test_goes_on_silently_where_another_replica_signed_meanwhile(self, witnessed: Witnessed) -> None:
        before = broken()
        await witnessed.grow(5)
        await witnessed.checkpoint()
        kept = "SELECT size, note FROM audit.checkpoints WHERE workspace_id = $1"
        old = await witnessed.superuser.fetchrow(kept, witnessed.ctx.tenant_uuid)
        assert old is not None
        await witnessed.grow(4)
        await witnessed.checkpoint()
        await witnessed.superuser.execute(
            "UPDATE audit.checkpoints SET size = $2, note = $3 WHERE workspace_id = $1", witnessed.ctx.tenant_uuid, *old
        )  # the vault has signed 9, and here 5 is known: so it is after a crash before the checkpoint was kept
        assert (await witnessed.checkpoint()).size == 9
        await witnessed.grow(1)
        assert (await witnessed.checkpoint()).size == 10
        assert broken() == before

    async def test_many_at_once_raise_no_alarm(self, witnessed: Witnessed) -> None:
        before = broken()

        async def append() -> None:
            for _ in range(20):
                await witnessed.grow(1)

        async def ask() -> None:
            for _ in range(10):
                with suppress(Conflict):  # it grew faster than it could be signed
                    await witnessed.checkpoint()

        await asyncio.gather(append(), *(ask() for _ in range(8)))
        assert (await witnessed.checkpoint()).size == 20
        assert broken() == before

    async def test_refuses_a_log_restored_from_before_what_was_signed(self, witnessed: Witnessed) -> None:
        await witnessed.grow(9)
        await witnessed.checkpoint()
        await witnessed.cut(7)
        for forget in (False, True):
            if forget:
                for table in ("checkpoints", "refused"):
                    await witnessed.superuser.execute(
                        f"DELETE FROM audit.{table} WHERE workspace_id = $1", witnessed.ctx.tenant_uuid
                    )
            before = broken()
            with pytest.raises(Conflict, match="it has 7 entries, and 9 were signed"):
                await witnessed.checkpoint()
            assert broken() == before + 1

    async def test_refuses_an_entry_rewritten_before_the_log_grew(self, witnessed: Witnessed) -> None:
        await witnessed.grow(9)
        await witnessed.checkpoint()
        await witnessed.rewrite(3)
        await witnessed.grow(1)
        before = broken()
        with pytest.raises(Conflict, match="leads to another root of the older tree") as refused:
            await witnessed.checkpoint()
        assert refused.value.detail.count("does not continue") == 1
        assert broken() == before + 1

    async def test_refuses_an_entry_rewritten_at_the_size_that_was_signed(self, witnessed: Witnessed) -> None:
        await witnessed.grow(9)
        await witnessed.checkpoint()
        await witnessed.rewrite(3)
        with pytest.raises(Conflict, match="another root than was signed at the same size, 9"):
            await witnessed.checkpoint()

    async def test_refuses_a_log_whose_hashes_are_gone(self, witnessed: Witnessed) -> None:
        await witnessed.grow(9)
        await witnessed.checkpoint()
        await witnessed.grow(2)
        await witnessed.remove("index = 9")
        before = broken()
        with pytest.raises(Conflict, match="entries or nodes of it are missing"):
            await witnessed.checkpoint()
        assert broken() == before + 1

    @pytest.mark.parametrize(
        ("damage", "why"),
        [
            ("DELETE FROM audit.entries WHERE workspace_id = $1 AND index = 9", "entries or nodes of it are missing"),
            ("UPDATE audit.heads SET peaks = '' WHERE workspace_id = $1", "its head is damaged"),
        ],
        ids=["a hash is gone", "the head is damaged"],
    )
    async def test_damage_that_audit_finds_itself_refuses_the_log_in_every_way(
        self, witnessed: Witnessed, damage: str, why: str
    ) -> None:
        """P6: a log that is damaged, whoever finds it, is neither streamed nor proven, and doctor's check names it."""
        first, *_ = await witnessed.grow(9)
        await witnessed.checkpoint()
        await witnessed.grow(2)
        await witnessed.superuser.execute(damage, witnessed.ctx.tenant_uuid)
        for asked in (
            witnessed.checkpoint(),
            witnessed.proof(first),
            witnessed.log.read_stream(witnessed.ctx, ReadStream(start=0)),
        ):
            with pytest.raises(Conflict, match=why):
                await asked
        kept = "SELECT size, entries, why FROM audit.refused WHERE workspace_id = $1"
        row = await witnessed.superuser.fetchrow(kept, witnessed.ctx.tenant_uuid)
        assert row is not None
        assert tuple(row) == (9, 11, why)

    async def test_an_alarm_is_logged_once_for_a_log_that_is_refused_and_grows(
        self, witnessed: Witnessed, caplog: pytest.LogCaptureFixture
    ) -> None:
        await witnessed.grow(9)
        await witnessed.checkpoint()
        await witnessed.rewrite(3)
        before = broken()
        for _ in range(3):
            await witnessed.grow(1)
            with pytest.raises(Conflict, match="leads to another root"):
                await witnessed.checkpoint()
        assert broken() == before + 3
        alarms = [line for line in caplog.records if line.levelname == "CRITICAL"]
        assert sorted(line.name for line in alarms) == [
            "causeloop_audit.service.damage",
            "causeloop_vault.service.checkpoints",
        ]

    async def test_of_a_refused_log_asks_nobody_until_it_may_continue(self, witnessed: Witnessed) -> None:
        """P6: a reader who asks often raises no alarm, neither here nor at the vault."""
        await witnessed.grow(7)
        older = await witnessed.checkpoint()
        await witnessed.grow(2)
        await witnessed.checkpoint()
        await witnessed.shorten(7, older.checkpoint)
        with pytest.raises(Conflict, match="it has 7 entries, and 9 were signed"):
            raise await witnessed.outcome(anew=True)
        before = broken()
        for _ in range(3):
            with pytest.raises(Conflict, match="it has 7 entries, and 9 were signed"):
                await witnessed.away.get_checkpoint(witnessed.ctx, GetCheckpoint())
        assert broken() == before
        await witnessed.reenter()
        with pytest.raises(Unavailable):
            await witnessed.away.get_checkpoint(witnessed.ctx, GetCheckpoint())
        assert (await witnessed.checkpoint()).size == 9

    async def test_waits_for_a_vault_that_is_away(self, witnessed: Witnessed) -> None:
        before = broken()
        await witnessed.grow(1)
        with pytest.raises(Unavailable):
            await witnessed.away.get_checkpoint(witnessed.ctx, GetCheckpoint())
        assert broken() == before
