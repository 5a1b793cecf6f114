"""Running a job that was taken: its steps one after the other, each with what the one before left."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from causeloop_common import ids, telemetry
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Job, jobs
from causeloop_common.contracts.jobs import JobEnded
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.database import Database
from causeloop_common.errors import AppError
from causeloop_common.jobs import IDENTITY, LeaseLost, Step, identity
from causeloop_common.messaging import Bus
from causeloop_common.permissions import REALM_PERMISSIONS, Internal
from causeloop_common.statements import Statement
from causeloop_common.telemetry import SpanKind, metrics
from causeloop_common.worker.takes import Lease

_log = logging.getLogger(__name__)

StepOf = Callable[[AuthContext, Step[Any]], Awaitable[None]]
"""Does one step of one kind of job: `reencrypt_keyring(ctx, step)`. It settles the step in its transaction."""

TURN_SECONDS = 5.0
"""A job that ran for so long gives its place to the next one that is due."""
LONGEST_DELAY_SECONDS = 300.0
_UNKNOWN_DELAY_SECONDS = 30.0

_COLUMNS = (
    f"kind, payload, {', '.join(IDENTITY)}, request_id, traceparent, lease_term - settled_term AS attempts, "
    "cursor, done, total, error, cancelled_at IS NOT NULL AS cancelled, started_at IS NOT NULL AS started"
)


class _Statements(NamedTuple):
    load: Statement
    again: Statement


def _statements(schema: str) -> _Statements:
    mine = "WHERE id = $1 AND lease_term = $2"
    again = f"""
        UPDATE {schema}.jobs SET error = coalesce($4, error), lease_until = NULL,
            due_at = clock_timestamp() + CASE WHEN cancelled_at IS NULL THEN $3::float8 ELSE 0 END * interval '1 second'
        {mine} AND outcome IS NULL
    """  # noqa: S608
    return _Statements(
        Statement.raw(
            f"SELECT {_COLUMNS} FROM {schema}.jobs {mine} AND lease_until > clock_timestamp()",  # noqa: S608
            "id",
            "term",
        ),
        Statement.raw(again, "id", "term", "delay", "error"),
    )


class Runs:
    """Runs the jobs of one service. TypeError for a step of another name than its job's, or of another's job."""

    def __init__(self, database: Database, bus: Bus, steps: Sequence[StepOf]) -> None:
        self._database = database
        self._bus = bus
        self._service = database.schema
        self._sql = _statements(database.schema)
        self._kinds = {kind.kind: kind for kind in jobs(topology.OWNERS[self._service])}
        self._steps: Mapping[str, StepOf] = {step.__name__: step for step in steps}
        if self._kinds.keys() != self._steps.keys():
            raise TypeError(f"The jobs of {self._service} are {[*self._kinds]}, and it has steps of {[*self._steps]}.")
        self._ended: type[JobEnded] = topology.OWNERS[self._service].JobEnded

    async def run(self, lease: Lease) -> None:
        """Run the steps of a job until it ends, fails, is lost, or its turn is over."""
        until = time.monotonic() + TURN_SECONDS
        try:
            while await self._step(lease):
                if time.monotonic() > until:
                    return await self._again(lease, 0)
        except LeaseLost:
            _log.warning("another worker has the job: this step was not committed")
            metrics.JOB_STEPS.labels("any", "lost").inc()
        except AppError as error:
            _log.warning("a job waits for its lease to end: %s", error.detail)
        return None

    async def _step(self, lease: Lease) -> bool:
        """Run one step; whether there may be another one now."""
        own = AuthContext(
            tenant=lease.tenant, principal=f"svc_{self._service}", permissions=frozenset(), issuer=self._service
        )
        async with self._database.reading(own) as tx:
            row = await tx.fetchrow(self._sql.load, id=lease.id, term=lease.term)
        if row is None:  # it ended, waits, or is another worker's
            return False
        kind = self._kinds.get(row["kind"])
        if kind is None:  # of a newer version of this service, which other replicas have
            await self._again(lease, _UNKNOWN_DELAY_SECONDS)
            return False
        ctx = replace(
            own,
            **identity(row),
            permissions=frozenset({kind.permission}),
            request_id=row["request_id"],
        )
        name, trace = f"job.{self._service}.{kind.kind}", row["traceparent"]
        given = {"causeloop.tenant": ctx.tenant, "causeloop.request_id": ctx.request_id}
        with telemetry.caused(self._bus.tracer, name, trace, SpanKind.CONSUMER, given):
            telemetry.bind(telemetry.Act(self._service, ctx.request_id, ctx.tenant))
            return await self._run(ctx, kind, lease, row)

    async def _run(self, ctx: AuthContext, kind: type[Job], lease: Lease, row: Any) -> bool:
        try:
            job = kind.model_validate_json(row["payload"])
        except ValueError:  # another version of this service enqueued it
            job = None
        step = Step(
            job=job or kind.model_construct(), id=ids.encode(f"job_{self._service}", lease.id),
            uuid=lease.id, term=lease.term, ended=self._ended,
            cursor=row["cursor"], done=row["done"], total=row["total"],
        )  # fmt: skip
        if row["cancelled"]:
            await self._end(ctx, step, "cancelled")
            return False
        if row["attempts"] > kind.attempts:  # its process did not live to see the error
            await self._end(ctx, step, "failed", row["error"] or "It was begun again and again, and never got on.")
            return False
        if job is None:
            await self._again(lease, _UNKNOWN_DELAY_SECONDS, "This version of the service cannot read it.")
            return False
        began = time.perf_counter()
        try:
            if not row["started"] and not await self._may(ctx, step.job.permission):
                words = f"The principal who began it no longer has the permission '{step.job.permission}'."
                await self._end(ctx, step, "failed", words)
                return False
            await self._steps[kind.kind](ctx, step)
        except (LeaseLost, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001  a job's error is kept with the job
            telemetry.fail(telemetry.get_current_span(), error)
            await self._failed(ctx, step, lease, row["attempts"], error)
            return False
        finally:
            metrics.JOB_STEP_SECONDS.labels(kind.kind).observe(time.perf_counter() - began)
        metrics.JOB_STEPS.labels(kind.kind, "ok").inc()
        return True

    async def _may(self, ctx: AuthContext, permission: str) -> bool:
        """Whether the principal that enqueued it still has the permission, as tenancy has it now."""
        if ctx.kind == "service":
            return True
        if ctx.tenant == ctx.principal:
            return permission in REALM_PERMISSIONS
        asking = ctx.of_service(self._service, Internal.RESOLVE)
        standing = await self._bus.call(asking, Resolve(principal=ctx.principal))
        return permission in standing.permissions

    async def _end(self, ctx: AuthContext, step: Step[Job], outcome: str, error: str | None = None) -> None:
        async with self._database.transaction(ctx, step) as tx:
            tx.settle(outcome, error=error)
        metrics.JOB_STEPS.labels(step.job.kind, outcome).inc()

    async def _failed(self, ctx: AuthContext, step: Step[Job], lease: Lease, attempts: int, error: Exception) -> None:
        """Have the step done again after a delay that doubles, or end the job after too many attempts."""
        if isinstance(error, AppError):
            words = error.detail
            _log.warning("a step of %s failed: %s", step.job.kind, words)
        else:
            words = "Something failed on our side. Report it with the request id that began the job."
            _log.error("a step of %s failed", step.job.kind, exc_info=error)
        if attempts >= step.job.attempts:
            return await self._end(ctx, step, "failed", words)
        metrics.JOB_STEPS.labels(step.job.kind, "again").inc()
        return await self._again(lease, min(2.0 ** (attempts - 1), LONGEST_DELAY_SECONDS), words)

    async def _again(self, lease: Lease, delay: float, error: str | None = None) -> None:
        """Give the job back, due after the delay in seconds."""
        own = AuthContext(tenant=lease.tenant, principal=f"svc_{self._service}", permissions=frozenset())
        async with self._database.transaction(own) as tx:
            tx.later(self._sql.again, id=lease.id, term=lease.term, delay=delay, error=error)
