"""HTTP/1.1 byte by byte, for requests that a proper client would not send."""

import asyncio
from contextlib import suppress
from typing import Any, NamedTuple

import orjson


class Answer(NamedTuple):
    """An answer as it came: status 0 when the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, object]:
        """The problem details it carries."""
        assert self.headers.get("content-type") == "application/problem+json", self
        shown: dict[str, object] = orjson.loads(self.body)
        return shown


async def say(port: int, *parts: bytes, pause: float = 0, seconds: float = 30) -> Answer:
    """Send bytes, part by part, and read one answer; it may come before all was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(_answer(reader))
    try:
        for part in parts:
            writer.write(part)
            try:
                await writer.drain()
            except ConnectionError:
                break  # refused in the middle: the answer is there already
            if pause:
                await asyncio.wait([reading], timeout=pause)
                if reading.done():
                    break
        return await asyncio.wait_for(reading, seconds)
    finally:
        reading.cancel()
        writer.close()
        with suppress(ConnectionError):  # a server that refuses a body closes before it was read
            await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, {}, b"")
    return Answer(int(first.split()[1]), headers, body)


def head(method: str, target: str | bytes, **headers: str | bytes) -> bytes:
    """A request's head; underscores in header names are dashes."""
    path = target.encode() if isinstance(target, str) else target
    lines = [method.encode() + b" " + path + b" HTTP/1.1", b"Host: gateway"]
    for name, value in headers.items():
        lines.append(name.replace("_", "-").encode() + b": " + (value.encode() if isinstance(value, str) else value))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def is_problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The problem of a raw answer that has to be this refusal."""
    assert answer.status == status, answer
    assert answer.problem["code"] == code, answer
    assert answer.problem["status"] == status
    assert str(answer.problem["detail"]).endswith(".")
    return dict(answer.problem)
