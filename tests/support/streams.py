"""Events put into a tenant's log as a service would, and a client that follows it over many connections."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
from nats.aio.client import Client

from causeloop_cli.audit.sse import Event, Reader
from causeloop_common import ids
from causeloop_common.contracts.base import Announced
from causeloop_common.messaging import event_headers
from tests.support.stack import Stack

TOGETHER = 50


async def announce(
    client: Client, tenant: str, count: int, data: bytes = b'{"version":1}', *, pause: float = 0
) -> list[str]:
    """Put so many events of a tenant into the stream with the vault's credential, `TOGETHER` at a time; their ids."""
    stream = client.jetstream()
    made: list[str] = []

    async def publish(one: str) -> None:
        event = Announced(
            one, tenant, "vault.secret_written", datetime.now(UTC), "svc_vault", None, ids.new("sec"), "", "", data
        )
        await stream.publish(f"evt.{tenant}.{event.type}", data, headers=event_headers(event), timeout=10)

    while len(made) < count:
        batch = [ids.new("evt") for _ in range(min(TOGETHER, count - len(made)))]
        await asyncio.gather(*map(publish, batch))
        made += batch
        await asyncio.sleep(pause)
    return made


class Follower:
    """Follows a log. What it received stays, whatever is cut; it goes on after the last entry it was told whole."""

    def __init__(self, stack: Stack, token: str, start: int | None = None) -> None:
        self._stack = stack
        self._token = token
        self._start = start
        self.last_id = ""
        self.events: list[Event] = []
        self.ended: dict[str, Any] | None = None
        self.ended_at = 0.0
        self.connections = 0

    async def follow(self, until: Callable[[], bool], *, seconds: float = 60) -> None:
        """Over one connection, until so or until it ends; then the connection is dropped, whatever is on its way."""
        async with asyncio.timeout(seconds), self._connected() as chunks:
            async for _ in chunks:
                if until():
                    return

    async def insist(self, count: int, *, seconds: float = 60) -> None:
        """Until it has so many events, over as many connections as it takes."""
        async with asyncio.timeout(seconds):
            while len(self.events) < count:
                try:
                    await self.follow(lambda: len(self.events) >= count, seconds=seconds)
                except (httpx.TransportError, Refused):
                    await asyncio.sleep(0.1)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncGenerator[None, None]]:
        headers = {"authorization": f"Bearer {self._token}"}
        query: dict[str, str] = {}
        if self.last_id:
            headers["last-event-id"] = self.last_id
        elif self._start is not None:
            query["from"] = str(self._start)
        async with self._stack.http.stream("GET", "/v1/audit/stream", headers=headers, params=query) as response:
            if response.status_code != 200:
                raise Refused(response.status_code, await response.aread())
            self.connections += 1
            async with aclosing(self._read(response)) as chunks:
                yield chunks

    async def _read(self, response: httpx.Response) -> AsyncGenerator[None, None]:
        reader = Reader(self.last_id)
        async for data in response.aiter_raw():
            events = reader.feed(data)
            self.last_id = reader.last_id
            self.events += [event for event in events if event.kind != "end"]
            if events and events[-1].kind == "end":
                self.ended, self.ended_at = json.loads(events[-1].data), time.monotonic()
            yield

    def ids(self) -> list[str]:
        """The ids of the events received, as they came."""
        return [json.loads(event.data)["id"] for event in self.events]


class Refused(Exception):
    """The stream did not begin."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body[:300])
        self.status = status


def assert_exactly_once(events: Sequence[Event], first: int = 0) -> None:
    """Every index from the first on, once and in order."""
    assert [int(event.id) for event in events] == list(range(first, first + len(events)))
