"""The row `relay`: what receipts cost the relay, in percent of one core at 1000 events a second.

The relay of tenancy works as it is, that of the vault without receipts and without their index; each in a process of
its own. Turn by turn events are committed to one outbox and wake its relay; audit's intake, which runs here, enters all
of them and publishes its receipts. Counted is the CPU time of the relay's process, of its sessions in PostgreSQL, and
of the process there that writes the log of what they changed; not that of autovacuum.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from bench.audit import Sides, sides
from bench.run import Effort, Measure, Row, in_turn, median, process
from causeloop_audit.handlers import Intake
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Event
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.contracts.vault import SecretWritten
from causeloop_common.database import Database
from causeloop_common.messaging import Bus
from causeloop_common.rls import Tables
from causeloop_common.settings import Settings
from causeloop_tenancy.models import metadata as tenancy
from causeloop_vault.models import metadata as vault

RATE = 1000
STEPS = 100
"""So many transactions a second, each with an equal part of the events; a relay gathers longer than one lasts."""
TAIL_SECONDS = 1.5
"""Measured after the last event, too: receipts gather for half a second."""
PATIENCE_SECONDS = 60.0
BAR = 5.0

_INDEXES = """
    SELECT indexrelid::regclass::text FROM pg_index
    WHERE indrelid = 'vault.outbox'::regclass AND pg_get_expr(indpred, indrelid) LIKE '%confirmed_batch%'
"""
_PROCESSES = "SELECT pid FROM pg_stat_activity WHERE usename = $1 OR backend_type = 'walwriter' ORDER BY pid"
_OPEN = "SELECT count(*) FROM {}.outbox WHERE published_at IS NULL OR ($1 AND confirmed_batch IS NULL)"


@dataclass(frozen=True)
class Side:
    """A service's outbox, its relay's process, and what acts on it announce."""

    service: str
    receipted: bool
    pid: int
    database: Database
    bus: Bus
    inspector: asyncpg.Connection
    event: Event

    async def warm(self) -> None:
        """Announce for a second, and wait until the relay has done all."""
        await self._announce(1)
        await _until(self._done)

    async def turn(self, seconds: float) -> dict[str, Any]:
        """Announce for some seconds, and wait until the relay has done all; the CPU time, in percent of a core."""
        before = await self._processes()
        spent = -_cpu_seconds(before)
        announced = await self._announce(seconds)
        await asyncio.sleep(TAIL_SECONDS)
        await _until(self._done)
        if await self._processes() != before:
            raise RuntimeError(f"The relay of {self.service} connected anew: the turn counts nothing.")
        spent += _cpu_seconds(before)
        return {"percent": 100 * spent * RATE / announced}

    async def _announce(self, seconds: float) -> int:
        """Commit events at the rate; how many."""
        ctx = AuthContext(tenant=ids.new("ws"), principal=ids.realm("bench", "bench"), permissions=frozenset())
        steps, began = max(1, round(seconds * STEPS)), time.monotonic()
        for step in range(steps):
            await asyncio.sleep(max(0, began + step / STEPS - time.monotonic()))
            async with self.database.transaction(ctx) as tx:
                for _ in range(RATE // STEPS):
                    tx.publish(self.event)
            await self.bus.client.publish(topology.wake(self.service))
        return steps * (RATE // STEPS)

    async def _done(self) -> bool:
        return not await self.inspector.fetchval(_OPEN.format(self.service), self.receipted)

    async def _processes(self) -> list[int]:
        rows = await self.inspector.fetch(_PROCESSES, f"causeloop_{self.service}_relay")
        return [self.pid, *(row["pid"] for row in rows)]


def relay(effort: Effort) -> Row:
    """CPU of the relay and its sessions with receipts, against the same without."""
    with sides() as both:
        stack, started = both.runner.run(_start(both))
        try:
            results = in_turn([partial(_run, both.runner, side, effort.seconds) for side in started], effort.rounds)
        finally:
            both.runner.run(stack.aclose())
    with_receipts, without = (median(result, "percent") for result in results)
    return Row(
        ours=with_receipts,
        reference=without,
        peer=None,
        unit="%",
        better="lower",
        bar=f"<= {BAR:.0f} % of a core more",
        holds=with_receipts - without <= BAR,
    )


def _run(runner: asyncio.Runner, side: Side, seconds: float) -> dict[str, Any]:
    return runner.run(side.turn(seconds))


async def _start(both: Sides) -> tuple[AsyncExitStack, Sequence[Side]]:
    """The intake and both relays, at work; the stack ends them."""
    async with AsyncExitStack() as stack:
        inspector = await asyncpg.connect(both.house["superuser_url"], database="causeloop")
        stack.push_async_callback(inspector.close)
        for (index,) in await inspector.fetch(_INDEXES):
            await inspector.execute(f"DROP INDEX {index}")
        audit = await _bus(stack, both, "audit")
        intake = asyncio.create_task(both.leader.run(Intake(audit, both.log, both.leader)))
        stack.push_async_callback(_ended, intake)
        added = MemberAdded(person_id=ids.realm("bench", "bench"), role="admin")
        written = SecretWritten(secret_id=ids.new("sec"), version=1)
        made = [
            await _side(stack, both, inspector, tenancy, added, receipted=True),
            await _side(stack, both, inspector, vault, written, receipted=False),
        ]
        for side in made:
            await side.warm()
        return stack.pop_all(), made


async def _side(
    stack: AsyncExitStack, both: Sides, inspector: asyncpg.Connection, tables: Tables, event: Event, *, receipted: bool
) -> Side:
    service = str(tables.schema)
    environ = both.house["environ"][service]
    settings = Settings.load(service, environ)
    database = Database(settings.dsn(f"causeloop_{service}"), service, tables, workers=1)
    await database.start()
    stack.push_async_callback(database.stop)
    bus = await _bus(stack, both, service)
    options = [] if receipted else ["--without-receipts"]
    command = (sys.executable, "-m", "bench.relay_process", service, *options)
    running = stack.enter_context(process(*command, env={**os.environ, **environ}))
    return Side(service, receipted, running.pid, database, bus, inspector, event)


async def _bus(stack: AsyncExitStack, both: Sides, service: str) -> Bus:
    settings = Settings.load(service, both.house["environ"][service])
    bus = Bus(settings, settings.keyring())
    await bus.connect()
    stack.push_async_callback(bus.close)
    return bus


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await check():  # noqa: ASYNC110  what is asked lies outside this process
            await asyncio.sleep(0.1)


def _cpu_seconds(pids: Sequence[int]) -> float:
    """The CPU time of processes, by the clock that clock_getcpuclockid(3) has for each."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


ROWS: dict[str, Measure] = {"relay": relay}
