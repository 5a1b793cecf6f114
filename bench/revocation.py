"""The row `revocation`: how long a revoked token still opens anything, at three gateways at once.

Every round makes a personal access token, has it polled at three gateways until all of them know it, revokes it
through one of them, and looks for the last success at any of them after the answer to the revocation had arrived.
"""

import asyncio
import math
import statistics
import tempfile
from pathlib import Path

from bench.run import Effort, Row
from causeloop_cli.embedded import Janitor
from tests.support.poller import outlived
from tests.support.stack import Person, Stack, told

GATEWAYS = 3
RATE = 200.0
LEAST = 200
BAR_MS = 50.0


def revocation(effort: Effort) -> Row:
    """Last success after the answer to a revocation, of three gateways polled 200 times a second each."""
    after = sorted(asyncio.run(_measure(effort.of(max(LEAST, effort.rounds * 40)))))
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


async def _measure(revocations: int) -> list[float]:
    """Milliseconds from each answer to the last success after it, 0 when there was none."""
    with tempfile.TemporaryDirectory() as folder, Janitor() as janitor:
        stack = Stack(Path(folder), janitor, fsync=True)
        try:
            await stack.start_all()
            person = await stack.sign_up()
            async with stack.replicas("gateway", GATEWAYS - 1) as more:
                ports = [stack.port_of(name) for name in ("gateway", *more)]
                return [1000 * await _revoke(person, ports) for _ in range(revocations)]
        finally:
            await stack.stop_all()


async def _revoke(person: Person, ports: list[int]) -> float:
    made = await person.personal_token("workspace:read")

    async def revoke() -> None:
        told(await person.delete(f"/api-tokens/{made['id']}"), 204)

    return await outlived(ports, made["token"], RATE, revoke)
