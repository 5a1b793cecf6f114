"""Event loops that end: whatever a library does with a cancellation."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_AGAIN_SECONDS = 0.2


def run(work: Coroutine[Any, Any, T], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """Run the work in an event loop of its own; its result.

    `asyncio.run` cancels once what the work leaves behind, and waits for it. The client of NATS may swallow that
    while it connects again, and the process would stand there for ever.
    """
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_whole(work))


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        own = asyncio.current_task()
        while left := [task for task in asyncio.all_tasks() if task is not own]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_AGAIN_SECONDS)
