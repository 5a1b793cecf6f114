"""The workers of a service's commands, and the commands that wait aside, with their workers given to others.

A command that waits for another service, or for somebody outside of the installation, needs no worker meanwhile: with
all of them waiting for one that stands still, nobody else's command would be answered.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from causeloop_common.errors import Unavailable

OUTSIDE = "outside"
_ASIDE = 4
"""Commands for each worker that wait aside for the same one."""


class Workers:
    """At most `count` commands at work, and four times as many aside for each one who is waited for."""

    def __init__(self, service: str, count: int) -> None:
        self._service = service
        self.free = asyncio.Semaphore(count)
        """A command holds it while it is at work."""
        self._most = _ASIDE * count
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(self._most))
        self._aside = 0
        self._queued = 0

    @property
    def aside(self) -> int:
        """How many commands wait aside; of those that wait for a place there, at most as many as one has places."""
        return self._aside + min(self._queued, self._most)

    @asynccontextmanager
    async def given_back(self, whom: str, *, queues: bool) -> AsyncIterator[None]:
        """Give the current command's worker to others while the block runs, in which it waits for `whom`.

        With `queues` it waits until there is a place aside, else it is Unavailable without one.
        """
        places = self._places[whom]
        if not queues and places.locked():
            raise Unavailable(f"The {self._service} service is busy. Try again.")
        self.free.release()
        try:
            self._queued += 1
            try:
                await places.acquire()
            finally:
                self._queued -= 1
            self._aside += 1
            try:
                yield
            finally:
                self._aside -= 1
                places.release()
        finally:
            await self.free.acquire()  # the task of a command is not cancelled, so it gets one


current: ContextVar[Workers | None] = ContextVar("workers", default=None)
"""The workers of the router whose command the current task answers."""


@asynccontextmanager
async def aside(whom: str = OUTSIDE, *, queues: bool = False) -> AsyncIterator[None]:
    """Let another command have this one's worker while this one waits for `whom`: a service, or somebody outside.

    Unavailable when too many wait so already, unless it `queues`. Outside of a command it changes nothing.
    """
    workers = current.get()
    if workers is None:
        yield
        return
    async with workers.given_back(whom, queues=queues):
        yield
