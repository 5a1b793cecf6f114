"""The scheduler: once per period however many replicas, once after a pause, and what it forgets first."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids, scheduler as room
from causeloop_common.context import Idempotency
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.contracts.vault import PutSecret
from causeloop_common.database import Database, role_connections
from causeloop_common.errors import Unavailable
from causeloop_common.leader import Leader
from causeloop_common.scheduler import Scheduler, Task, forget_expired
from causeloop_common.statements import Statement
from causeloop_dev.testing import context

JOBS = "causeloop_probe_jobs"
PATIENCE = 10.0
SHOWN = Statement.raw("SELECT count(*) AS n FROM probe.idempotency")

Start = Callable[..., Leader]


@pytest.fixture(autouse=True)
async def hurried(monkeypatch: pytest.MonkeyPatch, superuser: asyncpg.Connection) -> None:
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.05)
    await superuser.execute("DELETE FROM probe.schedules")
    await superuser.execute("UPDATE probe.leases SET until = '-infinity'")


@pytest.fixture
async def start(scratch: Any) -> AsyncIterator[Start]:
    """Starts a replica with one task."""
    running = []

    def begin(task: Task, *, seconds: float = 3600.0, name: str = "count") -> Leader:
        connections = role_connections(scratch.dsn(JOBS), JOBS)
        leader = Leader(connections, "probe", "schedule")
        work = Scheduler(leader, "probe")
        work.every(name, task, seconds=seconds)
        running.append((asyncio.create_task(leader.run(work)), connections))
        leader.work = work  # type: ignore[attr-defined]
        return leader

    yield begin
    for task, connections in running:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connections.close(1)


async def until(check: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await check():  # noqa: ASYNC110  it lies in the database
            await asyncio.sleep(0.02)


class Counted:
    """A task that counts how often it was done."""

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts
        self.begun = 0

    async def __call__(self, connection: Any) -> bool:
        self.begun += 1
        return self.begun % self.parts == 0


class TestPeriods:
    async def test_are_each_done_once_however_many_replicas(self, start: Start) -> None:
        tasks = [Counted() for _ in range(3)]
        for task in tasks:
            start(task)
        await asyncio.sleep(1)
        assert sum(task.begun for task in tasks) == 1

    async def test_follow_each_other(self, start: Start) -> None:
        task = Counted()
        start(task, seconds=0.5)
        await asyncio.sleep(2.2)
        assert 4 <= task.begun <= 6

    async def test_that_were_missed_are_made_up_by_one_run(self, start: Start, superuser: asyncpg.Connection) -> None:
        await superuser.execute("INSERT INTO probe.schedules VALUES ('count', now() - interval '3 days')")
        task = Counted()
        leader = start(task)
        await asyncio.sleep(0.7)
        assert task.begun == 1
        assert await leader.work.waiting() == 0  # type: ignore[attr-defined]

    async def test_in_parts_end_with_the_last_part(self, start: Start) -> None:
        task = Counted(parts=5)
        start(task)
        await asyncio.sleep(0.7)
        assert task.begun == 5

    async def test_are_not_done_where_the_task_has_a_fault_and_that_is_seen(
        self, start: Start, superuser: asyncpg.Connection
    ) -> None:
        await superuser.execute("INSERT INTO probe.schedules VALUES ('fail', now() - interval '3 hours')")

        async def fail(connection: Any) -> bool:
            raise Unavailable("Not now.")

        leader = start(fail, name="fail")

        async def failed() -> bool:
            return leader._failure is not None

        await until(failed)
        assert await leader.work.waiting() > 3600  # type: ignore[attr-defined]


class TestForgetExpired:
    async def test_removes_what_is_over_of_idle_tenants_and_nothing_else(
        self, start: Start, probe: Callable[..., Awaitable[Database]], superuser: asyncpg.Connection
    ) -> None:
        """D7: rows of idle tenants go, too."""
        tenants = [ids.uuid7() for _ in range(3)]
        for tenant in tenants:
            await superuser.execute(
                "INSERT INTO probe.idempotency SELECT $1, 'usr', 'put_secret', n::text, '', '{}', "
                "now() - n * interval '1 minute' FROM generate_series(1, 1500) AS n",
                tenant,
            )
            await superuser.execute(
                "INSERT INTO probe.inbox SELECT $1, 'c', gen_random_uuid(), now() - n * interval '5 days' "
                "FROM generate_series(1, 10) AS n",
                tenant,
            )
        database = await probe()
        start(partial(forget_expired, database.tables), name="forget_expired")
        kept = """
            SELECT (SELECT count(*) FROM probe.idempotency WHERE workspace_id = ANY($1)),
                   (SELECT count(*) FROM probe.inbox WHERE workspace_id = ANY($1))
        """

        async def forgotten() -> bool:
            row = await superuser.fetchrow(kept, tenants)
            return row is not None and tuple(row) == (3 * 1439, 3 * 7)

        await until(forgotten)
        await asyncio.sleep(0.2)
        assert await forgotten()

    async def test_lets_its_role_see_no_answer_and_nothing_that_is_not_over(
        self, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        await superuser.execute(
            "INSERT INTO probe.idempotency VALUES ($1, 'usr', 'x', 'young', '', '{}', now())", ids.uuid7()
        )
        connection = await asyncpg.connect(scratch.dsn(JOBS))
        try:
            assert await connection.fetch("SELECT key FROM probe.idempotency WHERE key = 'young'") == []
            assert await connection.execute("DELETE FROM probe.idempotency WHERE key = 'young'") == "DELETE 0"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch("SELECT reply FROM probe.idempotency")
        finally:
            await connection.close()

    async def test_is_not_what_a_key_that_is_used_again_waits_for(
        self, probe: Callable[..., Awaitable[Database]], superuser: asyncpg.Connection
    ) -> None:
        """D7: with any number of others that are over before it."""
        ctx = replace(context(ids.new("ws")), idempotency=Idempotency("again", "print"))
        await superuser.execute(
            "INSERT INTO probe.idempotency SELECT $1, $2, 'put_secret', n::text, '', '{}', $3 "
            "FROM generate_series(1, 801) AS n",
            ctx.tenant_uuid,
            ctx.principal,
            (await superuser.fetchval("SELECT now()")) - timedelta(hours=30),
        )
        database = await probe()
        put = PutSecret.model_validate({"path": "a/b", "value": "v"})
        for _ in range(2):
            async with database.transaction(ctx, put) as tx:
                tx.publish(MemberAdded(person_id=ids.INSTALLATION, role="owner"))
                tx.answer(put)
            await superuser.execute(
                "UPDATE probe.idempotency SET created_at = now() - interval '25 hours' WHERE workspace_id = $1",
                ctx.tenant_uuid,
            )
