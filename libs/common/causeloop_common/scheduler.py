"""The scheduler: tasks that a service does once per period, however many replicas it has.

One replica is at work (`leader`). A task is one or more transactions of its term. The last one also notes that the
period is done, so a task that was killed is begun again and one that is done is not. After a pause a task runs once for
all periods that it missed, at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from causeloop_common import rls, schedules
from causeloop_common.leader import FAULTS, Leader, Work

Task = Callable[[Any], Awaitable[bool]]
"""Does one part of the work in the transaction of the given connection; True when nothing is left for this period."""

LOOK_SECONDS = 20.0


class Scheduler(Work):
    """Does the tasks of one service."""

    def __init__(self, leader: Leader, schema: str) -> None:
        self._leader = leader
        self._schema = schema
        self._tasks: dict[str, tuple[float, Task]] = {}

    def every(self, name: str, task: Task, *, seconds: float) -> None:
        """Do a task once per period of so many seconds."""
        self._tasks[name] = (seconds, task)

    async def lead(self) -> None:
        """Do what is due, until cancelled. A task with a fault delays no other one."""
        while True:
            faults: list[BaseException] = []
            for row in await self._due():
                try:
                    await self._do(row["name"])
                except FAULTS as fault:
                    self._leader.require()
                    faults.append(fault)
            if faults:
                raise faults[0]
            self._leader.works()
            await asyncio.sleep(LOOK_SECONDS)

    async def waiting(self) -> float:
        """The seconds for which the task that waits longest has been due."""
        return max((float(row["late"]) for row in await self._due()), default=0.0)

    async def _due(self) -> Sequence[Any]:
        seconds = [of for of, _ in self._tasks.values()]
        return await self._leader.fetch(schedules.due(self._schema), list(self._tasks), seconds)

    async def _do(self, name: str) -> None:
        """One task until its period is done, each part in a transaction of its own."""
        seconds, task = self._tasks[name]
        done = False
        while not done:
            async with self._leader.transaction() as connection:
                if not await connection.fetch(schedules.begin(self._schema), name, seconds):
                    return
                done = await task(connection)
                if done:
                    await connection.execute(schedules.end(self._schema), name, seconds)


async def forget_expired(tables: rls.Tables, connection: Any) -> bool:
    """A task: remove what a service's tables declare as expired, of all tenants."""
    statements = [schedules.forget(table) for table in tables.sorted_tables if "expired" in table.info]
    return all([await connection.execute(statement) == "DELETE 0" for statement in statements])
