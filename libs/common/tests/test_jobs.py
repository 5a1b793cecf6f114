"""Jobs: what one is, how it is enqueued, and when its workers are ready."""

from functools import partial
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology, vault
from causeloop_common.contracts.base import Job, Message
from causeloop_common.contracts.jobs import GetJob, ListJobs
from causeloop_common.contracts.vault import KeyCreated
from causeloop_common.errors import Conflict, NotFound, Unavailable
from causeloop_common.permissions import Permission
from causeloop_common.scheduler import forget_expired
from causeloop_common.worker import Runs, Worker, takes
from causeloop_dev.testing import context
from tests.support.counting import Counting, CountThings, until


class TestJob:
    def test_names_its_owner_its_kind_and_its_permission(self) -> None:
        assert (CountThings.service, CountThings.kind) == ("vault", "count_things")
        assert (CountThings.permission, CountThings.attempts) == ("keys:write", 3)

    def test_has_a_permission(self) -> None:
        with pytest.raises(TypeError, match="names no permission"):

            class Open(Job):
                pass

    def test_has_no_secret_field(self) -> None:
        from causeloop_common.contracts.base import Sealed

        with pytest.raises(TypeError, match="has a secret field"):

            class Secretive(Job, permission=Permission.KEYS_WRITE):
                word: Sealed

    def test_has_an_id_that_names_one_of_the_services(self) -> None:
        pattern = GetJob.model_json_schema()["properties"]["id"]["pattern"]
        assert set(pattern.partition(")")[0].removeprefix("^(").split("|")) == {
            f"job_{o}" for o in topology.with_jobs()
        }


class TestEnqueue:
    async def test_without_an_event_nothing_is_committed(self, counting: Counting, workspace: AuthContext) -> None:
        with pytest.raises(RuntimeError, match="announces it with an event"):
            async with counting.database.transaction(workspace) as tx:
                tx.enqueue(CountThings(until=1))

    async def test_a_refused_act_enqueues_nothing(self, counting: Counting, workspace: AuthContext) -> None:
        with pytest.raises(Conflict, match="no"):  # noqa: PT012  the whole transaction is refused
            async with counting.database.transaction(workspace) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
                tx.enqueue(CountThings(until=1))
                raise Conflict("no")
        assert (await counting.service.list_jobs(workspace, ListJobs())).data == []

    async def test_an_open_job_of_a_kind_is_found(self, counting: Counting, workspace: AuthContext) -> None:
        async with counting.database.transaction(workspace) as tx:
            assert await tx.open_job(CountThings) is None
        job = await counting.enqueue(workspace, 1)
        async with counting.database.transaction(workspace) as tx:
            assert await tx.open_job(CountThings) == job
        async with counting.database.transaction(context(ids.new("ws"))) as tx:
            assert await tx.open_job(CountThings) is None


class TestTheJobsRole:
    async def test_sees_no_payload_and_nothing_else_of_a_job(self, scratch: Any) -> None:
        connection = await asyncpg.connect(scratch.dsn("causeloop_vault_jobs"))
        try:
            for column in ("payload", "kind", "principal", "cursor", "detail", "result", "error", "credential"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.fetch(f"SELECT {column} FROM vault.jobs")
            for column in ("due_at", "outcome", "expires_at", "payload", "workspace_id"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(f"UPDATE vault.jobs SET {column} = NULL")
        finally:
            await connection.close()

    async def test_removes_ended_jobs_after_their_time_and_no_others(self, counting: Counting, scratch: Any) -> None:
        tenants = [context(ids.new("ws")) for _ in range(3)]
        old, ended, running = [await counting.enqueue(ctx, 1) for ctx in tenants]
        await counting.superuser.execute(
            "UPDATE vault.jobs SET due_at = NULL, outcome = 'done', "
            "expires_at = CASE WHEN workspace_id = $1 THEN now() - interval '1 s' ELSE now() + interval '1 day' END "
            "WHERE workspace_id = ANY($2)",
            tenants[0].tenant_uuid,
            [ctx.tenant_uuid for ctx in tenants[:2]],
        )
        connection = await asyncpg.connect(scratch.dsn("causeloop_vault_jobs"))
        try:
            assert not await forget_expired(counting.database.tables, connection)
            assert await forget_expired(counting.database.tables, connection)
            assert await connection.execute("DELETE FROM vault.jobs WHERE id IS NOT NULL") == "DELETE 0"
        finally:
            await connection.close()
        with pytest.raises(NotFound, match="no such job"):
            await counting.service.get_job(tenants[0], GetJob(id=old))
        for ctx, job in ((tenants[1], ended), (tenants[2], running)):
            assert (await counting.service.get_job(ctx, GetJob(id=job))).id == job


async def works(worker: Worker) -> bool:
    try:
        await worker.check()
    except Unavailable:
        return False
    return True


async def fails(worker: Worker) -> bool:
    return worker._failure != "it is starting"


class TestReadiness:
    async def test_fails_while_a_due_job_is_not_taken(self, counting: Counting, workspace: AuthContext) -> None:
        worker = (await counting.start()).worker
        await until(partial(works, worker))
        worker._oldest = takes.LATE_SECONDS + 1
        with pytest.raises(Unavailable, match="no worker takes it"):
            await worker.check()

    async def test_fails_while_the_database_does_not_let_the_role_in(self, counting: Counting) -> None:
        worker = (await counting.start(counting.dsn.replace("causeloop_vault_jobs", "nobody"))).worker
        await until(partial(fails, worker))
        with pytest.raises(Unavailable, match="Jobs wait"):
            await worker.check()


class TestRuns:
    async def test_needs_a_step_for_every_kind(self, counting: Counting) -> None:
        with pytest.raises(TypeError, match="The jobs of vault are"):
            Runs(counting.database, await counting.connect("vault"), [])

    async def test_an_unknown_kind_waits_for_a_replica_that_does_it(
        self, counting: Counting, workspace: AuthContext
    ) -> None:
        await counting.enqueue(workspace, 1)
        await counting.superuser.execute("UPDATE vault.jobs SET kind = 'of_tomorrow'")
        await counting.start()
        await until(lambda: counting.superuser.fetchval("SELECT due_at > now() + interval '20 s' FROM vault.jobs"))

    def test_messages_are_of_their_owner(self) -> None:
        assert vault.GetJob.subject == "cmd.vault.get_job"
        assert vault.JobEnded.type == "vault.job_ended"
        assert issubclass(vault.GetJob, Message)
