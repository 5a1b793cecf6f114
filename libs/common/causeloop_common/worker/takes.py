"""Taking due jobs: which, how many at once, and for how long."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import nats.errors
from nats.aio.msg import Msg

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.database import Connections
from causeloop_common.errors import Unavailable
from causeloop_common.leader import FAULTS, fault_of
from causeloop_common.messaging import Bus
from causeloop_common.telemetry import metrics

_log = logging.getLogger(__name__)

AT_ONCE = 2
"""Jobs of a process that run at the same time. They share the service's connections with its commands."""
LEASE_SECONDS = 5.0
"""A job that was not given back, because its process was killed or stopped, is taken by another after this time."""
LOOK_SECONDS = 1.0
LATE_SECONDS = 60.0
"""A due job that nobody took for so long makes a worker that has room for it not ready."""

_TAKE = """
    WITH due AS MATERIALIZED (
        SELECT workspace_id, id FROM {schema}.jobs
        WHERE due_at <= clock_timestamp() AND (lease_until IS NULL OR lease_until < clock_timestamp())
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE {schema}.jobs j SET lease_term = lease_term + 1, lease_until = clock_timestamp() + $1 * interval '1 second'
    FROM due WHERE j.workspace_id = due.workspace_id AND j.id = due.id
    RETURNING j.workspace_id, j.id, j.lease_term
"""
_RENEW = """
    UPDATE {schema}.jobs j SET lease_until = clock_timestamp() + $1 * interval '1 second'
    FROM unnest($2::uuid[], $3::uuid[], $4::bigint[]) AS held(workspace_id, id, term)
    WHERE j.workspace_id = held.workspace_id AND j.id = held.id AND j.lease_term = held.term
      AND j.lease_until > clock_timestamp()
"""
_GIVE_BACK = """
    UPDATE {schema}.jobs SET lease_until = NULL WHERE workspace_id = $1 AND id = $2 AND lease_term = $3
"""
_OLDEST = """
    SELECT extract(epoch FROM clock_timestamp() - min(due_at))::float8 FROM {schema}.jobs
    WHERE due_at <= clock_timestamp() AND (lease_until IS NULL OR lease_until < clock_timestamp())
"""


class Lease(NamedTuple):
    """A job that this process took, and the term under which it did."""

    workspace_id: UUID
    id: UUID
    term: int

    @property
    def tenant(self) -> str:
        """The tenant whose job it is."""
        return ids.tenant_id(self.workspace_id)


class Worker:
    """Takes due jobs of all tenants and has each of them run, until it is cancelled."""

    def __init__(
        self, connections: Connections, schema: str, bus: Bus, run: Callable[[Lease], Coroutine[Any, Any, None]]
    ) -> None:
        self._connections = connections
        self._schema = schema
        self._bus = bus
        self._run = run
        self._wake = asyncio.Event()
        self._news = False
        self._held: dict[asyncio.Task[None], Lease] = {}
        self._oldest = 0.0
        self._failure: str | None = "it is starting"
        metrics.JOBS_RUNNING.labels(schema).set_function(lambda: len(self._held))
        metrics.JOBS_WAITING.labels(schema).set_function(lambda: self._oldest)

    def wake(self) -> None:
        """Look at once, and have the other replicas look: a job was enqueued here."""
        self._news = True
        self._wake.set()

    async def check(self) -> None:
        """Raise `Unavailable` unless due jobs are taken."""
        if self._failure is not None:
            raise Unavailable(f"Jobs wait: {self._failure}.")
        if self._oldest > LATE_SECONDS and len(self._held) < AT_ONCE:
            raise Unavailable(f"A job has been due for {self._oldest:.0f} seconds, and no worker takes it.")

    async def run(self) -> None:
        """Work until cancelled, and wait while there is a fault."""
        while True:
            try:
                await self._work()
            except FAULTS as fault:
                self._failure = fault_of(fault)
                _log.warning("jobs wait: %s: %s", type(fault).__name__, fault)
            await asyncio.sleep(0.25)

    async def _work(self) -> None:
        wakes = await self._bus.subscribe(topology.due(self._schema), self._on_news)
        try:
            while True:
                self._wake.clear()
                if self._news:
                    self._news = False
                    await self._bus.client.publish(topology.due(self._schema))
                async with self._connections.borrowed() as connection:
                    await self._look(connection)
                self._failure = None
                pause = LOOK_SECONDS * random.uniform(0.75, 1.25)  # noqa: S311  so that replicas do not look at once
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            await self._give_back()
            with suppress(nats.errors.Error):
                await wakes.unsubscribe()

    async def _give_back(self) -> None:
        """End the runs of this process, so that other workers can go on with these jobs at once."""
        held = dict(self._held)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        with suppress(*FAULTS):
            for lease in held.values():
                async with self._connections.borrowed() as connection:
                    await connection.execute(_GIVE_BACK.format(schema=self._schema), *lease, timeout=1)

    async def _look(self, connection: asyncpg.Connection) -> None:
        """Renew the leases of the jobs that run, and take due ones while there is room."""
        if self._held:
            await connection.execute(
                _RENEW.format(schema=self._schema), LEASE_SECONDS, *map(list, zip(*self._held.values(), strict=True))
            )
        while len(self._held) < AT_ONCE:
            row = await connection.fetchrow(_TAKE.format(schema=self._schema), LEASE_SECONDS)
            if row is None:
                self._oldest = 0.0
                return
            lease = Lease(*row)
            task = asyncio.create_task(self._run(lease), name=f"{self._schema}:job")
            self._held[task] = lease
            task.add_done_callback(self._ended)
        self._oldest = await connection.fetchval(_OLDEST.format(schema=self._schema)) or 0.0

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._held[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a job's run failed", exc_info=error)
        self._wake.set()

    async def _on_news(self, _: Msg) -> None:
        self._wake.set()
