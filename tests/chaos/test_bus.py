"""The bus is cut and comes back."""

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import nats.errors
import pytest

from causeloop_common.contracts import topology
from causeloop_common.errors import Unavailable
from causeloop_common.messaging import Bus
from causeloop_common.settings import Settings
from tests.support.load import DEADLINE, Load, assert_kept
from tests.support.log import completed_log
from tests.support.proxy import Proxy
from tests.support.stack import Person, Stack, content_of, refused, until

pytestmark = pytest.mark.chaos


async def comes_back(person: Person) -> float:
    """Wait until requests succeed again; how long it took."""
    begun = time.monotonic()

    async def succeeds() -> bool:
        return (await person.put("/secrets/again", json={"value": "v"})).status_code == 200

    await until("requests succeed again", succeeds, seconds=20)
    return time.monotonic() - begun


@pytest.mark.alone
class TestABusThatIsKilled:
    async def test_callers_hear_of_it_at_once_and_nothing_reported_failed_runs_later(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        async with Load(person) as load:
            await until("the load runs", lambda: has_done(load, 30))
            cut = time.monotonic()
            os.kill(fragile.nats.pid, signal.SIGKILL)
            await until("callers are refused", lambda: has_refused(load, 30), seconds=3)
            back = time.monotonic()
            fragile.nats.restart()
            took = await comes_back(person)
            await until("the load succeeds again", lambda: has_done_since(load, 30, back))
        for outcome in load.between(cut + 0.1, back):
            assert (outcome.status, outcome.code) == (503, "unavailable"), outcome
            assert outcome.seconds < 1, outcome
        for outcome in load.done:
            assert outcome.status in (200, 503, 504), outcome
            assert outcome.seconds < DEADLINE + 1, outcome
        await fragile.ready()
        await assert_kept(fragile, person, load.done)
        tell(
            f"chaos: the bus killed: {load.summary()}; back {took * 1000:.0f} ms after it; "
            "each 200 done and recorded once"
        )

    async def test_readiness_says_so_and_a_remembered_caller_is_refused_too(
        self, fragile: Stack, person: Person
    ) -> None:
        content_of(await person.get("/workspace"))  # the gateway remembers the caller now
        os.kill(fragile.nats.pid, signal.SIGKILL)
        try:

            async def is_refused() -> bool:
                try:
                    return (await person.get("/workspace", timeout=0.3)).status_code == 503
                except httpx.ReadTimeout:
                    return False  # it was on its way when the bus was cut

            await until("the remembered caller is refused", is_refused, seconds=1)
            answer = await person.get("/workspace")
            refused(answer, 503, "unavailable")
            assert answer.headers["retry-after"] == "1"
            told_ready = await fragile.readiness("vault")
            assert told_ready["status"] == "not_ready"
            assert told_ready["checks"]["vault.bus"] != "ok"
            assert told_ready["checks"]["vault.database"] == "ok"
        finally:
            fragile.nats.restart()
        await comes_back(person)
        await fragile.ready()


@pytest.mark.alone
class TestABusThatFallsSilent:
    async def test_callers_hear_of_it_within_a_second_and_nothing_reported_failed_runs_later(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        async with Load(person) as load:
            # Not always the same while after the last ping.
            await until("the load runs", lambda: has_done(load, random.randrange(25, 60)))
            cut = time.monotonic()
            os.kill(fragile.nats.pid, signal.SIGSTOP)
            try:
                await until("callers are refused", lambda: has_refused(load, 1), seconds=3)
                first = time.monotonic() - cut
                await until("all callers are refused", lambda: has_refused(load, 40), seconds=3)
                back = time.monotonic()
            finally:
                os.kill(fragile.nats.pid, signal.SIGCONT)
            took = await comes_back(person)
            await until("the load succeeds again", lambda: has_done_since(load, 30, back))
        for outcome in load.between(cut + 1.0, back):
            assert (outcome.status, outcome.code) == (503, "unavailable"), (outcome, outcome.begun - cut)
            assert outcome.seconds < 1, outcome
        for outcome in load.done:
            assert outcome.status in (200, 503, 504), outcome
            assert outcome.seconds < DEADLINE + 1, outcome
        assert load.between(cut + 1.0, back)
        await fragile.ready()
        await assert_kept(fragile, person, load.done)
        tell(
            f"chaos: the bus silent: {load.summary()}; first 503 after {first * 1000:.0f} ms; back {took * 1000:.0f} "
            "ms after it; each 200 done and recorded once"
        )


class TestABusWhoseHostIsGone:
    async def test_is_left_for_the_next_one_though_much_is_unsent(self, fragile: Stack) -> None:
        """nats-py connects anew once everything is sent: to a host that is gone nothing ever is."""
        async with Proxy(fragile.nats.port) as wire:
            environ = {**fragile.environ["vault"], "NATS_URL": f"nats://127.0.0.1:{wire.port}"}
            settings = Settings.load("vault", environ)
            bus = Bus(settings, settings.keyring())
            lost = asyncio.Event()
            bus.on_disconnect.append(lost.set)
            await bus.connect()
            try:
                wire.strand()
                with suppress(nats.errors.Error, Unavailable):
                    for _ in range(64):  # more than all buffers on the way take
                        await bus.client.publish(topology.wake("vault"), b"x" * 1_000_000)
                        await asyncio.sleep(0.005)
                await asyncio.wait_for(lost.wait(), 4)

                async def is_back() -> bool:
                    return bus.is_connected

                await until("there is a new connection", is_back, seconds=2)
                await asyncio.wait_for(bus.flush(), 2)
            finally:
                await asyncio.wait_for(bus.close(), 5)


class TestABusThatLostWhatItAcknowledged:
    async def test_is_given_it_again(self, fragile: Stack, person: Person, tmp_path: Path) -> None:
        """As after a power failure: the server syncs its files every two minutes."""
        content_of(await person.put("/secrets/before", json={"value": "v"}))
        await completed_log(fragile, person)
        fragile.kill("audit")  # so that nobody has read what is to be lost
        os.kill(fragile.nats.pid, signal.SIGKILL)
        streams, kept = fragile.nats.home / "jetstream", tmp_path / "jetstream"
        await until("the server has ended", lambda: has_ended(fragile))
        shutil.copytree(streams, kept)
        fragile.nats.restart()
        await comes_back(person)
        for number in range(5):
            content_of(await person.put(f"/secrets/lost/{number}", json={"value": "v"}))
        await until("the bus acknowledged them", lambda: nothing_waits(fragile))
        os.kill(fragile.nats.pid, signal.SIGKILL)
        await until("the server has ended", lambda: has_ended(fragile))
        shutil.rmtree(streams)
        shutil.copytree(kept, streams)
        fragile.nats.restart()
        await comes_back(person)
        content_of(await person.put("/secrets/after", json={"value": "v"}))  # a number that was given before
        await fragile.start("audit")
        entries = await completed_log(fragile, person)
        written = [entry["action"] for entry in entries].count("vault.secret_written")
        async with fragile.sql() as sql:
            versions = await sql.fetchval(
                "SELECT sum(version) FROM vault.secrets WHERE workspace_id = $1", entries[0]["workspace_id"]
            )
        assert written == versions


async def has_done(load: Load, least: int) -> bool:
    return load.count(200) >= least


async def has_done_since(load: Load, least: int, since: float) -> bool:
    return sum(outcome.status == 200 for outcome in load.between(since, time.monotonic())) >= least


async def has_refused(load: Load, least: int) -> bool:
    return load.count(503) >= least


async def has_ended(stack: Stack) -> bool:
    return not stack.nats.alive()


async def nothing_waits(stack: Stack) -> bool:
    async with stack.sql() as sql:
        return not await sql.fetchval("SELECT count(*) FROM vault.outbox WHERE published_at IS NULL")
