"""Jobs: every step is done once, under a lease, for the one who began the job, and leaves a readable state."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids, jobs
from causeloop_common.context import Assurance, AuthContext
from causeloop_common.contracts import topology, vault
from causeloop_common.contracts.base import Job, Message
from causeloop_common.contracts.jobs import CancelJob, GetJob, JobView, ListJobs
from causeloop_common.contracts.tenancy import Resolve, Standing
from causeloop_common.contracts.vault import KeyCreated
from causeloop_common.database import Database
from causeloop_common.errors import Conflict, Forbidden, NotFound, Unavailable
from causeloop_common.messaging import Bus, CommandRouter
from causeloop_common.permissions import ROLES, Permission
from causeloop_common.scheduler import forget_expired
from causeloop_common.worker import JobService, Runs, Worker, runs, takes
from causeloop_dev.testing import context


class CountThings(Job, permission=Permission.KEYS_WRITE, attempts=3):
    """Counts from 1, a number in each step."""

    __module__ = vault.__name__

    until: int


class Counting:
    """Does the steps; `before` is called ahead of each one's transaction, `inside` in it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.before: Callable[[jobs.Step[CountThings]], Awaitable[None]] = self._nothing
        self.inside: Callable[[jobs.Step[CountThings]], Awaitable[None]] = self._nothing
        self.contexts: list[AuthContext] = []

    async def count_things(self, ctx: AuthContext, step: jobs.Step[CountThings]) -> None:
        self.contexts.append(ctx)
        await self.before(step)
        async with self._database.transaction(ctx, step) as tx:
            number = int(step.cursor or 0) + 1
            tx.publish(KeyCreated(key_id=ids.new("key"), version=number))
            await self.inside(step)
            if number == step.job.until:
                tx.end(f"Counted to {number}.", done=1)
            else:
                tx.advance(str(number), done=1, total=step.job.until, detail=f"Counted to {number}.")

    async def _nothing(self, step: jobs.Step[CountThings]) -> None:
        pass


