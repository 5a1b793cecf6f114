"""The row `stream_latency`: from the begin of an act to its entry in an open stream, at 200 acts a second.

Secrets are written over HTTP on a fixed schedule, whether earlier ones are answered or not, and one client follows the
workspace's log as server-sent events. Each act carries a request id, which is in its entry.
"""

import asyncio
import contextlib
import json
import time
from typing import Any

import uvloop

from bench.rows import Bed, bed
from bench.run import Effort, Measure, Row, median

RATE = 200
CONNECTIONS = 32
LIMIT_MS = 100.0
PATIENCE_SECONDS = 20.0
QUIET = 20
"""Acts that are seen before the clock starts: connections, statements and the stream are warm then."""


def stream_latency(effort: Effort) -> Row:
    """Act to stream: the time between sending the request and receiving the entry."""
    with bed() as ready:
        turns = [uvloop.run(_turn(ready, max(1, round(effort.seconds * RATE)))) for _ in range(effort.rounds)]
    p50, p99 = median(turns, "p50_ms"), median(turns, "p99_ms")
    return Row(p99, None, None, "ms", "lower", f"p99 <= {LIMIT_MS:g} ms at {RATE}/s", p99 <= LIMIT_MS, p50, p99)


async def _turn(ready: Bed, count: int) -> dict[str, Any]:
    run = f"{time.time_ns():x}"
    began: dict[str, float] = {}
    seen: dict[str, float] = {}
    all_seen = asyncio.Event()
    stream = asyncio.create_task(_follow(ready, began, seen, all_seen))
    free: asyncio.Queue[_Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await _Connection.open(ready))
    try:
        await asyncio.sleep(0.2)  # until the stream is open
        await _act(free, began, [f"{run}-warm-{number}" for number in range(QUIET)], seen, all_seen)
        began.clear()
        seen.clear()
        await _act(free, began, [f"{run}-{number}" for number in range(count)], seen, all_seen)
    finally:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        while not free.empty():
            free.get_nowait().close()
    taken = sorted(1000 * (seen[act] - at) for act, at in began.items())
    return {"p50_ms": taken[len(taken) // 2], "p99_ms": taken[int(len(taken) * 0.99)]}


async def _act(
    free: "asyncio.Queue[_Connection]",
    began: dict[str, float],
    acts: list[str],
    seen: dict[str, float],
    all_seen: asyncio.Event,
) -> None:
    """Do these acts on schedule, and wait until the stream has shown all of them."""
    first = time.perf_counter() + 0.05
    doing = []
    for number, act in enumerate(acts):
        await asyncio.sleep(max(0, first + number / RATE - time.perf_counter()))
        began[act] = first + number / RATE
        doing.append(asyncio.create_task(_put(free, act, number)))
    await asyncio.gather(*doing)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not began.keys() <= seen.keys():
            all_seen.clear()
            await all_seen.wait()


async def _put(free: "asyncio.Queue[_Connection]", act: str, number: int) -> None:
    connection = await free.get()
    await connection.put(act, number)
    free.put_nowait(connection)


async def _follow(ready: Bed, began: dict[str, float], seen: dict[str, float], all_seen: asyncio.Event) -> None:
    """Note when the entry of each act arrives."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ready.port, limit=2**22)
    with contextlib.closing(writer):
        head = f"GET /v1/audit/stream HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {ready.token}\r\n"
        writer.write(f"{head}accept: text/event-stream\r\n\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"data:"):
                now = time.perf_counter()
                act = json.loads(line[5:]).get("request")
                if act in began:
                    seen[act] = now
                    all_seen.set()
    raise RuntimeError("the stream ended")


class _Connection:
    """A kept connection that does one act after the other."""

    def __init__(self, ready: Bed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ready = ready
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, ready: Bed) -> "_Connection":
        """Connected."""
        return cls(ready, *await asyncio.open_connection("127.0.0.1", ready.port))

    def close(self) -> None:
        """End it."""
        self._writer.close()

    async def put(self, act: str, number: int) -> None:
        """Write a secret under this request id; RuntimeError for a refusal."""
        body = json.dumps({"value": "s" * 64})
        self._writer.write(
            f"PUT /v1/secrets/bench/{number % CONNECTIONS} HTTP/1.1\r\nhost: bench\r\nx-request-id: {act}\r\n"
            f"authorization: Bearer {self._ready.token}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        status = await self._reader.readline()
        length = 0
        while (line := await self._reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        answer = await self._reader.readexactly(length)
        if not status.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"an act was answered {status!r}: {answer[:300]!r}")


ROWS: dict[str, Measure] = {"stream_latency": stream_latency}
