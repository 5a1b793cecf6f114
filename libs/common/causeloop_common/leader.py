"""Leaders: of each kind of work one replica is at work, the others stand by and take over.

    stand by ──► take the lease, a new term ──► work, renewing ──► give the lease back, or lose it ──► stand by

A leader has a lease of two seconds, or longer where the work can wait (`leases`). It renews it three times meanwhile,
and the others look eight times. It holds no lock, no transaction and no state of a session, so it works through a
pooler of transactions. Each of its transactions checks the term where it commits, on the server, with nothing of this
process in between: a process that was stopped and woken commits nothing more in its old term. A transaction of such a
process ends after at most two seconds of silence, and its locks with it, so its successor does not wait for it. A new
term begins only when no commit of an earlier one is on its way: what a leader finds at its start is all that its
predecessors did, and ever will do.

Beyond the database nothing checks the term: what a leader sends must be harmless when it is sent twice, or late.

Every replica, leader or not, measures how long the oldest piece of work has been waiting. A standby is not ready while
nobody leads, a leader while it cannot work, and each while work lies too long. A leader whose work stands still gives
the lease back.
"""

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
import nats.errors

from causeloop_common import leases, wire
from causeloop_common.database import Connections
from causeloop_common.errors import AppError, Unavailable
from causeloop_common.settings import SettingsError
from causeloop_common.telemetry import metrics

_log = logging.getLogger(__name__)

MEASURE_SECONDS = 5.0
TAKEOVER = 1.5
"""Within so many leases after a leader's death another one is at work."""
PATIENCE_SECONDS = 30.0
"""Work that waits longer, or stands still for longer, is a fault."""

_BACK_OFF_SECONDS = 0.6
"""After a fault: the lease is free meanwhile, since another replica may be able to work. Short though the lease may be
long, since this replica is not ready until it has tried again.
"""
_ANSWER_SECONDS = 1.0
_BEGIN = wire.batch("BEGIN", f"SET LOCAL idle_in_transaction_session_timeout = '{leases.LEASE_SECONDS:g}s'")

FAULTS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    nats.errors.Error,
    AppError,
    SettingsError,
    OSError,
    TimeoutError,
)
"""The faults that end a lead and no process: the work waits, and is begun again."""


class Work(ABC):
    """One kind of work that one replica of a service does at a time."""

    @abstractmethod
    async def lead(self) -> None:
        """Work until cancelled. A fault (`FAULTS`) ends the lead; another replica, or this one again, takes over."""

    async def stand_by(self) -> None:
        """Run beside another replica's leader, until cancelled."""
        await asyncio.Event().wait()

    async def waiting(self) -> float:
        """The seconds that the oldest piece of work has been waiting, 0 without one; asked in every replica."""
        return 0.0


