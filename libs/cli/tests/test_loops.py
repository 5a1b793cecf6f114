"""The end of an event loop."""

import asyncio
import time

import pytest

from causeloop_cli import loops


async def swallow(times: int) -> None:
    """Go on after so many cancellations, as a client does that connects again."""
    for _ in range(times):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue
    await asyncio.sleep(60)


class TestRun:
    def test_ends_though_a_task_swallows_its_cancellation(self) -> None:
        kept = []

        async def work() -> int:
            kept.append(asyncio.create_task(swallow(3)))
            await asyncio.sleep(0)
            return 7

        began = time.monotonic()
        assert loops.run(work()) == 7
        assert kept[0].cancelled()
        assert time.monotonic() - began < 5

    def test_raises_what_the_work_raises(self) -> None:
        async def work() -> None:
            asyncio.get_running_loop().create_task(swallow(1)).set_name("left behind")
            raise KeyError("x")

        with pytest.raises(KeyError):
            loops.run(work())
