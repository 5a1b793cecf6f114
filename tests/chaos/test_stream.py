"""A stream whose foundations are killed, and what its listener notices."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import nats.errors
import nats.js.errors
import pytest

from tests.journeys.test_stream import opened
from tests.support.log import completed_log, stored_log
from tests.support.stack import Person, Stack, until
from tests.support.streams import Follower, announce, assert_exactly_once

pytestmark = pytest.mark.chaos


class TestAStream:
    @pytest.mark.alone
    async def test_whose_gateway_loses_the_bus_is_ended_within_a_second(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        waited = {}
        for how in (signal.SIGSTOP, signal.SIGKILL):
            follower = Follower(fragile, person.token)
            following = await opened(follower)
            began = time.monotonic()
            os.kill(fragile.nats.pid, how)
            await following
            assert follower.ended == "unavailable"
            waited[how] = follower.ended_at - began
            assert waited[how] < 1.2
            if how == signal.SIGSTOP:
                os.kill(fragile.nats.pid, signal.SIGCONT)
            else:
                fragile.nats.restart()
            await fragile.ready()
        shown = ", ".join(f"{how.name} {seconds * 1000:.0f} ms" for how, seconds in waited.items())
        tell(f"stream: ended after the bus's loss within {shown}")

    async def test_does_not_hold_up_a_gateway_that_stops(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        followers = [Follower(fragile, person.token) for _ in range(5)]
        following = [await opened(follower) for follower in followers]
        began = time.monotonic()
        os.kill(fragile.processes["gateway"].pid, signal.SIGTERM)
        await asyncio.gather(*following)
        await asyncio.to_thread(fragile.processes["gateway"].wait, 10)
        seconds = time.monotonic() - began
        await fragile.start("gateway")
        assert [follower.ended for follower in followers] == ["unavailable"] * 5
        assert seconds < 3
        tell(f"stream: a gateway with {len(followers)} streams stopped after {seconds:.1f} s")

    async def test_loses_and_repeats_nothing_when_gateway_audit_bus_and_database_are_killed_in_turn(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        before = len(await person.log())
        follower = Follower(fragile, person.token, start=before)

        over = asyncio.Event()

        async def load() -> int:
            count = 0
            while not over.is_set():
                with suppress(nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):  # the bus is killed too
                    async with fragile.on_bus("vault") as vault:
                        count += len(await announce(vault, person.workspace, 50))
                await asyncio.sleep(0.1)
            return count

        async def kill() -> None:
            for service in ("gateway", "audit"):
                await asyncio.sleep(0.5)
                await fragile.restart(service)
            os.kill(fragile.nats.pid, signal.SIGKILL)
            await asyncio.sleep(0.3)
            fragile.nats.restart()
            await fragile.ready()
            os.kill(fragile.postgres.pid, signal.SIGKILL)
            await asyncio.sleep(0.3)
            fragile.postgres.restart()
            await fragile.ready()
            await asyncio.sleep(0.5)
            over.set()

        loading = asyncio.create_task(load())
        listening = asyncio.create_task(follower.insist(sys.maxsize, seconds=120))
        await kill()
        count = await loading

        async def entered() -> bool:
            entries, _ = await stored_log(fragile, person.workspace)
            return len(entries) >= before + count

        await until("every event is in the log", entered)
        entries = await completed_log(fragile, person)
        listening.cancel()
        await asyncio.wait([listening])
        await follower.insist(len(entries) - before)

        assert_exactly_once(follower.events, before)
        assert [event.data for event in follower.events] == [entry["leaf"] for entry in entries[before:]]
        tell(
            f"stream: {len(follower.events)} entries over {follower.connections} connections while gateway, audit, bus "
            "and database were killed: each exactly once, in order"
        )
