"""The load generator: keep-alive connections that send one prepared request after the other, in a process of its own.

    python load.py   with {"host", "port", "requests" (for each connection those that it repeats, in base64), "seconds",
                     "each" (each is sent once in any case)} on standard input

Prints {"rate", "p50_ms", "p99_ms", "errors", "count"}. A response must have a Content-Length, or be chunked.
"""

import asyncio
import base64
import itertools
import json
import sys
import time
from typing import Any

import uvloop


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(
        self, requests: list[bytes], least: int, until: float, latencies: list[float], failed: list[bytes]
    ) -> None:
        self._requests = itertools.cycle(requests)
        self._left = least
        self._until = until
        self._latencies = latencies
        self._failed = failed
        self._buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._failed.append(b"connection lost")
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        headers = self._buffer[: head + 2].lower()
        if (at := headers.find(b"content-length:")) >= 0:
            if len(self._buffer) < head + 4 + int(headers[at + 15 : headers.find(b"\r\n", at)]):
                return
        elif not self._buffer.endswith(b"\r\n0\r\n\r\n"):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if not self._buffer.startswith(b"HTTP/1.1 20"):
            self._failed.append(self._buffer[:300])
        self._buffer = b""
        self._left -= 1
        if now < self._until or self._left > 0:
            self._send()
        else:
            self.done.set_result(None)
            self._transport.close()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))


async def _run(order: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    failed: list[bytes] = []
    started = time.perf_counter()
    until = started + order["seconds"]
    clients = []
    for encoded in order["requests"]:
        requests = [base64.b64decode(request) for request in encoded]
        client = _Client(requests, len(requests) if order["each"] else 1, until, latencies, failed)
        await loop.create_connection(lambda client=client: client, order["host"], order["port"])  # type: ignore[misc]
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    seconds = time.perf_counter() - started
    latencies.sort()
    return {
        "rate": len(latencies) / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
        "count": len(latencies),
        "errors": len(failed),
        "first_error": failed[0].decode(errors="replace") if failed else None,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_run(json.loads(sys.stdin.readline())))))
