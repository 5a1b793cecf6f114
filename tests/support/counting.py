"""A vault whose one job counts, for the tests of jobs: its workers, what it did, and what they left."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids, jobs
from causeloop_common.context import AuthContext
from causeloop_common.contracts import vault
from causeloop_common.contracts.base import Job
from causeloop_common.contracts.jobs import GetJob, JobView
from causeloop_common.contracts.tenancy import Resolve, Standing
from causeloop_common.contracts.vault import KeyCreated
from causeloop_common.database import Connections, Database, role_connections
from causeloop_common.messaging import Bus
from causeloop_common.permissions import ROLES, Permission
from causeloop_common.worker import JobService, Runs, Worker, runs, takes


class CountThings(Job, permission=Permission.KEYS_WRITE, attempts=3):
    """Counts from 1, a number in each step."""

    __module__ = vault.__name__

    until: int


Step = jobs.Step[CountThings]


async def nothing(step: Step) -> None:
    """Do nothing beside the step."""


@dataclass
class Replica:
    """A worker at work."""

    worker: Worker
    connections: Connections
    task: asyncio.Task[None]

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.connections.close(1)


@dataclass
class Counting:
    """The service. `before` is called ahead of each step's transaction, `inside` in it."""

    database: Database
    superuser: asyncpg.Connection
    dsn: str
    connect: Callable[[str], Awaitable[Bus]]
    before: Callable[[Step], Awaitable[None]] = nothing
    inside: Callable[[Step], Awaitable[None]] = nothing
    contexts: list[AuthContext] = field(default_factory=list)
    role: str | None = "owner"
    """The role that tenancy answers, `asked` times."""
    asked: int = 0
    replicas: list[Replica] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.service = JobService(self.database)

    async def count_things(self, ctx: AuthContext, step: Step) -> None:
        self.contexts.append(ctx)
        await self.before(step)
        async with self.database.transaction(ctx, step) as tx:
            number = int(step.cursor or 0) + 1
            tx.publish(KeyCreated(key_id=ids.new("key"), version=number))
            await self.inside(step)
            if number == step.job.until:
                tx.end(f"Counted to {number}.", done=1)
            else:
                tx.advance(str(number), done=1, total=step.job.until, detail=f"Counted to {number}.")

    async def resolve(self, ctx: AuthContext, command: Resolve) -> Standing:
        """Answer as tenancy which permissions a person has now."""
        self.asked += 1
        return Standing(role=self.role, permissions=sorted(ROLES[self.role]) if self.role else [])

    async def start(self, dsn: str = "") -> Replica:
        """One more replica's worker."""
        bus = await self.connect("vault")
        connections = role_connections(dsn or self.dsn, "causeloop_vault_jobs")
        worker = Worker(connections, "vault", bus, Runs(self.database, bus, [self.count_things]).run)
        self.database.enqueued = worker.wake
        self.replicas.append(Replica(worker, connections, asyncio.create_task(worker.run())))
        return self.replicas[-1]

    async def enqueue(self, ctx: AuthContext, until: int) -> str:
        async with self.database.transaction(ctx) as tx:
            tx.publish(KeyCreated(key_id=ids.new("key"), version=0))
            return str(tx.enqueue(CountThings(until=until)).id)

    async def settled(self, ctx: AuthContext, job: str, state: str = "done", *, seconds: float = 5) -> JobView:
        """The job, once it is in this state."""

        async def there() -> JobView | None:
            view = await self.service.get_job(ctx, GetJob(id=job))
            return view if view.state == state else None

        view: JobView = await until(there, seconds=seconds)
        return view

    async def done(self, ctx: AuthContext, to: int, state: str = "done") -> JobView:
        """A job that counts so far, once it has ended so."""
        return await self.settled(ctx, await self.enqueue(ctx, to), state)

    async def counted(self, ctx: AuthContext) -> list[int]:
        """The numbers in the events of a tenant, in their order."""
        rows = await self.superuser.fetch(
            "SELECT (data::json ->> 'version')::int AS number FROM vault.outbox "
            "WHERE workspace_id = $1 AND type = 'vault.key_created' ORDER BY seq",
            ctx.tenant_uuid,
        )
        return [row["number"] for row in rows]

    async def taken(self, seconds: float = 0.5) -> Any:
        """The lease of the oldest due job, as another worker would have it; jobs of other tests have ended."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchrow(takes._TAKE.format(schema="vault"), seconds)
        finally:
            await connection.close()


def step_of(job: str, lease: Any) -> Step:
    """The first step of a job that counts to 2, under a lease."""
    return jobs.Step(CountThings(until=2), job, lease["id"], lease["lease_term"], vault.JobEnded)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the vault know this job alone, and its workers look and retry at once."""
    monkeypatch.setattr(vault, "CountThings", CountThings, raising=False)
    monkeypatch.delattr(vault, "ReencryptKeyring")
    monkeypatch.setattr(takes, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(takes, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(runs, "LONGEST_DELAY_SECONDS", 0.05)


async def until(check: Callable[[], Awaitable[Any]], *, seconds: float = 5) -> Any:
    """What the check finds, once that is true."""
    async with asyncio.timeout(seconds):
        while not (found := await check()):  # noqa: ASYNC110  what is asked lies outside this process
            await asyncio.sleep(0.01)
    return found
