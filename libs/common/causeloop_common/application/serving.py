"""A process with any number of services, until it is asked to stop."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Sequence
from typing import Any

from causeloop_common.application import exports
from causeloop_common.application.listener import Listener
from causeloop_common.application.operations import Operations
from causeloop_common.application.service import Application, Check

_log = logging.getLogger(__name__)

_GC_THRESHOLDS = (20_000, 20, 50)
"""Objects from before serving stay for ever, so nothing need scan them; a request's objects die by themselves."""


_LARGEST_HEAD = 64 * 1024


def settle_memory() -> None:
    """Leave what is there now to no garbage collector, and have it look at new things more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def operating(applications: Sequence[Application]) -> Listener:
    """The listener of a process's operations.

    It reads HTTP with h11, which keeps 64 KiB of a head at most, where httptools keeps all, and refuses one without a
    host. It is slower, and asked for little.
    """
    settings = applications[0].settings
    return Listener.on(
        Operations(applications),
        settings.ops_host,
        settings.ops_port,
        http="h11",
        ws="none",
        h11_max_incomplete_event_size=_LARGEST_HEAD,
    )


async def run(applications: Sequence[Application], *, ready: Check | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal skips the delay. Raises what kept it from starting."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    exported = exports.metrics([application.settings for application in applications])
    operations = operating(applications)
    listeners = [operations]
    served = [asyncio.create_task(operations.serve())]
    started: list[Application] = []
    if exported is not None:
        exported.start()
    try:
        starting = asyncio.ensure_future(asyncio.gather(*(application.start() for application in applications)))
        stopping = asyncio.create_task(stop.wait())
        first: list[asyncio.Future[Any]] = [starting, stopping, *served]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set() or served[0].done():
            while not starting.done():  # a library may swallow a cancellation: ask again
                starting.cancel()
                await asyncio.wait([starting], timeout=0.2)
            if not starting.cancelled():
                starting.exception()  # or it would be reported as lost
            if served[0].done():
                await served[0]
            return
        await starting
        started = list(applications)
        for application in applications:
            if (listener := application.listener()) is not None:
                listeners.append(listener)
                served.append(asyncio.create_task(listener.serve()))
                while not listener.started:
                    if served[-1].done():
                        await served[-1]
                        return
                    await asyncio.sleep(0.01)
        settle_memory()
        if ready is not None:
            await ready()
        watched = [asyncio.create_task(application.failed()) for application in applications]
        watched_all: list[asyncio.Task[Any]] = [stopping, *watched, *served]
        done, _ = await asyncio.wait(watched_all, return_when=asyncio.FIRST_COMPLETED)
        if stopping in done:
            for application in applications:
                application.leave()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), max(listener.delay for listener in listeners))
        for task in (*watched, stopping):
            task.cancel()
        if stopping not in done:
            ended = next((task.result() for task in watched if task in done), "a listener ended")
            _log.critical("stopping: %s", ended)
            raise SystemExit(1)
    finally:
        for listener in reversed(listeners):
            listener.should_exit = True
        await asyncio.gather(*served, return_exceptions=True)
        await asyncio.gather(*(application.stop() for application in started), return_exceptions=True)
        if exported is not None:
            await exported.stop()
