"""Somebody who asks a gateway the same thing over and over, at a steady rate, and writes down every answer."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import NamedTuple, Self

CALL = "GET /v1/workspace"
REQUEST = "{call} HTTP/1.1\r\nhost: poller\r\ncontent-length: 0\r\nauthorization: Bearer {token}\r\n\r\n"


class Polled(NamedTuple):
    """One answer: when it was asked for, when it was there, its status; 0 when none came."""

    begun: float
    ended: float
    status: int


class Poller:
    """Polls with a token, one request at a time on one connection, at most `rate` a second.

    What is not answered within `patience` seconds is given up, and its connection with it.
    """

    def __init__(self, port: int, token: str, rate: float, patience: float = 20, call: str = CALL) -> None:
        self._patience = patience
        self._port = port
        self._request = REQUEST.format(call=call, token=token).encode()
        self._pace = 1 / rate
        self.answers: list[Polled] = []

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    def count(self, status: int, since: float = 0) -> int:
        """How many requests begun since then got this answer."""
        return sum(answer.status == status for answer in self.answers if answer.begun >= since)

    def last_success(self, after: float) -> float:
        """Seconds after this moment until the last success had arrived; 0 when there was none."""
        return max(0.0, *(answer.ended - after for answer in self.answers if answer.status == 200), 0.0)

    async def _run(self) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            due = time.monotonic()
            while True:
                begun = time.monotonic()
                try:
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self._port)
                    async with asyncio.timeout(self._patience):  # wait_for can swallow that this poller is to end
                        status = await self._ask(*connection)
                except (OSError, EOFError, TimeoutError):
                    if connection is not None:
                        connection[1].transport.abort()
                    connection, status = None, 0
                self.answers.append(Polled(begun, time.monotonic(), status))
                due = max(due + self._pace, time.monotonic() - self._pace)
                await asyncio.sleep(due - time.monotonic())
        finally:
            if connection is not None:
                connection[1].transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        return int(head[9:12])


async def outlived(
    ports: Sequence[int],
    token: str,
    rate: float,
    revoke: Callable[[], Awaitable[None]],
    *,
    call: str = CALL,
    least: int = 10,
    refused: int = 401,
) -> float:
    """Seconds from the answer to a revocation until the last success at any gateway had arrived; 0 when none had.

    Each has `least` successes before, at a random moment of its polling; each must refuse in the end.
    """
    async with AsyncExitStack() as polling:
        pollers = [await polling.enter_async_context(Poller(port, token, rate, call=call)) for port in ports]
        await have(pollers, 200, least)
        await asyncio.sleep(random.random() / rate)
        await revoke()
        answered = time.monotonic()
        await have(pollers, refused, 2 * least)
    return max(poller.last_success(answered) for poller in pollers)


async def have(pollers: Sequence[Poller], status: int, least: int, *, seconds: float = 40) -> None:
    """Wait until every poller has so many of these answers."""
    async with asyncio.timeout(seconds):
        while not all(poller.count(status) >= least for poller in pollers):  # noqa: ASYNC110  they write, there is no event
            await asyncio.sleep(0.005)
