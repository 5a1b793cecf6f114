"""Events put into a tenant's log as a service would, and a client that follows it over many connections."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import httpx
from nats.aio.client import Client

from causeloop_client import AsyncClient, ClientError, Problem, Unreachable
from causeloop_client.stream import Event, Waiting
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.messaging import event_headers
from tests.support.documented import check_documented
from tests.support.stack import Stack

TOGETHER = 50


async def announce(
    client: Client, tenant: str, count: int, data: bytes = b'{"version":1}', *, pause: float = 0
) -> list[str]:
    """Put so many events of a tenant into the stream with the vault's credential, `TOGETHER` at a time; their ids."""
    stream = client.jetstream(prefix=topology.STREAMS_API)
    made: list[str] = []

    async def publish(one: str) -> None:
        event = Announced(
            one, tenant, "vault.secret_written", datetime.now(UTC), data, actor="svc_vault", target=ids.new("sec")
        )
        await stream.publish(f"evt.{tenant}.{event.type}", data, headers=event_headers(event), timeout=10)

    while len(made) < count:
        batch = [ids.new("evt") for _ in range(min(TOGETHER, count - len(made)))]
        await asyncio.gather(*map(publish, batch))
        made += batch
        await asyncio.sleep(pause)
    return made


class Follower:
    """Follows a log. What it received stays, whatever is cut; it goes on after the last entry it received whole."""

    def __init__(self, stack: Stack, token: str, start: int | None = None) -> None:
        self._stack = stack
        self._token = token
        self._start = start
        self.events: list[Event] = []
        self.is_open = False
        self.connections = 0
        self.ended = ""
        """The code with which the stream ended."""
        self.ended_at = 0.0

    async def follow(self, until: Callable[[], bool], *, seconds: float = 60) -> None:
        """Over one connection, until so or until it ends; then the connection is dropped, whatever is on its way."""

        def end(_: float, failure: ClientError | None) -> None:
            raise failure or Unreachable("The connection ended.")

        try:
            await self._follow(until, seconds, end)
        except Problem as end_of_stream:
            if end_of_stream.status != 200:
                raise
            self.ended, self.ended_at = end_of_stream.code, time.monotonic()

    async def insist(self, count: int, *, seconds: float = 60) -> None:
        """Until it has so many events, over as many connections as it takes."""
        if len(self.events) < count:
            await self._follow(lambda: len(self.events) >= count, seconds, None)

    async def _follow(self, until: Callable[[], bool], seconds: float, waiting: Waiting) -> None:
        after = self.events[-1].index if self.events else None
        hooks = {"response": [check_documented, self._opened]}
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False, event_hooks=hooks) as http:
            client = AsyncClient(self._stack.url, self._token, patience=seconds, http=http)
            async with aclosing(client.follow(self._start, after=after, waiting=waiting)) as entries:
                async for event in entries:
                    self.events.append(event)
                    if until():
                        return

    async def _opened(self, response: httpx.Response) -> None:
        self.is_open = response.status_code == 200
        self.connections += self.is_open

    def ids(self) -> list[str]:
        """The ids of the events received, as they came."""
        return [event.body["id"] for event in self.events]


def assert_exactly_once(events: Sequence[Event], first: int = 0) -> None:
    """Every index from the first on, once and in order."""
    assert [event.index for event in events] == list(range(first, first + len(events)))
