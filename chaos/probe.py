"""One question asked at a steady pace while a process is killed: how soon is it refused, how soon answered again?"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

import httpx

from tests.support.stack import Person

QUESTIONS = {
    "gateway": "/workspace",
    "auth": "/api-tokens?limit=1",
    "tenancy": "/workspace",
    "vault": "/secrets?limit=1",
    "audit": "/audit/events?limit=1",
    "nats": "/workspace",
    "postgres": "/workspace",
}
"""What cannot be answered without the target."""

PACE = 0.04


class Asked(NamedTuple):
    """When it was asked, how long the answer took, its status; 0 when the connection broke."""

    begun: float
    seconds: float
    status: int


class Probe:
    """Asks what needs `target`, whatever became of the questions before."""

    def __init__(self, person: Person, target: str) -> None:
        self._person = person
        self._question = QUESTIONS[target]
        self._asking: list[asyncio.Task[Asked]] = []
        self._blind: tuple[float, float] = (0.0, 0.0)

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, *self._asking, return_exceptions=True)

    @contextmanager
    def blind(self) -> Iterator[None]:
        """A block in which this process itself waits: it is not counted as waiting for an answer."""
        begun = time.monotonic()
        yield
        self._blind = (begun, time.monotonic())

    @property
    def answers(self) -> list[Asked]:
        """What has been answered so far."""
        return [asking.result() for asking in self._asking if asking.done()]

    def answered_since(self, moment: float, status: int) -> bool:
        """Whether something asked since then got this answer."""
        return any(asked.status == status for asked in self.answers if asked.begun >= moment)

    async def _run(self) -> None:
        while True:
            self._asking.append(asyncio.create_task(self._ask()))
            await asyncio.sleep(PACE)

    async def _ask(self) -> Asked:
        begun = time.monotonic()
        try:
            status = (await self._person.get(self._question)).status_code
        except httpx.TransportError:
            status = 0
        ended = time.monotonic()
        blind = max(0.0, min(ended, self._blind[1]) - max(begun, self._blind[0]))
        return Asked(begun, ended - begun - blind, status)
