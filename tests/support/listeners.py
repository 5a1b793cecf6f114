"""Clients of the gateway's stream of the log, and what the log has."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from causeloop_client.stream import Event, Reader
from causeloop_common import ids
from causeloop_gateway.streams.route import StreamRoute

PATIENCE = 10.0


async def so(what: Callable[[], object]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not what():  # noqa: ASYNC110  what is asked has no event
            await asyncio.sleep(0.005)


class Listener:
    """A client of a stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.reader = Reader()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.raw = b""
        self.is_over = asyncio.Event()

    async def read(self) -> None:
        async for data in self.response.aiter_raw():
            self.raw += data
            for event in self.reader.feed(data):
                self.events.put_nowait(event)
        self.is_over.set()

    async def next(self, count: int = 1) -> list[Event]:
        async with asyncio.timeout(PATIENCE):
            return [await self.events.get() for _ in range(count)]

    async def opened(self) -> int:
        """The position in its first event."""
        await so(lambda: self.reader.last_id)
        return int(self.reader.last_id)

    async def last_event(self) -> dict[str, Any]:
        """The content of its last event."""
        async with asyncio.timeout(PATIENCE):
            await self.is_over.wait()
        last = [self.events.get_nowait() for _ in range(self.events.qsize())][-1]
        assert last.kind == "end", last
        content: dict[str, Any] = json.loads(last.data)
        return content


@asynccontextmanager
async def listening(
    house: Any, token: str, query: str = "", http: httpx.AsyncClient | None = None, **headers: str
) -> AsyncIterator[Listener]:
    given = {"authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with (http or house.http).stream(
        "GET", f"/v1/audit/stream{query}", headers=given, timeout=PATIENCE
    ) as response:
        assert response.status_code == 200, await response.aread()
        listener = Listener(response)
        reading = asyncio.create_task(listener.read())
        try:
            yield listener
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await reading


def route_of(listener: Any) -> StreamRoute:
    """What answers, inside of the gateway."""
    (found,) = (one for one in listener.config.app._routes["GET", "audit"] if isinstance(one, StreamRoute))
    return found


async def size(house: Any, tenant: str) -> int:
    count = await house.superuser.fetchval(
        "SELECT size FROM audit.heads WHERE workspace_id = $1", ids.tenant_uuid(tenant)
    )
    return int(count or 0)


async def leaves(house: Any, tenant: str) -> list[str]:
    rows = await house.superuser.fetch(
        "SELECT leaf FROM audit.entries WHERE workspace_id = $1 ORDER BY index", ids.tenant_uuid(tenant)
    )
    return [row["leaf"] for row in rows]
