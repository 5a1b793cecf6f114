"""One open stream: three tasks, and the first to end ends it.

    pump     reads a page, writes it, and only then reads the next; at the log's end it waits for news
    guard    checks the caller again as soon as there is doubt, and at the moment the token expires
    left     waits until the client is gone

The pump checks the caller before every write as well, which costs nothing while the answer is remembered. The guard is
for a stream that waits: for news, or for a client that does not read. One number, the next index, makes the stream
exact: every page is read from it, and only written entries move it. A message on the bus wakes a stream; the entries
come from the log.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import LAST_INDEX, ReadStream, StreamPage
from causeloop_common.errors import AppError, Conflict, Internal, Unavailable
from causeloop_common.telemetry import metrics
from causeloop_gateway.security import Identity
from causeloop_gateway.streams import wire

_log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
"""The size of a page, which is read, written and held at once. One larger entry goes alone."""

HEARTBEAT_SECONDS = 15.0
"""Silence before a heartbeat. Most proxies cut a silent connection after 30 to 60 s."""

POLL_SECONDS = 5.0
"""A stream that nothing wakes reads the log this often, since a wake-up may be lost, and checks its caller."""

SLOW_SECONDS = 30.0
"""A client that takes no chunk for this long is cut off. It can resume where it stopped."""

END_SECONDS = 1.0
"""The time for writing the last event to a client that may not be reading; then the connection is aborted."""

_PATIENCE_SECONDS = (0.1, 0.3, 0.6, 1.0)
"""Pauses between attempts to read while audit restarts or is busy. Then the stream ends, and the client comes back."""


class TooSlow(Exception):
    """The client did not take what was written."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A page as it will be written, which is all that a stream holds. `next` is the index after its last entry."""

    chunk: bytes
    count: int
    next: int
    size: int
    epoch: int


_NOTHING = _Page(b"", 0, 0, 0, 1)


class Stream:
    """A caller's view of the log from one index on."""

    def __init__(
        self,
        identity: Identity,
        admit: Callable[[], Awaitable[AuthContext]],
        ask: Callable[[AuthContext, ReadStream], Awaitable[StreamPage]],
        receive: Any,
        send: Any,
    ) -> None:
        self.identity = identity
        self._admit = admit
        self._ask = ask
        self._receive = receive
        self._send = send
        self._page = _NOTHING
        self._next = 0
        self._epoch: int | None = None
        self._head = 0
        self._news = asyncio.Event()
        self._doubt = asyncio.Event()
        self._over: AppError | None = None
        self._written_at = 0.0

    def grew(self, size: int) -> None:
        """Note the log's new size, as the bus has it."""
        self._head = max(self._head, size)
        self._news.set()

    def doubt(self) -> None:
        """Have the caller checked again."""
        self._doubt.set()

    def end(self, error: AppError) -> None:
        """End it, with this error as the reason."""
        self._over = error
        self._doubt.set()

    async def begin(self, start: int | None, epoch: int | None) -> None:
        """Read the first page, from `start` on or from the log's end, in this epoch or in that of the log.

        Conflict when the log has not come that far, or is in another epoch.
        """
        self._epoch = epoch
        self._page = await self._read(start)
        self._next, self._epoch = self._page.size if start is None else start, self._page.epoch

    async def run(self, abort: Callable[[], None]) -> str:
        """Write the entries that there are and those that come, until the stream ends; the reason in a word."""
        pump, guard, left = tasks = [asyncio.create_task(one) for one in (self._pump(), self._guard(), self._left())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(tasks)
        if not left.cancelled():
            return "left"
        failed = next(task for task in (guard, pump) if not task.cancelled()).exception()
        if isinstance(failed, AppError):
            why = failed.code
        elif isinstance(failed, TooSlow):
            why = "slow"
        else:
            _log.error("a stream failed", exc_info=failed)
            failed, why = Internal("Something failed on our side. Connect again to go on."), Internal.code
        if not isinstance(failed, AppError) or not await self._write_end(wire.end(failed)):
            abort()
            await self._left()
        return why

    async def _pump(self) -> None:
        await self._write(wire.opening(self._page.epoch, self._next - 1))
        while True:
            if self._page.count:
                await self._write(self._page.chunk)
                self._next = self._page.next
                metrics.STREAMED.inc(self._page.count)
            elif not self._news.is_set():  # the log has no more than this page, whatever was published before it
                self._head = min(self._head, self._next)
            if self._next >= self._page.size:
                self._page = _NOTHING
                await self._wait()
            self._page = await self._read(self._next)

    async def _wait(self) -> None:
        """Wait for news, at most until it is time to read anyway; write heartbeats meanwhile."""
        clock = asyncio.get_running_loop().time
        look_at = clock() + POLL_SECONDS
        while self._head <= self._next:
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(look_at, self._written_at + HEARTBEAT_SECONDS)):
                    await self._news.wait()
            except TimeoutError:
                if clock() >= self._written_at + HEARTBEAT_SECONDS:
                    await self._write(wire.HEARTBEAT)
                if clock() >= look_at:
                    return

    async def _read(self, start: int | None) -> _Page:
        question = ReadStream(start=LAST_INDEX if start is None else start, max_bytes=CHUNK_BYTES)
        self._news.clear()
        for seconds in _PATIENCE_SECONDS:
            ctx = await self._admit()
            try:
                return _page(await self._ask(ctx, question), start, self._epoch)
            except Unavailable:
                await asyncio.sleep(seconds)
        return _page(await self._ask(await self._admit(), question), start, self._epoch)

    async def _write(self, chunk: bytes) -> None:
        """Write a chunk, once the client has taken enough of what was written before."""
        await self._admit()
        if self._over is not None:
            raise self._over
        try:
            async with asyncio.timeout(SLOW_SECONDS):
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            raise TooSlow from None
        self._written_at = asyncio.get_running_loop().time()

    async def _guard(self) -> None:
        while True:
            seconds = (self.identity.expires_at - datetime.now(UTC)).total_seconds()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(seconds, 0)):
                    await self._doubt.wait()
            self._doubt.clear()
            if self._over is not None:
                raise self._over
            await self._admit()

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _write_end(self, last: bytes) -> bool:
        """Whether the client reads the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._send({"type": "http.response.body", "body": last})
            return True
        return False


def _page(read: StreamPage, start: int | None, epoch: int | None) -> _Page:
    """A page as it will be written; Conflict when the log has not come that far, or is in another epoch."""
    if epoch is not None and read.epoch != epoch:
        raise Conflict(
            f"The log is in epoch {read.epoch}, and this would go on in epoch {epoch}: it could not continue what was "
            "signed of it, and began anew. Compare it with what you hold, then begin with from=0."
        )
    if start is not None and read.size < start:
        raise Conflict(
            f"The log has {read.size} entries, and this would go on at {start}: it is not the log that was read "
            "before, or was restored to an earlier state. Compare it with what you hold, then begin with from=0."
        )
    entries = read.entries
    end = entries[-1].index + 1 if entries else 0
    return _Page(wire.events(read.epoch, entries), len(entries), end, read.size, read.epoch)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks; a library may swallow a cancellation, so ask again."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.1)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # one of them has the reason of the end; another may have failed by it, too