class Tenancy:
    """Answers which permissions a person has now."""

    role: str | None = "owner"
    asked: int = 0

    async def resolve(self, ctx: AuthContext, command: Resolve) -> Standing:
        self.asked += 1
        return Standing(role=self.role, permissions=sorted(ROLES[self.role]) if self.role else [])


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "CountThings", CountThings, raising=False)
    monkeypatch.delattr(vault, "ReencryptKeyring")  # the vault of these tests has one kind of job
    monkeypatch.setattr(takes, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(takes, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(runs, "LONGEST_DELAY_SECONDS", 0.05)


@pytest.fixture
async def database(scratch: Any) -> AsyncIterator[Database]:
    from causeloop_vault.models import metadata

    database = Database(scratch.dsn("causeloop_vault"), "vault", metadata)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
async def tenancy(serve: Any) -> Tenancy:
    made = Tenancy()
    await serve("tenancy", CommandRouter({Resolve: made.resolve}))
    return made


@pytest.fixture
def counting(database: Database) -> Counting:
    return Counting(database)


@dataclass
class Replica:
    """A worker at work."""

    worker: Worker
    task: asyncio.Task[None]

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


Start = Callable[[], Awaitable[Replica]]


@pytest.fixture
async def start(
    scratch: Any, database: Database, counting: Counting, tenancy: Tenancy, bus: Callable[[str], Awaitable[Bus]]
) -> AsyncIterator[Start]:
    """Starts one more replica's worker."""
    started: list[Replica] = []

    async def one() -> Replica:
        connected = await bus("vault")
        worker = Worker(
            scratch.dsn("causeloop_vault_jobs"), "vault", connected,
            Runs(database, connected, [counting.count_things]).run,
        )  # fmt: skip
        database.enqueued = worker.wake
        started.append(Replica(worker, asyncio.create_task(worker.run())))
        return started[-1]

    yield one
    for replica in started:
        await replica.end()


@pytest.fixture
def service(database: Database) -> JobService:
    return JobService(database)


async def enqueue(database: Database, ctx: AuthContext, until: int) -> str:
    async with database.transaction(ctx) as tx:
        tx.publish(KeyCreated(key_id=ids.new("key"), version=0))
        return str(tx.enqueue(CountThings(until=until)).id)


async def until(check: Callable[[], Awaitable[Any]], *, seconds: float = 5) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await check()):  # noqa: ASYNC110  what is asked lies outside this process
            await asyncio.sleep(0.01)
    return found


async def settled(
    service: JobService, ctx: AuthContext, job: str, state: str = "done", *, seconds: float = 5
) -> JobView:
    """The job, once it is in this state."""

    async def there() -> JobView | None:
        view = await service.get_job(ctx, GetJob(id=job))
        return view if view.state == state else None

    view: JobView = await until(there, seconds=seconds)
    return view


async def counted(superuser: asyncpg.Connection, ctx: AuthContext) -> list[int]:
    """The numbers in the events of a tenant, in their order."""
    rows = await superuser.fetch(
        "SELECT (data::json ->> 'version')::int AS number FROM vault.outbox "
        "WHERE workspace_id = $1 AND type = 'vault.key_created' ORDER BY seq",
        ctx.tenant_uuid,
    )
    return [row["number"] for row in rows]


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
    async def test_without_an_event_nothing_is_committed(self, database: Database, workspace: AuthContext) -> None:
        with pytest.raises(RuntimeError, match="announces it with an event"):
            async with database.transaction(workspace) as tx:
                tx.enqueue(CountThings(until=1))

    async def test_a_refused_act_enqueues_nothing(
        self, database: Database, workspace: AuthContext, service: JobService
    ) -> None:
        with pytest.raises(Conflict, match="no"):  # noqa: PT012  the whole transaction is refused
            async with database.transaction(workspace) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
                tx.enqueue(CountThings(until=1))
                raise Conflict("no")
        assert (await service.list_jobs(workspace, ListJobs())).data == []

    async def test_an_open_job_of_a_kind_is_found(self, database: Database, workspace: AuthContext) -> None:
        async with database.transaction(workspace) as tx:
            assert await tx.open_job(CountThings) is None
        job = await enqueue(database, workspace, 1)
        async with database.transaction(workspace) as tx:
            assert await tx.open_job(CountThings) == job
        async with database.transaction(context(ids.new("ws"))) as tx:
            assert await tx.open_job(CountThings) is None


class TestSteps:
    async def test_are_done_in_their_order_once_each_and_counted(
        self,
        database: Database,
        start: Start,
        counting: Counting,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        await start()
        job = await enqueue(database, workspace, 5)
        view = await settled(service, workspace, job)
        assert (view.progress.done, view.progress.total) == (5, 5)
        assert (view.result, view.error, view.attempts) == ("Counted to 5.", None, 0)
        assert view.created_by == workspace.principal
        assert view.started_at is not None
        assert view.ended_at is not None
        assert await counted(superuser, workspace) == [0, 1, 2, 3, 4, 5]
        ended = await superuser.fetchrow(
            "SELECT data::json ->> 'outcome' AS outcome, data::json ->> 'done' AS done, actor FROM vault.outbox "
            "WHERE workspace_id = $1 AND type = 'vault.job_ended'",
            workspace.tenant_uuid,
        )
        assert dict(ended or {}) == {"outcome": "done", "done": "5", "actor": workspace.principal}

    async def test_act_with_the_whole_identity_that_began_the_job_and_its_permission_alone(
        self, database: Database, start: Start, counting: Counting, service: JobService, workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:  # fmt: skip
        signed_in = replace(
            workspace, assurance=Assurance.MULTI, authenticated_at=1_700_000_000, on_behalf_of=ids.new("sva")
        )
        await start()
        await settled(service, signed_in, await enqueue(database, signed_in, 1))

        (ctx,) = counting.contexts
        assert ctx == replace(signed_in, permissions=frozenset({Permission.KEYS_WRITE}), issuer="vault")
        rows = await superuser.fetch(
            "SELECT on_behalf_of FROM vault.outbox WHERE workspace_id = $1", workspace.tenant_uuid
        )
        assert [row["on_behalf_of"] for row in rows] == [signed_in.on_behalf_of] * 3  # enqueued, counted, ended

    async def test_of_many_jobs_are_shared_by_replicas_and_none_is_done_twice(
        self, database: Database, start: Start, service: JobService, superuser: asyncpg.Connection
    ) -> None:
        for _ in range(3):
            await start()
        tenants = [context(ids.new("ws")) for _ in range(10)]
        begun = [(ctx, await enqueue(database, ctx, 10)) for ctx in tenants]
        for ctx, job in begun:
            await settled(service, ctx, job, seconds=20)
            assert await counted(superuser, ctx) == [*range(11)]

    async def test_that_settle_nothing_are_not_committed(
        self, database: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        step = jobs.Step(CountThings(until=1), "job", ids.uuid7(), 1, vault.JobEnded)
        with pytest.raises(RuntimeError, match=r"without `tx.advance` or `tx.end`"):
            async with database.transaction(workspace, step) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
        assert await counted(superuser, workspace) == []

    async def test_give_their_place_away_when_their_turn_is_over(
        self,
        database: Database,
        start: Start,
        counting: Counting,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(takes, "AT_ONCE", 1)
        monkeypatch.setattr(runs, "TURN_SECONDS", 0.0)
        other = context(ids.new("ws"))
        first, second = await enqueue(database, workspace, 50), await enqueue(database, other, 1)
        await start()
        await settled(service, other, second)
        assert (await service.get_job(workspace, GetJob(id=first))).state == "running"
        await settled(service, workspace, first, seconds=20)
        assert await counted(superuser, workspace) == [*range(51)]

    async def test_wait_as_long_as_the_one_before_asked_for(
        self, database: Database, workspace: AuthContext, superuser: asyncpg.Connection, scratch: Any
    ) -> None:
        job = await enqueue(database, workspace, 2)
        lease = await taken(scratch)
        async with database.transaction(workspace, step_of(job, lease)) as tx:
            tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
            tx.advance(None, done=0, detail="Waits.", wait=30)
        row = await superuser.fetchrow(
            "SELECT lease_until, due_at > now() + interval '25 seconds' AS later FROM vault.jobs WHERE id = $1",
            lease["id"],
        )
        assert dict(row or {}) == {"lease_until": None, "later": True}
        assert await taken(scratch) is None


async def taken(scratch: Any, seconds: float = 0.5) -> Any:
    """The lease of the oldest due job, as another worker would have it; jobs of other tests have ended."""
    connection = await asyncpg.connect(scratch.dsn("causeloop_vault_jobs"))
    try:
        return await connection.fetchrow(takes._TAKE.format(schema="vault"), seconds)
    finally:
        await connection.close()


def step_of(job: str, lease: Any) -> jobs.Step[CountThings]:
    return jobs.Step(CountThings(until=2), job, lease["id"], lease["lease_term"], vault.JobEnded)


@pytest.fixture(autouse=True)
async def alone(superuser: asyncpg.Connection) -> AsyncIterator[None]:
    """No job of another test is due."""
    await superuser.execute("TRUNCATE vault.jobs")
    yield
    await superuser.execute("TRUNCATE vault.jobs")


class TestTheLease:
    async def test_of_a_worker_that_is_gone_ends_and_another_goes_on_where_it_was(
        self,
        database: Database,
        start: Start,
        scratch: Any,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        job = await enqueue(database, workspace, 3)
        lease = await taken(scratch)
        async with database.transaction(workspace, step_of(job, lease)) as tx:
            tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
            tx.advance("1", done=1, detail="Counted to 1.")
        await start()  # and the first is never heard of again
        await settled(service, workspace, job)
        assert await counted(superuser, workspace) == [0, 1, 2, 3]

    async def test_is_asked_at_the_commit_so_that_a_worker_that_slept_commits_nothing(
        self,
        database: Database,
        start: Start,
        counting: Counting,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
        scratch: Any,
    ) -> None:
        job = await enqueue(database, workspace, 3)
        old = await taken(scratch, 0.2)
        await asyncio.sleep(0.3)
        new = await taken(scratch)
        assert (new["id"], new["lease_term"]) == (old["id"], old["lease_term"] + 1)
        with pytest.raises(jobs.LeaseLost):  # noqa: PT012  a transaction is refused at its end
            async with database.transaction(workspace, step_of(job, old)) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
                tx.advance("1", done=1, detail="Counted to 1.")
        assert await counted(superuser, workspace) == [0]

    async def test_that_ended_commits_nothing_even_if_nobody_took_the_job(
        self, database: Database, workspace: AuthContext, superuser: asyncpg.Connection, scratch: Any
    ) -> None:
        job = await enqueue(database, workspace, 3)
        lease = await taken(scratch, 0.05)
        await asyncio.sleep(0.1)
        with pytest.raises(jobs.LeaseLost):  # noqa: PT012  a transaction is refused at its end
            async with database.transaction(workspace, step_of(job, lease)) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
                tx.end("Counted.", done=1)
        assert await counted(superuser, workspace) == [0]

    async def test_is_renewed_while_a_step_runs(
        self, database: Database, start: Start, counting: Counting, service: JobService, workspace: AuthContext
    ) -> None:
        async def slowly(step: jobs.Step[CountThings]) -> None:
            await asyncio.sleep(1.2)

        counting.before = slowly
        await start()
        await start()
        await settled(service, workspace, await enqueue(database, workspace, 1))
        assert len(counting.contexts) == 1

    async def test_is_given_back_by_a_worker_that_stops(
        self,
        database: Database,
        start: Start,
        counting: Counting,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(takes, "LEASE_SECONDS", 60.0)
        begun = asyncio.Event()

        async def for_ever(step: jobs.Step[CountThings]) -> None:
            begun.set()
            await asyncio.sleep(60)

        counting.before = for_ever
        first = await start()
        job = await enqueue(database, workspace, 1)
        await asyncio.wait_for(begun.wait(), 5)
        await first.end()
        counting.before = counting._nothing
        await start()
        await settled(service, workspace, job)


class TestPermission:
    async def test_is_asked_again_before_the_first_step(
        self, database: Database, start: Start, tenancy: Tenancy, service: JobService, workspace: AuthContext
    ) -> None:
        tenancy.role = "viewer"
        await start()
        job = await enqueue(database, workspace, 2)
        view = await settled(service, workspace, job, "failed")
        assert view.error == "The principal who began it no longer has the permission 'keys:write'."
        assert view.progress.done == 0

    async def test_is_not_asked_before_every_step(
        self, database: Database, start: Start, tenancy: Tenancy, service: JobService, workspace: AuthContext
    ) -> None:
        await start()
        await settled(service, workspace, await enqueue(database, workspace, 5))
        assert tenancy.asked == 1


class TestAttempts:
    async def test_a_step_that_fails_is_done_again_after_a_delay(
        self,
        database: Database,
        start: Start,
        counting: Counting,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        failures = [Unavailable("The keys cannot be reached. Try again."), ValueError("a surprise")]

        async def fail(step: jobs.Step[CountThings]) -> None:
            if step.done == 1 and failures:
                raise failures.pop()

        counting.inside = fail
        await start()
        view = await settled(service, workspace, await enqueue(database, workspace, 3))
        assert (view.error, view.attempts, view.progress.done) == (None, 0, 3)
        assert await counted(superuser, workspace) == [0, 1, 2, 3]

    async def test_are_bounded_and_the_last_error_is_shown(
        self, database: Database, start: Start, counting: Counting, service: JobService, workspace: AuthContext
    ) -> None:
        async def fail(step: jobs.Step[CountThings]) -> None:
            raise Unavailable("The keys cannot be reached. Try again.")

        counting.inside = fail
        await start()
        view = await settled(service, workspace, await enqueue(database, workspace, 3), "failed")
        assert view.error == "The keys cannot be reached. Try again."
        assert view.result is None
        assert len(counting.contexts) == CountThings.attempts

    async def test_a_surprise_is_kept_to_the_log(
        self, database: Database, start: Start, counting: Counting, service: JobService, workspace: AuthContext
    ) -> None:
        async def fail(step: jobs.Step[CountThings]) -> None:
            raise ValueError("the secret is 1234")

        counting.inside = fail
        await start()
        view = await settled(service, workspace, await enqueue(database, workspace, 3), "failed")
        assert view.error == "Something failed on our side. Report it with the request id that began the job."

    async def test_that_kill_their_process_are_bounded_too(
        self,
        database: Database,
        start: Start,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
    ) -> None:
        job = await enqueue(database, workspace, 3)
        await superuser.execute("UPDATE vault.jobs SET lease_term = $1", CountThings.attempts)
        await start()
        view = await settled(service, workspace, job, "failed")
        assert view.error == "It was begun again and again, and never got on."


class TestCancelJob:
    async def test_ends_it_between_two_steps_and_what_was_done_stays(
        self,
        database: Database,
        start: Start,
        counting: Counting,
        service: JobService,
        workspace: AuthContext,
        superuser: asyncpg.Connection,
        as_user: Callable[..., AuthContext],
    ) -> None:
        going, go_on = asyncio.Event(), asyncio.Event()

        async def hold(step: jobs.Step[CountThings]) -> None:
            if step.done == 2:
                going.set()
                await go_on.wait()

        counting.before = hold
        await start()
        job = await enqueue(database, workspace, 9)
        await asyncio.wait_for(going.wait(), 5)
        admin = as_user(workspace.tenant, "admin")
        assert (await service.cancel_job(admin, CancelJob(id=job))).state == "cancelling"
        go_on.set()
        view = await settled(service, workspace, job, "cancelled")
        assert (view.progress.done, view.progress.detail) == (3, "Counted to 3.")
        assert await counted(superuser, workspace) == [0, 1, 2, 3]
        actors = await superuser.fetch(
            "SELECT type, actor FROM vault.outbox WHERE workspace_id = $1 AND type LIKE 'vault.job_%' ORDER BY seq",
            workspace.tenant_uuid,
        )
        assert [tuple(row) for row in actors] == [
            ("vault.job_cancelled", admin.principal), ("vault.job_ended", workspace.principal),
        ]  # fmt: skip
        assert (await service.cancel_job(workspace, CancelJob(id=job))).state == "cancelled"

    async def test_ends_one_that_was_not_begun(
        self, database: Database, start: Start, counting: Counting, service: JobService, workspace: AuthContext
    ) -> None:
        job = await enqueue(database, workspace, 9)
        await service.cancel_job(workspace, CancelJob(id=job))
        await service.cancel_job(workspace, CancelJob(id=job))
        await start()
        await settled(service, workspace, job, "cancelled")
        assert counting.contexts == []

    async def test_of_one_that_ended_changes_nothing(
        self, database: Database, start: Start, service: JobService, workspace: AuthContext
    ) -> None:
        await start()
        job = await enqueue(database, workspace, 1)
        view = await settled(service, workspace, job)
        assert await service.cancel_job(workspace, CancelJob(id=job)) == view

    async def test_needs_the_permission_of_its_kind(
        self, database: Database, service: JobService, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        job = await enqueue(database, workspace, 1)
        with pytest.raises(Forbidden, match="keys:write"):
            await service.cancel_job(as_user(workspace.tenant, "viewer"), CancelJob(id=job))

    async def test_of_another_tenants_is_not_found(
        self, database: Database, service: JobService, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        job = await enqueue(database, workspace, 1)
        with pytest.raises(NotFound, match="no such job"):
            await service.cancel_job(context(ids.new("ws")), CancelJob(id=job))
        assert await superuser.fetchval("SELECT cancelled_at FROM vault.jobs") is None


class TestGetJob:
    async def test_shows_one_that_waits(self, database: Database, service: JobService, workspace: AuthContext) -> None:
        job = await enqueue(database, workspace, 4)
        view = await service.get_job(workspace, GetJob(id=job))
        assert (view.id, view.kind, view.state) == (job, "count_things", "waiting")
        assert (view.progress.done, view.progress.total, view.retry_at) == (0, None, None)

    async def test_needs_the_permission_of_its_kind(
        self, database: Database, service: JobService, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        job = await enqueue(database, workspace, 1)
        with pytest.raises(Forbidden, match="keys:write"):
            await service.get_job(as_user(workspace.tenant, "viewer"), GetJob(id=job))

    @pytest.mark.parametrize("prefix", ["job_vault", "job_auth"])
    async def test_another_tenants_or_services_is_not_found(
        self, database: Database, service: JobService, workspace: AuthContext, prefix: str
    ) -> None:
        job = await enqueue(database, workspace, 1)
        with pytest.raises(NotFound, match="no such job"):
            await service.get_job(context(ids.new("ws")), GetJob(id=job.replace("job_vault", prefix)))
        if prefix != "job_vault":
            with pytest.raises(NotFound, match="no such job"):
                await service.get_job(workspace, GetJob(id=job.replace("job_vault", prefix)))


class TestListJobs:
    async def test_shows_the_newest_first_page_by_page(
        self, database: Database, service: JobService, workspace: AuthContext
    ) -> None:
        begun = [await enqueue(database, workspace, 1) for _ in range(3)]
        await enqueue(database, context(ids.new("ws")), 1)
        first = await service.list_jobs(workspace, ListJobs(limit=2))
        rest = await service.list_jobs(workspace, ListJobs(limit=2, position=first.next_position))
        assert [view.id for view in (*first.data, *rest.data)] == sorted(begun, reverse=True)
        assert rest.next_position is None
        assert first.unanswered == []

    async def test_shows_only_those_whose_permission_the_caller_has(
        self, database: Database, service: JobService, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await enqueue(database, workspace, 1)
        assert (await service.list_jobs(as_user(workspace.tenant, "viewer"), ListJobs())).data == []


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

    async def test_removes_ended_jobs_after_their_time_and_no_others(
        self, database: Database, service: JobService, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        tenants = [context(ids.new("ws")) for _ in range(3)]
        old, ended, running = [await enqueue(database, ctx, 1) for ctx in tenants]
        await superuser.execute(
            "UPDATE vault.jobs SET due_at = NULL, outcome = 'done', "
            "expires_at = CASE WHEN workspace_id = $1 THEN now() - interval '1 s' ELSE now() + interval '1 day' END "
            "WHERE workspace_id = ANY($2)",
            tenants[0].tenant_uuid,
            [ctx.tenant_uuid for ctx in tenants[:2]],
        )
        connection = await asyncpg.connect(scratch.dsn("causeloop_vault_jobs"))
        try:
            assert not await forget_expired(database.tables, connection)
            assert await forget_expired(database.tables, connection)
            assert await connection.execute("DELETE FROM vault.jobs WHERE id IS NOT NULL") == "DELETE 0"
        finally:
            await connection.close()
        with pytest.raises(NotFound, match="no such job"):
            await service.get_job(tenants[0], GetJob(id=old))
        for ctx, job in ((tenants[1], ended), (tenants[2], running)):
            assert (await service.get_job(ctx, GetJob(id=job))).id == job


async def works(worker: Worker) -> bool:
    try:
        await worker.check()
    except Unavailable:
        return False
    return True


async def fails(worker: Worker) -> bool:
    return worker._failure != "it is starting"


class TestReadiness:
    async def test_fails_while_a_due_job_is_not_taken(
        self, database: Database, start: Start, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        worker = (await start()).worker
        await until(partial(works, worker))
        worker._oldest = takes.LATE_SECONDS + 1
        with pytest.raises(Unavailable, match="no worker takes it"):
            await worker.check()

    async def test_fails_while_the_database_does_not_let_the_role_in(
        self, database: Database, scratch: Any, bus: Callable[[str], Awaitable[Bus]]
    ) -> None:
        connected = await bus("vault")
        worker = Worker(
            scratch.dsn("causeloop_vault_jobs").replace("causeloop_vault_jobs", "nobody"), "vault", connected,
            Runs(database, connected, [Counting(database).count_things]).run,
        )  # fmt: skip
        task = asyncio.create_task(worker.run())
        await until(partial(fails, worker))
        with pytest.raises(Unavailable, match="Jobs wait"):
            await worker.check()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestRuns:
    async def test_needs_a_step_for_every_kind(self, database: Database, bus: Callable[[str], Awaitable[Bus]]) -> None:
        with pytest.raises(TypeError, match="The jobs of vault are"):
            Runs(database, await bus("vault"), [])

    async def test_an_unknown_kind_waits_for_a_replica_that_does_it(
        self, database: Database, start: Start, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        await enqueue(database, workspace, 1)
        await superuser.execute("UPDATE vault.jobs SET kind = 'of_tomorrow'")
        await start()
        await until(lambda: superuser.fetchval("SELECT due_at > now() + interval '20 s' FROM vault.jobs"))

    def test_messages_are_of_their_owner(self) -> None:
        assert vault.GetJob.subject == "cmd.vault.get_job"
        assert vault.JobEnded.type == "vault.job_ended"
        assert issubclass(vault.GetJob, Message)
