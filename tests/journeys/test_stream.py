"""A workspace's log, followed over HTTP through the whole house."""

import asyncio
import os
import random
import time
from collections.abc import Callable

import pytest
from nats.aio.client import Client

from tests.support.log import stored_log
from tests.support.stack import Person, Stack, content_of, until
from tests.support.streams import Follower, announce, assert_exactly_once

EVENTS = int(os.environ.get("STREAM_EVENTS", "1000"))
"""Of the load during which a listener is cut off; 10 000 by hand."""

CUTS = 10


async def opened(follower: Follower) -> asyncio.Task[None]:
    """Follow in the background, once the stream is open."""
    following = asyncio.create_task(follower.follow(lambda: False))

    async def is_open() -> bool:
        return follower.is_open

    await until("the stream is open", is_open)
    return following


class TestAListener:
    async def test_that_is_cut_off_ten_times_during_a_load_receives_each_event_exactly_once_in_order(
        self, stack: Stack, owner: Person, tell: Callable[[str], None]
    ) -> None:
        generator = random.Random(7)
        most = EVENTS * 9 // 10
        cut_after = sorted(generator.sample(range(EVENTS // 50, most), CUTS))
        all_cut = asyncio.Event()
        log = await owner.log()
        began = time.monotonic()
        follower = Follower(stack, owner.token, start=len(log))

        async def run(vault: Client) -> list[str]:
            first = await announce(vault, owner.workspace, most)
            await all_cut.wait()  # so that it never ends before the last cut
            return first + await announce(vault, owner.workspace, EVENTS - most)

        async with stack.on_bus("vault") as vault:
            load = asyncio.create_task(run(vault))
            for count in cut_after:
                await follower.follow(lambda count=count: len(follower.events) >= count)  # type: ignore[misc]
            all_cut.set()
            await follower.follow(lambda: len(follower.events) >= EVENTS)
            made = await load
        seconds = time.monotonic() - began

        assert follower.connections == CUTS + 1
        assert len(follower.events) == EVENTS
        assert_exactly_once(follower.events, len(log))
        assert sorted(follower.ids()) == sorted(made)
        entries, head = await stored_log(stack, owner.workspace)
        assert head["size"] == len(log) + EVENTS
        assert [event.data for event in follower.events] == [entry["leaf"] for entry in entries[len(log) :]]
        tell(
            f"stream: {EVENTS} events during {CUTS} cut-offs in {seconds:.1f} s: each received exactly once, in order, "
            "byte by byte as it lies in the log"
        )

    async def test_of_another_workspace_hears_nothing_of_it(
        self, stack: Stack, owner: Person, stranger: Person
    ) -> None:
        ours, theirs = Follower(stack, owner.token, start=0), Follower(stack, stranger.token, start=0)
        following = [await opened(ours), await opened(theirs)]
        for number in range(3):
            content_of(await owner.put(f"/secrets/ours/{number}", json={"value": "x"}))
            content_of(await stranger.put(f"/secrets/theirs/{number}", json={"value": "x"}))
        entries = [await person.log(least=6) for person in (owner, stranger)]

        async def all_came() -> bool:
            return len(ours.events) >= 6 and len(theirs.events) >= 6

        await until("both heard their own", all_came)
        for task in following:
            task.cancel()
        for follower, log in zip((ours, theirs), entries, strict=True):
            assert_exactly_once(follower.events)
            assert follower.ids() == [entry["id"] for entry in log]

    @pytest.mark.alone
    async def test_hears_of_an_act_soon_after_its_answer(
        self, stack: Stack, owner: Person, tell: Callable[[str], None]
    ) -> None:
        follower = Follower(stack, owner.token)
        following = await opened(follower)
        waited = []
        for number in range(20):
            content_of(await owner.put(f"/secrets/soon/{number}", json={"value": "x"}))
            answered = time.monotonic()

            async def came(least: int = number + 1) -> bool:
                return len(follower.events) >= least

            await until("it is heard of", came, seconds=3, every=0.002)
            waited.append(time.monotonic() - answered)
        following.cancel()
        median = sorted(waited)[len(waited) // 2]
        assert median < 0.5
        tell(f"stream: an act is heard of {median * 1000:.0f} ms after its answer (median of {len(waited)})")


class TestItsEnd:
    @pytest.mark.alone
    async def test_comes_with_the_revocation_of_its_token(
        self, stack: Stack, owner: Person, tell: Callable[[str], None]
    ) -> None:
        waited = []
        for _ in range(10):
            made = await owner.personal_token("audit:stream")
            follower = Follower(stack, made["token"])
            following = await opened(follower)
            content_of(await owner.delete(f"/api-tokens/{made['id']}"), 204)
            answered = time.monotonic()
            await following
            assert follower.ended == "unauthorized"
            waited.append(follower.ended_at - answered)
        worst = max(waited)
        assert worst < 0.5
        tell(
            f"stream: ended by revocation at most {max(worst, 0) * 1000:.0f} ms after its answer ({len(waited)} times)"
        )

    async def test_comes_with_the_end_of_its_session(self, stack: Stack, owner: Person) -> None:
        follower = Follower(stack, owner.token)
        following = await opened(follower)
        content_of(await owner.post("/auth/logout"), 204)
        await following
        assert follower.ended == "unauthorized"

    async def test_is_one_line_of_the_access_log_and_no_latency(self, stack: Stack, owner: Person) -> None:
        follower = Follower(stack, owner.token)
        following = await opened(follower)
        assert await stack.metric("gateway", "causeloop_streams_open") >= 1
        following.cancel()

        async def logged() -> list[dict[str, object]]:
            lines = stack.log("gateway")
            return [
                line for line in lines if line.get("tenant") == owner.workspace and "stream" in str(line["message"])
            ]

        lines = await until("the gateway logged the stream", logged)
        assert [line["message"] for line in lines] == ["GET /v1/audit/stream 200"]
        metrics = await stack.metrics("gateway")
        assert 'causeloop_http_requests_total{route="/v1/audit/stream",status="200"}' in metrics
        assert 'causeloop_http_seconds_count{route="/v1/audit/stream"}' not in metrics