class Leader:
    """This replica's part in one kind of work: whether it leads, in which term, and the transactions of its term."""

    def __init__(
        self,
        connections: Connections,
        schema: str,
        name: str,
        *,
        patience: float = PATIENCE_SECONDS,
        lease: float = leases.LEASE_SECONDS,
    ) -> None:
        self.name = name
        self._connections = connections
        self._schema = schema
        self._patience = patience
        self._lease = lease
        self._holder = uuid4()
        self.term = 0
        """The last term in which it led."""
        self._until = float("-inf")
        self._worked_at = float("-inf")
        self._led_at = time.monotonic()
        self._waiting_since: float | None = None
        self._failure: str | None = None
        metrics.LEADER.labels(schema, name).set_function(lambda: self.leads)
        metrics.LEADER_TERM.labels(schema, name).set_function(lambda: self.term)
        metrics.LEADER_LAG.labels(schema, name).set_function(self._lag)

    @property
    def leads(self) -> bool:
        """Whether the lease is this replica's, as far as its own clock can show."""
        return time.monotonic() < self._until

    @property
    def fence(self) -> str:
        """The SQL expression that is true in this term, and else refuses the transaction."""
        return leases.fence(self._schema, self.name, self.term, self._holder)

    def require(self) -> None:
        """Raise `Unavailable` if the lease has run out: before what no database refuses."""
        if not self.leads:
            raise Unavailable(f"The lead of the {self.name} is over.")

    def works(self) -> None:
        """Note that the work goes on, if only by finding nothing to do. Each commit notes it by itself."""
        self._worked_at = time.monotonic()
        self._failure = None

    async def fetch(self, statement: str, *values: Any, timeout: float | None = None) -> list[asyncpg.Record]:
        """The rows of a statement that only reads. A replica that stands by may read, too."""
        async with self._connections.borrowed() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *values, timeout=timeout)
        return rows

    async def change(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of one statement that changes something and commits by itself. It has to contain the `fence`."""
        rows = await self.fetch(statement, *values)
        self.works()
        return rows

    async def execute(self, statement: str, *values: Any) -> str:
        """Run one statement that commits by itself; if it changes anything it has to contain the `fence`."""
        async with self._connections.borrowed() as connection:
            status = str(await connection.execute(statement, *values))
        self.works()
        return status

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A transaction of this term; the connection. Its commit is refused if the term is over by then."""
        end = f"SELECT {self.fence}; COMMIT"
        async with self._connections.borrowed() as connection:
            connection.wire.open(_BEGIN)
            try:
                yield connection
                await connection.execute(end)
            except asyncpg.PostgresError:
                await connection.execute("ROLLBACK")
                raise
        self.works()

    async def run(self, work: Work) -> None:
        """Lead whenever nobody else does, until cancelled."""
        self._led_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure(work))
            group.create_task(self._take_turns(work))

    async def once(self, work: Work) -> None:
        """Wait for the lease, and lead until the work ends, has a fault, or the lease is lost."""
        await self._stand_by(work)
        tasks = [asyncio.create_task(work.lead()), asyncio.create_task(self._keep())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._until = float("-inf")
            await _end(tasks)
            await self._release()
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def check(self) -> None:
        """Readiness: raise `Unavailable` unless this replica leads and works, or stands by one that does."""
        if self._failure is not None:
            raise Unavailable(f"The {self.name} waits: {self._failure}.")
        vacant = time.monotonic() - self._led_at
        if not self.leads and vacant > TAKEOVER * self._lease:
            raise Unavailable(f"No replica has led the {self.name} for {vacant:.0f} seconds.")
        if (lag := self._lag()) > self._patience:
            place = "leads" if self.leads else "stands by"
            raise Unavailable(f"The {self.name} {place}, and the oldest work has been waiting for {lag:.0f} seconds.")

    async def _take_turns(self, work: Work) -> None:
        while True:
            try:
                await self.once(work)
            except FAULTS as error:
                self._failure = fault_of(error)
                _log.warning("%s of %s waits: %s: %s", self.name, self._schema, type(error).__name__, error)
            await asyncio.sleep(_BACK_OFF_SECONDS)

    async def _stand_by(self, work: Work) -> None:
        """Wait for the lease, and take it."""
        beside = asyncio.create_task(work.stand_by())
        try:
            while not await self._take():
                if beside.done():
                    beside.result()
                await asyncio.sleep(self._lease / 8 * random.uniform(0.8, 1.2))  # noqa: S311  not all at once
        finally:
            await _end([beside])

    async def _take(self) -> bool:
        """Take the lease if it is free, and look who has it if not."""
        asked = time.monotonic()
        rows = await self._ask(leases.take(self._schema, self._lease), self.name, self._holder)
        if not rows:
            raise Unavailable(
                f"There is no lease for it: INSERT INTO {self._schema}.leases (name) VALUES ('{self.name}')"  # noqa: S608
            )
        (found,) = rows
        if found["term"] is not None:
            self.term, self._until = found["term"], asked + self._lease
            self._worked_at = time.monotonic()
            return True
        self._failure = None
        if found["is_led"]:
            self._led_at = time.monotonic()
        return False

    async def _keep(self) -> None:
        """Renew the lease until it is lost, or the work stands still."""
        renew = leases.renew(self._schema, self._lease)
        while True:
            await asyncio.sleep(self._lease / 3)
            self.require()
            if (still := time.monotonic() - self._worked_at) > self._patience:
                raise Unavailable(f"The {self.name} has stood still for {still:.0f} seconds.")
            asked = time.monotonic()
            with suppress(*FAULTS):  # there is time for another try
                if not await self._ask(renew, self.name, self._holder, self.term):
                    break
                self._until = self._led_at = asked + self._lease
        raise Unavailable(f"Another replica leads the {self.name}.")

    async def _release(self) -> None:
        with suppress(*FAULTS):
            await self._ask(leases.release(self._schema), self.name, self._holder, self.term)

    async def _ask(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of a statement about the lease, which is answered soon or not at all."""
        return await self.fetch(statement, *values, timeout=_ANSWER_SECONDS)

    async def _measure(self, work: Work) -> None:
        """Look how long the oldest piece of work has been waiting; while nobody can look, it goes on waiting."""
        while True:
            with suppress(*FAULTS):
                waiting = await work.waiting()
                self._waiting_since = time.monotonic() - waiting if waiting > 0 else None
            await asyncio.sleep(max(MEASURE_SECONDS, self._lease))

    def _lag(self) -> float:
        return 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since


def fault_of(error: BaseException) -> str:
    """A fault as half a sentence: its text where that is ours, else its kind."""
    if isinstance(error, AppError):
        return error.detail.rstrip(".")
    return str(error).rstrip(".") if isinstance(error, SettingsError) else type(error).__name__


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: a library may swallow a cancellation."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=0.5)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # or asyncio would report that nobody looked at it
