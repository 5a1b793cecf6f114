"""The rows `revocation`, `standing_end` and `data_key_end`: how long what has ended still opens anything.

Every round has something polled at three gateways, or through one gateway at three vaults, until all of them know it,
ends it, and looks for the last success at any of them after the answer had arrived.
"""

import asyncio
import math
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.run import Effort, Row
from causeloop_cli.embedded import Janitor
from tests.support.endings import data_key_outlived, end_membership
from tests.support.poller import outlived
from tests.support.stack import Person, Stack, content_of

REPLICAS = 3
RATE = 200.0
LEAST = 200
BAR_MS = 50.0

Measure = Callable[[int], Coroutine[Any, Any, list[float]]]
"""Seconds from each of so many ends to the last success after it, 0 when there was none."""


def revocation(effort: Effort) -> Row:
    """Last success after the answer to a token's revocation, of three gateways polled 200 times a second each."""
    return _row(effort, _tokens)


def standing_end(effort: Effort) -> Row:
    """Last success after the event that ends a membership, of three gateways polled 200 times a second each."""
    return _row(effort, _standings)


def data_key_end(effort: Effort) -> Row:
    """Last success after the event that ends a data key, of three vaults polled 200 times a second together."""
    return _row(effort, _data_keys)


def _row(effort: Effort, measure: Measure) -> Row:
    after = sorted(1000 * seconds for seconds in asyncio.run(measure(effort.of(max(LEAST, effort.rounds * 40)))))
    p99 = after[math.ceil(len(after) * 0.99) - 1]
    return Row(
        ours=p99,
        reference=None,
        peer=None,
        unit="ms",
        better="lower",
        bar=f"p99 <= {BAR_MS:.0f} ms",
        holds=p99 <= BAR_MS,
        p50_ms=statistics.median(after),
        p99_ms=p99,
    )


async def _tokens(count: int) -> list[float]:
    async with _stack() as stack, stack.replicas("gateway", REPLICAS - 1) as more:
        person, ports = await stack.sign_up(), [stack.port_of(name) for name in ("gateway", *more)]
        return [await _revoke(person, ports) for _ in range(count)]


async def _revoke(person: Person, ports: list[int]) -> float:
    made = await person.personal_token("workspace:read")

    async def revoke() -> None:
        content_of(await person.delete(f"/api-tokens/{made['id']}"), 204)

    return await outlived(ports, made["token"], RATE, revoke)


async def _standings(count: int) -> list[float]:
    after = []
    async with (
        _stack() as stack,
        stack.replicas("gateway", REPLICAS - 1) as more,
        stack.bus_of("tenancy") as tenancy,
    ):
        ports = [stack.port_of(name) for name in ("gateway", *more)]
        for _ in range(count):
            person = await stack.sign_up()
            after.append(await outlived(ports, person.token, RATE, partial(end_membership, tenancy, person)))
    return after


async def _data_keys(count: int) -> list[float]:
    async with _stack() as stack, stack.replicas("vault", REPLICAS - 1), stack.bus_of("vault") as vault:
        return [await data_key_outlived(vault, await stack.sign_up(), RATE) for _ in range(count)]


@asynccontextmanager
async def _stack() -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory() as folder, Janitor() as janitor:
        stack = Stack(Path(folder), janitor, fsync=True)
        try:
            await stack.start_all()
            yield stack
        finally:
            await stack.stop_all()
