"""The leader of one kind of work: one at a time, fenced by its term, succeeded soon, and seen when it hangs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY

from causeloop_common import leader as room, leases, wire
from causeloop_common.context import AuthContext
from causeloop_common.database import Connections, Database, role_connections
from causeloop_common.errors import Unavailable
from causeloop_common.leader import Leader, Work
from causeloop_common.settings import SettingsError

RELAY = "causeloop_probe_relay"
PATIENCE = 10.0
MARK = """
    INSERT INTO probe.relay_state (id, last_sequence, server_id) VALUES (1, 1, $1)
    ON CONFLICT (id) DO UPDATE SET server_id = $1
"""

Begin = Callable[..., Leader]


class Steady(Work):
    """Leads until it is ended; how it ends can be chosen."""

    def __init__(self, leader: Leader) -> None:
        self.leader = leader
        self.begun = 0
        self.fault: Exception | None = None
        self.age = 0.0
        self.hangs = False

    async def lead(self) -> None:
        self.begun += 1
        while True:
            if self.fault is not None:
                raise self.fault
            if not self.hangs:
                self.leader.works()
            await asyncio.sleep(0.01)

    async def waiting(self) -> float:
        return self.age


@pytest.fixture
async def connect(scratch: Any) -> AsyncIterator[Callable[..., Connections]]:
    """The connections of one process with a role."""
    made: list[Connections] = []

    def make(role: str = RELAY) -> Connections:
        made.append(role_connections(scratch.dsn(role), role))
        return made[-1]

    yield make
    for connections in made:
        await connections.close(1)


@pytest.fixture
async def begin(connect: Callable[..., Connections]) -> AsyncIterator[Callable[..., Steady]]:
    """Starts a replica."""
    tasks: list[asyncio.Task[None]] = []

    def start(**more: Any) -> Steady:
        leader = Leader(connect(), "probe", "relay", **more)
        work = Steady(leader)
        tasks.append(asyncio.create_task(leader.run(work)))
        work.task = tasks[-1]  # type: ignore[attr-defined]
        return work

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
async def free(superuser: asyncpg.Connection) -> None:
    await superuser.execute("UPDATE probe.leases SET until = '-infinity'")


async def until(check: Callable[[], Any], *, seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = check()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


async def term(superuser: asyncpg.Connection) -> int:
    return int(await superuser.fetchval("SELECT term FROM probe.leases WHERE name = 'relay'"))


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name, {"service": "probe", "name": "relay"}) or 0.0


class TestLead:
    async def test_one_leads_and_another_takes_over_at_once_when_it_stops(
        self, begin: Callable[..., Steady], superuser: asyncpg.Connection
    ) -> None:
        first = begin()
        await until(lambda: first.begun)
        second = begin()
        await asyncio.sleep(0.5)
        assert (first.leader.leads, second.leader.leads, second.begun) == (True, False, 0)
        before = await term(superuser)
        first.task.cancel()  # type: ignore[attr-defined]
        began = time.monotonic()
        await until(lambda: second.begun)
        assert time.monotonic() - began < 1
        assert await term(superuser) == before + 1

    async def test_is_kept_over_many_renewals_in_one_term(
        self, begin: Callable[..., Steady], superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = begin()
        await until(lambda: work.begun)
        before = await term(superuser)
        await asyncio.sleep(leases.LEASE_SECONDS + 0.5)
        assert (work.leader.leads, work.begun, await term(superuser)) == (True, 1, before)
        assert (metric("causeloop_leader"), metric("causeloop_leader_term")) == (1.0, before)

    async def test_with_a_longer_lease_is_renewed_less_and_taken_over_later(
        self, begin: Callable[..., Steady], connect: Callable[..., Connections], superuser: asyncpg.Connection
    ) -> None:
        first = begin(lease=4.0)
        await until(lambda: first.begun)
        before = await superuser.fetchval("SELECT until FROM probe.leases WHERE name = 'relay'")
        second = begin(lease=4.0)
        await asyncio.sleep(0.7)
        assert await superuser.fetchval("SELECT until FROM probe.leases WHERE name = 'relay'") == before
        await asyncio.sleep(leases.LEASE_SECONDS)
        assert (first.leader.leads, second.begun) == (True, 0)
        await second.leader.check()
        first.task.cancel()  # type: ignore[attr-defined]
        await until(lambda: second.begun)  # given back, and found at the next look

    async def test_goes_to_another_replica_when_the_work_has_a_fault(self, begin: Callable[..., Steady]) -> None:
        first = begin()
        await until(lambda: first.begun)
        second = begin()
        await asyncio.sleep(0.1)
        first.fault = Unavailable("The bus was lost.")
        await until(lambda: second.begun)
        await second.leader.check()

    async def test_comes_back_when_there_is_nobody_else_and_is_not_ready_meanwhile(
        self, begin: Callable[..., Steady]
    ) -> None:
        work = begin()
        await until(lambda: work.begun)
        work.fault = Unavailable("The bus was lost.")
        await until(lambda: work.leader._failure is not None)
        with pytest.raises(Unavailable, match=r"The relay waits: The bus was lost\."):
            await work.leader.check()
        work.fault = None
        await until(lambda: work.begun > 1 and work.leader._failure is None)
        await work.leader.check()

    async def test_names_a_lease_that_is_not_there_and_goes_on_once_it_is(
        self, begin: Callable[..., Steady], superuser: asyncpg.Connection
    ) -> None:
        """D12: a lease that somebody deleted ended the process, at each start again."""
        work = begin()
        await until(lambda: work.begun)
        number = await superuser.fetchval("DELETE FROM probe.leases WHERE name = 'relay' RETURNING term")
        try:
            await until(lambda: "There is no lease" in (work.leader._failure or ""))
            with pytest.raises(
                Unavailable, match=r"waits: There is no lease for it: INSERT INTO probe\.leases \(name\)"
            ):
                await work.leader.check()
        finally:
            await superuser.execute("INSERT INTO probe.leases (name, term) VALUES ('relay', $1)", number)
        await until(lambda: work.begun > 1)
        await work.leader.check()

    async def test_survives_that_its_connections_are_cut(
        self, begin: Callable[..., Steady], superuser: asyncpg.Connection
    ) -> None:
        work = begin()
        await until(lambda: work.begun)
        for _ in range(3):
            await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", RELAY)
            await asyncio.sleep(0.3)
        assert (work.leader.leads, work.begun) == (True, 1)

    async def test_needs_no_session_so_each_transaction_may_have_another_one(
        self, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        """As through a pooler of transactions."""

        class Pooled(Connections):
            def release(self, connection: Any) -> None:
                connection.terminate()
                super().release(connection)

        leader = Leader(Pooled(4, partial(wire.connect, dsn=scratch.dsn(RELAY))), "probe", "relay")
        work = Steady(leader)
        task = asyncio.create_task(leader.run(work))
        await until(lambda: work.begun)
        before = await term(superuser)
        for number in range(5):
            async with leader.transaction() as connection:
                await connection.execute(MARK, f"session {number}")
            await asyncio.sleep(0.5)
        assert (leader.leads, work.begun, await term(superuser)) == (True, 1, before)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_a_surprise_ends_it(self, begin: Callable[..., Steady]) -> None:
        work = begin()
        await until(lambda: work.begun)
        work.fault = ZeroDivisionError()
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(asyncio.shield(work.task), PATIENCE)  # type: ignore[attr-defined]


class TestTerm:
    @pytest.fixture
    async def held(self, connect: Callable[..., Connections]) -> Leader:
        """A leader that renews nothing, as a process that was stopped."""
        leader = Leader(connect(), "probe", "relay")
        assert await leader._take()
        return leader

    async def test_a_transaction_commits_in_its_term(self, held: Leader, superuser: asyncpg.Connection) -> None:
        async with held.transaction() as connection:
            await connection.execute(MARK, "in its term")
        assert await superuser.fetchval("SELECT server_id FROM probe.relay_state") == "in its term"

    @pytest.mark.parametrize("what", ["another leads", "time is over"])
    async def test_nothing_commits_when_it_is_over(
        self, held: Leader, connect: Callable[..., Connections], superuser: asyncpg.Connection, what: str
    ) -> None:
        async with held.transaction() as connection:
            await connection.execute(MARK, "before")
        with pytest.raises(asyncpg.PostgresError, match=r"term \d+ of probe.relay is over") as refused:  # noqa: PT012
            async with held.transaction() as connection:
                await connection.execute(MARK, "after")
                await superuser.execute("UPDATE probe.leases SET until = clock_timestamp() WHERE name = 'relay'")
                if what == "another leads":
                    assert await Leader(connect(), "probe", "relay")._take()
        assert refused.value.sqlstate == leases.TERM_STATE
        with pytest.raises(asyncpg.PostgresError, match="is over"):
            await held.execute(f"UPDATE probe.relay_state SET server_id = 'after' WHERE {held.fence}")
        assert await superuser.fetchval("SELECT server_id FROM probe.relay_state") == "before"

    async def test_a_use_case_that_is_fenced_is_refused_as_unavailable(
        self,
        connect: Callable[..., Connections],
        probe: Callable[..., Awaitable[Database]],
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        leader = Leader(connect("causeloop_probe"), "probe", "other")
        assert await leader._take()
        database = await probe(workers=1)
        async with database.transaction(workspace, fence=leader.fence):
            pass
        await superuser.execute("UPDATE probe.leases SET term = term + 1 WHERE name = 'other'")
        for _ in range(2):  # the connection is in order afterwards
            with pytest.raises(Unavailable, match="Another replica does this now"):
                async with database.transaction(workspace, fence=leader.fence):
                    pass

    async def test_a_new_one_does_not_begin_while_a_commit_of_the_last_is_on_its_way(
        self, held: Leader, connect: Callable[..., Connections], superuser: asyncpg.Connection
    ) -> None:
        """Or the next leader would not see what the last one did."""
        other = Leader(connect(), "probe", "relay")
        async with held._connections.borrowed() as late:
            await late.execute(f"BEGIN; SELECT {held.fence}")  # as if the disk were slow to take the commit
            await asyncio.sleep(leases.LEASE_SECONDS + 0.1)
            began = time.monotonic()
            assert not await other._take()
            assert time.monotonic() - began < 0.5
            await late.execute("COMMIT")
        assert await other._take()

    async def test_what_a_stopped_process_locked_is_free_before_its_successor_begins(
        self, held: Leader, connect: Callable[..., Connections], superuser: asyncpg.Connection
    ) -> None:
        async with held.transaction() as connection:
            await connection.execute(MARK, "before")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):  # noqa: PT012
            async with held.transaction() as connection:
                await connection.execute("UPDATE probe.relay_state SET server_id = 'stopped'")
                await asyncio.sleep(leases.LEASE_SECONDS + 0.2)
                other = Leader(connect(), "probe", "relay")
                assert await other._take()
                async with asyncio.timeout(1), other.transaction() as next_one:
                    await next_one.execute("UPDATE probe.relay_state SET server_id = 'next'")
        assert await superuser.fetchval("SELECT server_id FROM probe.relay_state") == "next"


class TestReadiness:
    async def test_of_a_standby_needs_a_leader(
        self, connect: Callable[..., Connections], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leader = Leader(connect(), "probe", "relay")
        await leader.check()
        monkeypatch.setattr(room, "TAKEOVER", 0.0)
        await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="No replica has led the relay"):
            await leader.check()

    async def test_of_a_standby_needs_that_work_does_not_lie(self, begin: Callable[..., Steady]) -> None:
        first = begin()
        await until(lambda: first.begun)
        second = begin(patience=5.0)
        second.age = 42.0
        await until(lambda: second.leader._lag() > 40)
        with pytest.raises(Unavailable, match="stands by, and the oldest work has been waiting for 42 seconds"):
            await second.leader.check()
        await first.leader.check()
        assert metric("causeloop_leader_lag_seconds") >= 42.0

    async def test_of_a_leader_needs_it_too(self, begin: Callable[..., Steady]) -> None:
        """F1: a leader that was given no work, from accounts that lack its requests, was ready for ever."""
        first = begin(patience=5.0)
        await until(lambda: first.begun)
        await first.leader.check()
        first.age = 42.0
        await until(lambda: first.leader._lag() > 40)
        with pytest.raises(Unavailable, match="leads, and the oldest work has been waiting for 42 seconds"):
            await first.leader.check()

    async def test_a_leader_whose_work_stands_still_gives_it_to_another(self, begin: Callable[..., Steady]) -> None:
        first = begin(patience=0.5)
        await until(lambda: first.begun)
        second = begin()
        await asyncio.sleep(0.1)
        first.hangs = True
        await until(lambda: second.begun)
        await until(lambda: not first.leader.leads)

    async def test_is_lost_with_the_database(self, connect: Callable[..., Connections], scratch: Any) -> None:
        leader = Leader(role_connections("postgresql://nobody@127.0.0.1:1/x", "nobody"), "probe", "relay")
        running = asyncio.create_task(leader.run(Steady(leader)))
        await until(lambda: leader._failure is not None)
        with pytest.raises(Unavailable, match="The relay waits: ConnectionRefusedError"):
            await leader.check()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class TestOthers:
    @pytest.mark.parametrize("role", ["causeloop_probe", "causeloop_tenancy", "causeloop_tenancy_relay"])
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE probe.leases SET until = 'infinity' WHERE name = 'relay'",
            "UPDATE probe.leases SET holder = NULL WHERE name <> 'other'",
            "SELECT FROM probe.leases WHERE name = 'relay' FOR UPDATE",
            "SELECT FROM probe.leases WHERE name = 'relay' FOR SHARE",
            "DELETE FROM probe.leases",
            "INSERT INTO probe.leases (name, until) VALUES ('relay2', 'infinity')",
            "LOCK TABLE probe.leases IN ROW EXCLUSIVE MODE",
            "LOCK TABLE probe.leases IN ACCESS EXCLUSIVE MODE",
            "SELECT probe.require_term('relay', 1, gen_random_uuid())",
            "DO $$ BEGIN FOR n IN 0..9 LOOP PERFORM pg_advisory_lock(n); END LOOP; END $$",
        ],
    )
    async def test_cannot_stop_a_leader(
        self, begin: Callable[..., Steady], scratch: Any, superuser: asyncpg.Connection, role: str, statement: str
    ) -> None:
        """D3: no other role, of the service or of another one, takes or holds up the lease of a leader."""
        work = begin()
        await until(lambda: work.begun)
        stranger = await asyncpg.connect(scratch.dsn(role))
        transaction = stranger.transaction()
        await transaction.start()
        try:
            with pytest.raises(asyncpg.PostgresError):  # noqa: PT012
                status = await stranger.execute(statement)
                assert not status.endswith(" 1"), status
                raise asyncpg.PostgresError(f"It did nothing: {status}")
            async with asyncio.timeout(1), work.leader.transaction() as connection:
                await connection.execute(MARK, statement[:20])
        finally:
            await transaction.rollback()
            await stranger.close()

    @pytest.mark.parametrize("until_when", ["'infinity'", "clock_timestamp() + interval '1 hour'"])
    async def test_a_lease_that_no_leader_has_renewed_holds_nobody_up(
        self, begin: Callable[..., Steady], superuser: asyncpg.Connection, until_when: str
    ) -> None:
        """D3: the server's clock was set back, or the leader's own role wrote the lease: another one takes over."""
        first = begin()
        await until(lambda: first.begun)
        await superuser.execute(
            f"UPDATE probe.leases SET until = {until_when}, holder = gen_random_uuid(), term = term + 1 "
            "WHERE name = 'relay'"
        )
        second = begin()
        await until(lambda: first.begun + second.begun > 1, seconds=5)
        await until(lambda: first.leader.leads or second.leader.leads, seconds=5)

    async def test_a_setting_that_becomes_wrong_ends_a_lead_and_no_process(self, begin: Callable[..., Steady]) -> None:
        """D4: a pooler, or a file of the address, that changes meanwhile is named; mended, the work goes on."""
        work = begin(lease=0.2)
        await until(lambda: work.begun)
        connections = work.leader._connections
        connect = connections._connect

        async def refuse() -> Any:
            raise SettingsError("The database's address names a file in sslrootcert that cannot be read: x.")

        connections._connect = refuse
        connections.turn_away()

        async def is_named() -> bool:
            try:
                await work.leader.check()
            except Unavailable as error:
                return "names a file in sslrootcert" in error.detail
            return False

        await until(is_named)
        connections._connect = connect
        begun = work.begun
        await until(lambda: work.begun > begun)
        await work.leader.check()
        assert not work.task.done()  # type: ignore[attr-defined]
