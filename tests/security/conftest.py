"""What takes its time is begun with the first test here and looked at in the last (`test_time.py`)."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from tests.security.wire import Answer, head, say
from tests.stack import Stack

SLOW = 30


class Begun(NamedTuple):
    """Requests under way, since when, and a session token that is about to expire."""

    since: float
    bodies: list[asyncio.Task[Answer]]
    heads: list[asyncio.Task[Answer]]
    short_lived: str


@pytest.fixture(scope="session", autouse=True)
async def begun(stack: Stack) -> AsyncIterator[Begun]:
    person = await stack.sign_up()
    request = head(
        "PUT", "/v1/secrets/slow", Authorization=f"Bearer {person.token}", Content_Length="1000000",
        Content_Type="application/json",
    )  # fmt: skip
    slow_body = [request, b'{"value":"', *[b"v"] * 200]
    slow_head = [b"GET /v1/secrets HTTP/1.1\r\nHost: gateway\r\n", *[b"X: x\r\n"] * 200]
    bodies = [asyncio.create_task(say(stack.port, *slow_body, pause=0.4, seconds=60)) for _ in range(SLOW)]
    heads = [asyncio.create_task(say(stack.port, *slow_head, pause=0.4, seconds=60)) for _ in range(SLOW)]
    yield Begun(time.monotonic(), bodies, heads, await stack.session(person.subject, ttl_seconds=1))
    for task in (*bodies, *heads):
        task.cancel()
    await asyncio.gather(*bodies, *heads, return_exceptions=True)
