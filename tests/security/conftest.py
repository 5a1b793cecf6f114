"""What takes its time is begun with the first test here and looked at in the last (`test_time.py`).

`bystander` and `nothing_changes` are for modules that send what must be refused.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest

from causeloop_common import ids
from tests.isolation.tenants import tenant_tables
from tests.security.wire import Answer, head, say
from tests.support.stack import Person, Stack, content_of

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


@pytest.fixture(scope="module")
async def person(stack: Stack) -> Person:
    person = await stack.sign_up()
    content_of(await person.put("/secrets/there", json={"value": "v"}))
    await person.personal_token("secrets:read")
    return person


@pytest.fixture(scope="module")
async def bystander(stack: Stack, tell: Callable[[str], None]) -> AsyncIterator[Person]:
    """Somebody who works on all the while: every request of theirs succeeds, none takes long."""
    person = await stack.sign_up()
    stopped = asyncio.Event()
    slowest, count = 0.0, 0

    async def work() -> None:
        nonlocal slowest, count
        while not stopped.is_set():
            begun = time.perf_counter()
            content_of(await person.put("/secrets/work", json={"value": "w"}))
            assert content_of(await person.post("/secrets/work/reveal"))["value"] == "w"
            slowest, count = max(slowest, time.perf_counter() - begun), count + 2
            await asyncio.sleep(0.005)

    working = asyncio.create_task(work())
    yield person
    stopped.set()
    await working
    assert slowest < 3
    tell(f"bad input: {count} requests of a bystander meanwhile, all answered, two in at most {slowest * 1000:.0f} ms")


@pytest.fixture(scope="module")
async def rows(
    stack: Stack, bystander: Person, person: Person
) -> AsyncIterator[Callable[[], Awaitable[dict[str, str]]]]:
    """Counts and digests all rows but the bystander's. Refusals are for the log, which is not looked at."""
    others = [ids.tenant_uuid(bystander.id), ids.tenant_uuid(bystander.workspace)]
    async with stack.sql() as sql:
        of_the_log = ("audit.", "vault.checkpoints")  # its heads are signed all the while
        tables = [table for table in await tenant_tables(sql) if not table.startswith(of_the_log)]
        row = {table: "t.event_id" if table.endswith(".outbox") else "t" for table in tables}  # the relay marks them
        digests = " UNION ALL ".join(
            f"SELECT '{table}', count(*) || ' ' || coalesce(sum(hashtextextended(({row[table]})::text, 0)), 0) "
            f"FROM (SELECT * FROM {table}) t WHERE workspace_id <> ALL($1)"
            for table in tables
        )

        async def digest() -> dict[str, str]:
            return dict(await sql.fetch(digests, others))

        yield digest


@pytest.fixture(scope="module")
async def seen() -> dict[str, str]:
    """The rows after the test before."""
    return {}


@pytest.fixture
async def nothing_changes(rows: Callable[[], Awaitable[dict[str, str]]], seen: dict[str, str]) -> AsyncIterator[None]:
    """No row comes, goes or changes but the bystander's."""
    if not seen:
        seen.update(await rows())
    yield
    before = seen.copy()
    seen.update(await rows())
    assert seen == before
