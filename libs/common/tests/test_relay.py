"""The relay: every committed event reaches the stream, in order, and nothing else does."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest
from nats.js.errors import NotFoundError
from prometheus_client import REGISTRY

from causeloop_common import ids, leader as leader_room, telemetry
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Connections, Database, role_connections
from causeloop_common.errors import NotFound
from causeloop_common.leader import Leader
from causeloop_common.messaging import Bus
from causeloop_common.outbox import BUCKETS
from causeloop_common.relay import Relay, work as rooms
from causeloop_dev.testing import context

KEY = b"k" * 32
PERSON = ids.realm("https://issuer.test", "user_1")


class Running(NamedTuple):
    """A relay that runs: its part in the lead, and its task."""

    leader: Leader
    task: asyncio.Task[None]


Run = Callable[[], Awaitable[Running]]


def begin(connections: Connections, bus: Bus, database: Database) -> Running:
    """Start a relay of tenancy."""
    leader = Leader(connections, "tenancy", "relay")
    relay = Relay(leader, "tenancy", bus, database.published, KEY)
    return Running(leader, asyncio.create_task(leader.run(relay)))


@pytest.fixture
async def database(scratch: Any) -> AsyncIterator[Database]:
    async with connected(scratch) as database:
        yield database


@pytest.fixture
async def replica(scratch: Any) -> AsyncIterator[Database]:
    """The database as another process of the service has it."""
    async with connected(scratch) as database:
        yield database


@asynccontextmanager
async def connected(scratch: Any) -> AsyncIterator[Database]:
    from causeloop_tenancy.models import metadata

    database = Database(scratch.dsn("causeloop_tenancy"), "tenancy", metadata)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(leader_room, "MEASURE_SECONDS", 0.05)


@pytest.fixture
async def run(scratch: Any, house: Any, bus: Callable[[str], Awaitable[Bus]], database: Database) -> AsyncIterator[Run]:
    """Starts a relay: `await run()`; `end` stops it."""
    tasks: list[asyncio.Task[None]] = []
    connections = role_connections(scratch.dsn("causeloop_tenancy_relay"), "causeloop_tenancy_relay")
    tenancy = await bus("tenancy")

    async def start() -> Running:
        running = begin(connections, tenancy, database)
        tasks.append(running.task)
        return running

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await connections.close(1)


async def announce(database: Database, ctx: AuthContext, *roles: str) -> None:
    async with database.transaction(ctx) as tx:
        for role in roles:
            tx.publish(MemberAdded(person_id=PERSON, role=role))


async def streamed(house: Any, tenant: str) -> list[str]:
    """What the stream has of a tenant, in its order, by the role that the events name."""
    stream = (await house.operator()).jetstream()
    subscription = await stream.subscribe(f"evt.*.{tenant}.>", ordered_consumer=True)
    pending = (await subscription.consumer_info()).num_pending
    messages = [await subscription.next_msg() for _ in range(pending)]
    await subscription.unsubscribe()
    return [MemberAdded.model_validate_json(message.data).role for message in messages]


async def until(check: Callable[[], Awaitable[Any]], *, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110  what is asked lies outside this process
            await asyncio.sleep(0.01)


async def arrived(house: Any, ctx: AuthContext, *roles: str) -> None:
    """Wait until exactly these are in the stream."""

    async def there() -> bool:
        return await streamed(house, ctx.tenant) == list(roles)

    await until(there)


def lag() -> float:
    """The age of the oldest event that waits, as the metric has it."""
    return REGISTRY.get_sample_value("causeloop_leader_lag_seconds", {"service": "tenancy", "name": "relay"}) or 0.0


class TestOrder:
    async def test_what_was_committed_arrives_as_it_was_committed(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        await run()
        await announce(database, workspace, "one", "two")
        await announce(database, workspace, "three")
        await arrived(house, workspace, "one", "two", "three")

        async def marked() -> bool:
            rows = await superuser.fetch(
                "SELECT stream_seq FROM tenancy.outbox "
                "WHERE workspace_id = $1 AND published_at IS NOT NULL ORDER BY seq",
                workspace.tenant_uuid,
            )
            sequences = [row["stream_seq"] for row in rows]
            return len(sequences) == 3 and sequences == sorted(sequences)

        await until(marked)

    async def test_a_backlog_of_more_than_a_batch_keeps_its_order(
        self, house: Any, run: Run, database: Database, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rooms, "BATCH", 50)
        roles = [f"role {number:03}" for number in range(120)]
        await announce(database, workspace, *roles)

        await run()
        await arrived(house, workspace, *roles)

    async def test_an_event_carries_its_caller_and_its_own_id(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        await run()
        with telemetry.working(telemetry.UNTRACED.start_span("a request")):
            trace = telemetry.traceparent()
            await announce(database, workspace, "one")
        await arrived(house, workspace, "one")

        stream = (await house.operator()).jetstream()
        message = await stream.get_last_msg("EVENTS", f"evt.*.{workspace.tenant}.tenancy.member_added")
        stored = await superuser.fetchval(
            "SELECT event_id FROM tenancy.outbox WHERE workspace_id = $1", workspace.tenant_uuid
        )
        assert message.headers is not None
        assert message.headers["ce-id"] == ids.encode("evt", stored)
        assert message.headers["ce-actor"] == workspace.principal
        assert message.headers["ce-requestid"] == workspace.request_id
        assert message.headers["traceparent"] == trace

    async def test_nobody_can_publish_first_what_the_stream_then_drops(
        self,
        house: Any,
        run: Run,
        bus: Callable[[str], Awaitable[Bus]],
        database: Database,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
    ) -> None:
        """P3: the id of an event, which others learn before it is in the stream, is not the id of its message."""
        await announce(database, workspace, "one")
        stored = await superuser.fetchval(
            "SELECT event_id FROM tenancy.outbox WHERE workspace_id = $1", workspace.tenant_uuid
        )
        other = (await bus("gateway")).jetstream()
        for name in (ids.encode("evt", stored), str(stored)):
            await other.publish(
                f"evt.{workspace.tenant}.gateway.access_denied", b"{}", headers={"Nats-Msg-Id": name, "ce-id": name}
            )
        await run()

        async def there() -> bool:
            stream = (await house.operator()).jetstream()
            try:
                await stream.get_last_msg("EVENTS", f"evt.*.{workspace.tenant}.tenancy.member_added")
            except NotFoundError:
                return False
            return True

        await until(there)

    async def test_an_event_of_a_realm_goes_to_the_realm(self, house: Any, run: Run, database: Database) -> None:
        person = ids.realm("https://issuer.test", ids.new("sub"))
        await run()
        await announce(database, realm := context(person, principal=person), "one")

        await arrived(house, realm, "one")


class TestWhatIsAnnounced:
    async def test_nothing_of_a_rolled_back_act_is(
        self, house: Any, run: Run, database: Database, workspace: AuthContext
    ) -> None:
        await run()
        with pytest.raises(NotFound, match="No"):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                tx.publish(MemberAdded(person_id=PERSON, role="never"))
                raise NotFound("No.")
        await announce(database, workspace, "afterwards")

        await arrived(house, workspace, "afterwards")

    async def test_a_late_commit_is(
        self, house: Any, run: Run, scratch: Any, database: Database, workspace: AuthContext
    ) -> None:
        early = await asyncpg.connect(scratch.dsn("causeloop_tenancy"))
        open_one = early.transaction()
        await open_one.start()
        await early.execute(f"SET LOCAL app.current_workspace = '{workspace.tenant_uuid}'")
        await early.execute(
            "INSERT INTO tenancy.outbox (event_id, type, target, actor, request_id, traceparent, occurred_at, data) "
            "VALUES (gen_random_uuid(), 'tenancy.member_added', $1, $1, '', '', now(), $2)",
            PERSON,
            MemberAdded(person_id=PERSON, role="late").to_json().decode(),
        )
        await run()
        await announce(database, workspace, "early")  # a later number, committed first
        await arrived(house, workspace, "early")

        await open_one.commit()
        await early.close()
        await arrived(house, workspace, "early", "late")


class TestLead:
    async def test_a_commit_wakes_it(
        self, house: Any, run: Run, database: Database, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        relay = await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        monkeypatch.setattr(rooms, "POLL_SECONDS", 60)
        await asyncio.sleep(0.06)  # it waits for a minute now

        await announce(database, workspace, "two")
        await arrived(house, workspace, "one", "two")
        await relay.leader.check()

    async def test_a_commit_of_another_replica_wakes_it_over_the_bus(
        self,
        house: Any,
        run: Run,
        scratch: Any,
        bus: Callable[[str], Awaitable[Bus]],
        database: Database,
        replica: Database,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Or what a replica commits whose relay stands by would wait for the next poll, and a revocation with it."""
        await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        monkeypatch.setattr(rooms, "POLL_SECONDS", 60)
        other = role_connections(scratch.dsn("causeloop_tenancy_relay"), "causeloop_tenancy_relay")
        standing_by = begin(other, await bus("tenancy"), replica).task
        await asyncio.sleep(0.2)  # it stands by, and the first waits for a minute now

        await announce(replica, workspace, "two")
        await arrived(house, workspace, "one", "two")
        standing_by.cancel()
        await asyncio.gather(standing_by, return_exceptions=True)
        await other.close(1)

    async def test_two_are_not_at_work_and_the_second_takes_over(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        first = await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        second = await run()
        await asyncio.sleep(0.1)
        assert (first.leader.leads, second.leader.leads) == (True, False)
        await announce(database, workspace, "two")
        await arrived(house, workspace, "one", "two")
        first.task.cancel()
        await announce(database, workspace, "three")
        await arrived(house, workspace, "one", "two", "three")
        await second.leader.check()

    async def test_it_goes_on_when_its_connection_was_cut(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        await run()
        await announce(database, workspace, "one")
        await arrived(house, workspace, "one")
        killed = await superuser.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'causeloop-tenancy-relay'"
        )
        assert killed

        await announce(database, workspace, "two")
        await arrived(house, workspace, "one", "two")


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


class TestBuckets:
    @property
    def bucket(self) -> int:
        """The partition that is to be emptied."""
        return (int(datetime.now(UTC).timestamp()) // 86_400 + 1) % BUCKETS

    async def put(
        self, connection: asyncpg.Connection, *, days: float, published: bool, confirmed: bool = True
    ) -> None:
        """A row in it, from some days ago."""
        when = datetime.now(UTC) - timedelta(days=days)
        await connection.execute(
            "INSERT INTO tenancy.outbox (bucket, workspace_id, event_id, type, target, actor, request_id, traceparent, "
            "occurred_at, data, published_at, confirmed_batch) "
            "VALUES ($1, $2, $3, 'tenancy.member_added', $4, $4, '', '', $5, $6, $7, $8)",
            self.bucket,
            ids.uuid7(),
            ids.uuid7(),
            PERSON,
            when,
            MemberAdded(person_id=PERSON, role="old").to_json().decode(),
            when if published else None,
            1 if confirmed and published else None,
        )

    @pytest.fixture(autouse=True)
    async def emptied(self, superuser: asyncpg.Connection) -> AsyncIterator[None]:
        yield
        await superuser.execute(f"TRUNCATE tenancy.outbox_{self.bucket}")

    async def rows(self, superuser: asyncpg.Connection) -> int:
        return int(await superuser.fetchval(f"SELECT count(*) FROM tenancy.outbox_{self.bucket}"))

    async def looked(self, house: Any, database: Database, run: Run) -> None:
        """Run a relay until it has looked for what is old and moved an event."""
        ctx = context(ids.new("ws"))
        await run()
        await announce(database, ctx, "one")
        await arrived(house, ctx, "one")

    async def test_a_turn_that_is_over_is_emptied(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)

        await self.looked(house, database, run)
        assert await self.rows(superuser) == 0

    async def test_a_young_row_keeps_its_partition(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)
        await self.put(superuser, days=0.5, published=True)

        await self.looked(house, database, run)
        assert await self.rows(superuser) == 2

    async def test_a_row_that_the_log_has_not_receipted_keeps_its_partition(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)
        await self.put(superuser, days=2.1, published=True, confirmed=False)

        await self.looked(house, database, run)
        assert await self.rows(superuser) == 2

    async def test_a_row_that_is_committed_while_it_is_emptied_is_not_lost(
        self, house: Any, run: Run, scratch: Any, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)
        late = await asyncpg.connect(scratch.superuser_url)
        open_one = late.transaction()
        await open_one.start()
        await self.put(late, days=0, published=False)
        await run()

        async def waits_or_went_on() -> Any:
            return await superuser.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'causeloop-tenancy-relay' "
                "AND datname = current_database() AND (wait_event_type = 'Lock' OR query LIKE '%published_at IS NULL%')"
            )

        await until(waits_or_went_on)
        await open_one.commit()
        await late.close()

        async def marked() -> Any:
            return await superuser.fetchval(
                f"SELECT count(*) = 0 FROM tenancy.outbox_{self.bucket} WHERE published_at IS NULL"
            )

        await until(marked)
        assert await self.rows(superuser) == 2


MARKS = {
    "published_at": "now()",
    "stream_seq": "1",
    "digest": "''::bytea",
    "confirmed_batch": "1",
    "attempts": "1",
}


class TestRights:
    @pytest.mark.parametrize("column", ["data", "workspace_id", "actor", "event_id", "type", "occurred_at", *MARKS])
    async def test_the_relay_changes_its_marks_alone(self, scratch: Any, database: Database, column: str) -> None:
        """D13: data, tenant and actor of an event cannot be rewritten by the role that publishes it."""
        relay = await asyncpg.connect(scratch.dsn("causeloop_tenancy_relay"))
        try:
            statement = f"UPDATE tenancy.outbox SET {column} = {MARKS.get(column, column)} WHERE false"
            if column in MARKS:
                await relay.execute(statement)
            else:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await relay.execute(statement)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await relay.execute("DELETE FROM tenancy.outbox WHERE false")
        finally:
            await relay.close()


INSERT = (
    "INSERT INTO tenancy.outbox (event_id, type, target, actor, request_id, traceparent, occurred_at, data) "
    "VALUES ($1, $2, $3, $4, '', '', $5::text::timestamptz, '{}')"
)
FINE: dict[str, Any] = {"id": ids.uuid7(), "type": "tenancy.odd", "target": "t", "actor": "a", "at": "now"}
ODD: dict[str, dict[str, Any]] = {
    "nil id": {"id": ids.NIL},
    "infinity": {"at": "infinity"},
    "minus infinity": {"at": "-infinity"},
    "year 294276": {"at": "294276-12-31 23:59:59+00"},
    "before Christ": {"at": "0044-03-15 12:00:00+00 BC"},
    "foreign type": {"type": "vault.secret_written"},
    "no type": {"type": "tenancy."},
    "wildcard": {"type": "tenancy.*"},
    "more tokens": {"type": "tenancy.a.b"},
    "a header in a text": {"target": "t\r\nNats-Rollup: all"},
    "a space at its end": {"actor": "a "},
    "too long": {"target": "t" * 257},
    "not ASCII": {"actor": "\u00e9"},
}


class TestWhatCannotBeAnnounced:
    @pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
    async def test_is_refused_by_the_database(
        self, scratch: Any, database: Database, workspace: AuthContext, odd: dict[str, Any]
    ) -> None:
        """D11: a row of a form that no reader takes cannot be written, by the service's role either."""
        service = await asyncpg.connect(scratch.dsn("causeloop_tenancy"))
        try:
            for given, refused in ((FINE, False), ({**FINE, **odd}, True)):
                transaction = service.transaction()
                await transaction.start()
                await service.execute(f"SET LOCAL app.current_workspace = '{workspace.tenant_uuid}'")
                try:
                    await service.execute(INSERT, *given.values())
                except asyncpg.CheckViolationError:
                    assert refused
                else:
                    assert not refused
                await transaction.rollback()
        finally:
            await service.close()

    async def test_in_a_realm_without_a_tenant_is_refused(self, scratch: Any, database: Database) -> None:
        """D11: the nil tenant."""
        service = await asyncpg.connect(scratch.dsn("causeloop_tenancy"))
        try:
            async with service.transaction():
                await service.execute(f"SET LOCAL app.current_workspace = '{ids.NIL}'")
                with pytest.raises(asyncpg.CheckViolationError):
                    await service.execute(INSERT, *FINE.values())
        finally:
            await service.close()

    async def test_is_set_aside_and_the_rest_moves_on(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        """D11: rows that are there all the same are kept for an operator, counted, and hold up nobody."""
        check = "can_be_announced"
        constraint = await superuser.fetchval(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1 "
            "AND conrelid = 'tenancy.outbox'::regclass",
            check,
        )
        await superuser.execute(f"ALTER TABLE tenancy.outbox DROP CONSTRAINT {check}")
        try:
            for odd in ODD.values():
                given = {**FINE, **odd}
                await superuser.execute(
                    INSERT.replace("(event_id", "(workspace_id, event_id").replace("VALUES (", "VALUES ($6, "),
                    *given.values(),
                    ids.uuid7(),
                )
            await announce(database, workspace, "one")
            await run()
            await arrived(house, workspace, "one")
            await announce(database, workspace, "two")
            await arrived(house, workspace, "one", "two")
            kept = await superuser.fetch("SELECT event ->> 'type' AS type FROM tenancy.outbox_set_aside")
            assert len(kept) == len(ODD)
        finally:
            await superuser.execute("TRUNCATE tenancy.outbox_set_aside")
            await superuser.execute("DELETE FROM tenancy.outbox WHERE actor IN ('a', 'a ', '\u00e9')")
            await superuser.execute(f"ALTER TABLE tenancy.outbox ADD CONSTRAINT {check} {constraint}")
