"""The commands about jobs: list, show, cancel. Each service answers them for its own jobs."""

from collections.abc import Iterator
from typing import Any

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Command, Job, jobs
from causeloop_common.contracts.jobs import (
    CancelJob,
    GetJob,
    JobCancelled,
    JobPage,
    JobProgress,
    JobView,
    ListJobs,
    State,
)
from causeloop_common.contracts.lists import page
from causeloop_common.database import Database, Reading
from causeloop_common.errors import NotFound
from causeloop_common.messaging.commands import Handler
from causeloop_common.statements import Statement

_COLUMNS = (
    "id, kind, outcome, principal, done, total, detail, result, error, lease_term - settled_term AS attempts, due_at, "
    "lease_until > clock_timestamp() AS leased, created_at, started_at, cancelled_at, ended_at"
)


class JobService:
    """A service's jobs, as its clients see them: those for whose kind they have the permission."""

    def __init__(self, database: Database) -> None:
        schema = database.schema
        self._database = database
        self._service = schema
        self._prefix = f"job_{schema}"
        self._owner = topology.OWNERS[schema]
        self._cancelled: type[JobCancelled] = self._owner.JobCancelled
        selected = f"SELECT {_COLUMNS} FROM {schema}.jobs"  # noqa: S608
        self._get = Statement.raw(f"{selected} WHERE id = $1", "id")
        self._list = Statement.raw(
            f"{selected} WHERE kind = ANY($1) AND id < $2 ORDER BY id DESC LIMIT $3", "kinds", "before", "limit"
        )
        self._cancel = Statement.raw(
            f"UPDATE {schema}.jobs SET cancelled_at = clock_timestamp(), "  # noqa: S608
            "due_at = least(due_at, clock_timestamp()) WHERE id = $1 AND outcome IS NULL AND cancelled_at IS NULL",
            "id",
        )

    @property
    def _kinds(self) -> dict[str, type[Job]]:
        return {kind.kind: kind for kind in jobs(self._owner)}

    def handlers(self) -> Iterator[tuple[type[Command[Any]], Handler]]:
        """The commands with their use cases."""
        yield self._owner.ListJobs, self.list_jobs
        yield self._owner.GetJob, self.get_job
        yield self._owner.CancelJob, self.cancel_job

    async def list_jobs(self, ctx: AuthContext, command: ListJobs) -> JobPage:
        """The tenant's jobs whose kinds the caller may see, newest first."""
        kinds = [kind.kind for kind in self._kinds.values() if kind.permission in ctx.permissions]
        before = ids.MAX if command.position is None else ids.decode(command.position, "job")
        if not kinds:
            return page([], command, key=str)
        async with self._database.reading(ctx) as tx:
            found = await tx.fetch(self._list, kinds=kinds, before=before, limit=command.wanted)
        return page(found, command, key=lambda row: ids.encode("job", row["id"]), show=self._view)

    async def get_job(self, ctx: AuthContext, command: GetJob) -> JobView:
        """A job, if the caller has its permission."""
        async with self._database.reading(ctx) as tx:
            return self._view(await self._found(ctx, tx, command.id))

    async def cancel_job(self, ctx: AuthContext, command: CancelJob) -> JobView:
        """Have a job end before its next step; one that has ended stays as it is."""
        async with self._database.transaction(ctx) as tx:
            row = await self._found(ctx, tx, command.id)

            if await tx.execute(self._cancel, id=row["id"]) == 0:  # it has ended, or is being cancelled
                return self._view(row)

            tx.publish(self._cancelled(job_id=command.id, kind=row["kind"]))
            view = self._view(await self._found(ctx, tx, command.id))
        self._database.enqueued()
        return view

    async def _found(self, ctx: AuthContext, tx: Reading, job_id: str) -> Any:
        """The job's row; NotFound without one, Forbidden without the permission of its kind."""
        row = await tx.fetchrow(self._get, id=ids.decode(job_id, self._prefix)) if self._is_ours(job_id) else None
        kind = None if row is None else self._kinds.get(row["kind"])
        if kind is None:
            raise NotFound("There is no such job in this workspace. Ended ones are kept for 7 days.")
        ctx.require(kind.permission)
        return row

    def _is_ours(self, job_id: str) -> bool:
        return job_id.rpartition("_")[0] == self._prefix

    def _view(self, row: Any) -> JobView:
        begun: State = "cancelling" if row["cancelled_at"] else "running" if row["started_at"] else "waiting"
        waits = row["error"] is not None and row["outcome"] is None and not row["leased"]
        return JobView(
            id=ids.encode(self._prefix, row["id"]),
            kind=row["kind"],
            state=row["outcome"] or begun,
            progress=JobProgress(done=row["done"], total=row["total"], detail=row["detail"]),
            result=row["result"],
            error=row["error"],
            attempts=row["attempts"],
            retry_at=row["due_at"] if waits else None,
            created_by=row["principal"],
            created_at=row["created_at"],
            started_at=row["started_at"],
            ended_at=row["ended_at"],
        )
