"""Clients that follow a log as server-sent events, and note every entry in the order in which it came."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

import httpx

from causeloop_client import AsyncClient, ClientError
from tests.support.stack import Person, Stack


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry as it came."""

    epoch: int
    index: int
    id: str


class Watcher:
    """Follows the log of a person's workspace from its begin, and over everything that ends a stream."""

    def __init__(self, stack: Stack, person: Person) -> None:
        self._stack = stack
        self.person = person
        self.seen: list[Seen] = []
        self._grew = asyncio.Event()
        self.refusals: list[str] = []
        """Why streams ended, in words."""

    async def run(self) -> None:
        """Follow until cancelled."""
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    await self._follow(AsyncClient(self._stack.url, self.person.token, patience=60, http=http))
                except ClientError as error:
                    if not self.refusals or self.refusals[-1] != str(error):
                        self.refusals.append(str(error))
                    await asyncio.sleep(0.5)

    async def _follow(self, client: AsyncClient) -> None:
        after = self.seen[-1].index if self.seen else None
        async with aclosing(client.follow(None if self.seen else 0, after=after)) as entries:
            async for event in entries:
                self._grew.set()
                self.seen.append(Seen(0, event.index, event.body["id"]))

    async def reaches(self, size: int, seconds: float) -> bool:
        """Whether it has seen the entries up to this size, within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.seen and self.seen[-1].index >= size - 1):
                    self._grew.clear()
                    await self._grew.wait()
                return True
        return False

    def breaches(self, stored: Sequence[str]) -> list[str]:
        """What is not so: within an epoch each index comes once, in order, and is that of the log in the end."""
        found, epochs, tenant = [], dict[int, int](), self.person.workspace
        for entry in self.seen:
            expected = epochs.get(entry.epoch, -1) + 1
            if entry.index != expected:
                found.append(f"{tenant} was sent {entry.index} in place of {expected}")
            epochs[entry.epoch] = entry.index
            if entry.id not in stored[entry.index : entry.index + 1]:
                found.append(f"{tenant} was sent another entry {entry.index} than there is: {entry.id}")
        return found
