"""The relay, and a stream that lost what it had acknowledged: it is published again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from nats.aio.msg import Msg

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.database import Database, role_connections
from causeloop_common.leader import Leader
from causeloop_common.messaging import Bus
from causeloop_common.relay import Relay, parts, stream as stream_room
from causeloop_common.relay.stream import StreamPublisher
from tests.support import outboxes
from tests.support.relaying import KEY, ROLE, Run, announce, arrived, lag, until

REWOUND_AT_ONCE = """
    CREATE FUNCTION tenancy.few_at_once() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT count(*) FROM changed WHERE published_at IS NULL) > 2 THEN
            RAISE EXCEPTION 'too many for one statement' USING ERRCODE = 'query_canceled';
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER few_at_once AFTER UPDATE ON tenancy.outbox
        REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tenancy.few_at_once()
"""

pytestmark = pytest.mark.usefixtures("hurried")


class TestLoss:
    @pytest.fixture(autouse=True)
    async def _whole(self, house: Any) -> AsyncIterator[None]:
        """The stream is there again for the tests that follow, even after a failure."""
        yield
        await house.declare()

    async def test_without_a_stream_it_says_so_and_loses_nothing(
        self, house: Any, run: Run, database: Database, workspace: AuthContext
    ) -> None:
        relay = await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        stream = (await house.operator()).jetstream()
        await stream.delete_stream("EVENTS")
        await announce(database, workspace, "two")

        async def waits() -> bool:
            return lag() > 0 and relay.leader._failure is not None

        await until(waits)
        before = lag()

        async def grows() -> bool:
            return lag() > before

        await until(grows)
        await house.declare()
        await arrived(house, workspace, "one", "two")  # the new stream has what the old one had, too

        async def moves() -> bool:
            return relay.leader._failure is None and lag() == 0

        await until(moves)

    async def test_what_an_emptied_stream_lost_is_published_again_at_the_next_start(
        self, house: Any, run: Run, database: Database, workspace: AuthContext
    ) -> None:
        relay = await run()
        await announce(database, workspace, "one", "two", "three")
        await arrived(house, workspace, "one", "two", "three")
        relay.task.cancel()
        stream = (await house.operator()).jetstream()
        await stream.delete_stream("EVENTS")
        await house.declare()

        await run()
        await arrived(house, workspace, "one", "two", "three")

    async def test_what_a_server_died_with_is_not_waited_for(
        self, run: Run, house: Any, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        """Its acknowledgements will not come any more: the next server has the events as soon as it is there."""
        await run()
        await announce(database, workspace, "before")
        await arrived(house, workspace, "before")

        os.kill(house.nats.pid, signal.SIGSTOP)
        await announce(database, workspace, "meanwhile")
        await asyncio.sleep(0.2)  # it is on its way
        os.kill(house.nats.pid, signal.SIGKILL)
        house.nats.restart()

        async def acknowledged() -> bool:
            waiting = "SELECT count(*) FROM tenancy.outbox WHERE workspace_id = $1 AND published_at IS NULL"
            return not await superuser.fetchval(waiting, workspace.tenant_uuid)

        await until(acknowledged, seconds=5)  # and not after the ten seconds that a slow answer may take

    async def test_a_restarted_server_gets_the_last_minutes_again_and_doubles_nothing(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        relay = await run()
        await announce(database, workspace, "one", "two")
        await arrived(house, workspace, "one", "two")
        known = "SELECT server_id FROM tenancy.relay_state"
        before = await superuser.fetchval(known)

        house.nats.restart()

        async def noticed() -> bool:
            return await superuser.fetchval(known) != before and relay.leader._failure is None

        await until(noticed)
        await announce(database, workspace, "three")
        await arrived(house, workspace, "one", "two", "three")

    async def test_what_a_restarted_server_lost_is_published_again_though_others_were_faster_and_the_outage_long(
        self,
        house: Any,
        run: Run,
        bus: Callable[[str], Awaitable[Bus]],
        database: Database,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
    ) -> None:
        relay = await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        relay.task.cancel()
        known = await superuser.fetchval("SELECT last_sequence FROM tenancy.relay_state")
        await (await house.operator()).jetstream().delete_stream("EVENTS")
        await house.declare()
        faster = (await bus("vault")).jetstream()
        for _ in range(known + 1):  # the stream does not look as if it had lost anything
            await faster.publish(f"evt.{ids.new('ws')}.vault.secret_written", b"{}")
        house.nats.restart()
        await superuser.execute("UPDATE tenancy.outbox SET published_at = published_at - interval '1 hour'")

        again = await bus("tenancy")
        assert again.server_id
        await run()

        await arrived(house, workspace, "one")

    async def test_more_than_a_statement_can_look_at_is_published_again_in_parts(
        self, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext, house: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """E15: one statement over the whole outbox ran into its timeout, at each lead again."""
        monkeypatch.setattr(parts, "PART", 2)
        await superuser.execute("TRUNCATE tenancy.outbox")  # what other tests left makes hundreds of parts
        relay = await run()
        await announce(database, workspace, *"abcdefg")

        async def marked() -> bool:
            return bool(await superuser.fetchval("SELECT count(stream_seq) FROM tenancy.outbox") == 7)

        await until(marked)
        relay.task.cancel()
        await asyncio.gather(relay.task, return_exceptions=True)
        own = "WHERE workspace_id = $1"
        aged = f"UPDATE tenancy.outbox SET published_at = '2020-01-01', confirmed_batch = 1 {own}"
        await superuser.execute(aged, workspace.tenant_uuid)
        early = f"UPDATE tenancy.outbox SET published_at = '2019-12-31' {own} AND data LIKE '%\"c\"%'"
        await superuser.execute(early, workspace.tenant_uuid)
        await superuser.execute("UPDATE tenancy.relay_state SET server_id = 'another'")
        await superuser.execute(REWOUND_AT_ONCE)
        try:
            await run()

            async def again() -> bool:
                rows = f"SELECT count(*) FROM tenancy.outbox {own} AND published_at > '2021-01-01'"
                return bool(await superuser.fetchval(rows, workspace.tenant_uuid) == 6)

            await until(again)
        finally:
            await superuser.execute("DROP FUNCTION tenancy.few_at_once CASCADE")
        kept = f"SELECT data FROM tenancy.outbox {own} AND published_at < '2021-01-01'"
        assert '"c"' in await superuser.fetchval(kept, workspace.tenant_uuid)
        await arrived(house, workspace, *"abcdefg")

    async def test_of_one_acknowledgement_holds_up_no_other_event(
        self,
        house: Any,
        run: Run,
        database: Database,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """P1: of a large batch one was missing each time, so that the whole batch was published again without end."""
        monkeypatch.setattr(stream_room, "_ACK_SECONDS", 0.3)
        take = StreamPublisher._on_ack
        lost = 0

        async def lose_each_tenth(self: StreamPublisher, message: Msg) -> None:
            nonlocal lost
            if message.subject.endswith("0"):
                lost += 1
                return
            await take(self, message)

        monkeypatch.setattr(StreamPublisher, "_on_ack", lose_each_tenth)
        roles = [f"role {number:02}" for number in range(35)]
        await announce(database, workspace, *roles)
        await run()

        async def all_others_are_marked() -> bool:
            query = "SELECT count(*) FROM tenancy.outbox WHERE workspace_id = $1 AND published_at IS NULL"
            return bool(await superuser.fetchval(query, workspace.tenant_uuid) <= 1)

        await until(all_others_are_marked)
        assert lost > 0
        monkeypatch.undo()
        await arrived(house, workspace, *roles)

    async def test_an_old_act_that_is_sent_again_is_no_lag(
        self, scratch: Any, bus: Callable[[str], Awaitable[Bus]], database: Database, superuser: asyncpg.Connection,
        workspace: AuthContext,
    ) -> None:  # fmt: skip
        """E15: one act of hours ago that was sent again made each replica of its service unready."""
        await outboxes.settle(superuser)
        await announce(database, workspace, "one")
        own = "occurred_at = now() - interval '3 hours' WHERE workspace_id = $1"
        connections = role_connections(scratch.dsn(ROLE), ROLE)
        leader = Leader(connections, "tenancy", "relay")
        relay = Relay(leader, "tenancy", await bus("tenancy"), database.published, KEY)
        try:
            await superuser.execute(f"UPDATE tenancy.outbox SET {own}", workspace.tenant_uuid)
            assert await relay.waiting() > 10_000
            await superuser.execute(f"UPDATE tenancy.outbox SET stream_seq = 1, {own}", workspace.tenant_uuid)
            assert await relay.waiting() == 0
        finally:
            await connections.close(1)
            await outboxes.settle(superuser)
