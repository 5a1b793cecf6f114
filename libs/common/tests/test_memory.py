"""Memories: how long and how much they keep, what makes them forget, and that a race leaves nothing stale."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY

from causeloop_common import ids, memory as module
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import events
from causeloop_common.errors import Timeout, Unauthorized, Unavailable
from causeloop_common.memory import Memories, Memory, of_person
from causeloop_common.messaging import Bus, event_headers
from causeloop_common.telemetry import metrics

Connect = Callable[..., Awaitable[Bus]]

LIFE = 30
MOST = 10


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Where values come from: `load` answers when the test lets it."""

    def __init__(self, *tags: str) -> None:
        self.tags = tags
        self.asked = 0
        self.value: str | None = "first"
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def load(self) -> tuple[str | None, tuple[str, ...]]:
        self.asked += 1
        value = self.value
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return value, self.tags


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def memory(time: Time) -> Memory[str, str | None]:
    return Memory("test", seconds=LIFE, most=MOST, monotonic=time)


def keep(memory: Memory[str, str | None], key: str, *tags: str) -> None:
    memory.keep(memory.begin(), key, f"value of {key}", *tags)


def kept(memory: Memory[str, str | None], keys: str) -> str:
    """Those of the keys that have a value."""
    return "".join(key for key in keys if memory.get(key) is not None)


async def asking(memory: Memory[str, str | None], source: Source, count: int) -> list[asyncio.Task[str | None]]:
    """So many who have asked, and wait."""
    tasks = [asyncio.create_task(memory.recall("a", source.load)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


class TestLife:
    def test_a_value_lives_its_time_and_use_does_not_prolong_it(
        self, memory: Memory[str, str | None], time: Time
    ) -> None:
        keep(memory, "a")
        for second in range(LIFE):
            time.now = second
            assert memory.get("a") == "value of a"
        time.now = LIFE
        assert memory.get("a") is None
        time.now = 0
        assert memory.get("a") is None

    def test_it_counts_from_the_question(self, memory: Memory[str, str | None], time: Time) -> None:
        """The value was true then; one that was long on its way is not good for longer."""
        began = memory.begin()
        time.now = 5
        memory.keep(began, "a", "value")
        time.now = LIFE - 1
        assert memory.get("a") == "value"
        time.now = LIFE
        assert memory.get("a") is None

    def test_a_number_of_values_is_kept_and_the_oldest_goes_first(self, memory: Memory[str, str | None]) -> None:
        """All at once would be asked for again in the same moment."""
        for key in "abcdefghij":
            keep(memory, key)
        keep(memory, "a")  # asked for again: now it is the youngest
        keep(memory, "k")
        assert kept(memory, "abcdefghijk") == "acdefghijk"

    def test_what_has_gone_leaves_nothing_behind(self, memory: Memory[str, str | None], time: Time) -> None:
        for number in range(1000):
            keep(memory, str(number), f"tag {number % 7}", f"own {number}")
            assert len(memory) <= MOST
            assert len(memory._by_tag) <= 2 * MOST
        time.now = LIFE
        for number in range(1000):
            memory.get(str(number))
        assert (len(memory), memory._by_tag) == (0, {})

    def test_what_is_too_old_goes_when_others_come(self, memory: Memory[str, str | None], time: Time) -> None:
        for key in "abcde":
            keep(memory, key, "red")
        time.now = LIFE
        keep(memory, "f", "red")
        assert len(memory) == 1
        assert memory._by_tag.keys() == {"red"}


class TestForgetting:
    def test_a_tag_drops_every_value_that_has_it_and_no_other(self, memory: Memory[str, str | None]) -> None:
        keep(memory, "a", "red", "round")
        keep(memory, "b", "red")
        keep(memory, "c", "blue")
        memory.forget("red")
        assert kept(memory, "abc") == "c"
        memory.forget("unknown")
        memory.forget("round")
        keep(memory, "a", "red")
        assert kept(memory, "abc") == "ac"

    def test_a_value_on_its_way_is_not_kept_when_its_tag_was_forgotten(self, memory: Memory[str, str | None]) -> None:
        began = memory.begin()
        memory.forget("red")
        memory.keep(began, "a", "stale", "red")
        memory.keep(began, "b", "good", "blue")
        keep(memory, "c", "red")
        assert kept(memory, "abc") == "bc"

    def test_a_lost_bus_drops_everything_and_what_is_on_its_way(self, memory: Memory[str, str | None]) -> None:
        keep(memory, "a", "red")
        began = memory.begin()
        memory.clear()
        memory.keep(began, "b", "stale", "blue")
        assert kept(memory, "ab") == ""

    def test_tags_that_nobody_has_are_not_noted_without_bound(self, memory: Memory[str, str | None]) -> None:
        began = memory.begin()
        for number in range(1000):
            memory.forget(str(number))
            assert len(memory._forgotten) <= MOST
        memory.keep(began, "a", "stale", "0")  # that it was forgotten is no longer noted: nothing of then is kept
        memory.keep(began, "b", "good", "blue")
        keep(memory, "c", "0")
        assert kept(memory, "abc") == "c"


class TestRecall:
    async def test_loads_once_and_then_recalls(self, memory: Memory[str, str | None], time: Time) -> None:
        source = Source("red")
        assert [await memory.recall("a", source.load) for _ in range(3)] == ["first"] * 3
        assert source.asked == 1
        memory.forget("red")
        assert await memory.recall("a", source.load) == "first"
        time.now = LIFE
        assert await memory.recall("a", source.load) == "first"
        assert source.asked == 3

    async def test_many_who_ask_at_once_share_one_load(self, memory: Memory[str, str | None]) -> None:
        source = Source()
        source.open.clear()
        tasks = await asking(memory, source, 50)
        source.open.set()
        assert await asyncio.gather(*tasks) == ["first"] * 50
        assert source.asked == 1

    async def test_they_share_its_error_which_is_not_kept(self, memory: Memory[str, str | None]) -> None:
        source = Source()
        source.open.clear()
        source.error = LookupError("gone")
        tasks = await asking(memory, source, 3)
        source.open.set()
        assert [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == [LookupError] * 3
        source.error = None
        assert await memory.recall("a", source.load) == "first"
        assert source.asked == 2

    async def test_nothing_found_is_shared_and_not_kept(self, memory: Memory[str, str | None]) -> None:
        source = Source()
        source.value = None
        source.open.clear()
        tasks = await asking(memory, source, 3)
        source.open.set()
        assert await asyncio.gather(*tasks) == [None] * 3
        source.value = "later"
        assert await memory.recall("a", source.load) == "later"

    async def test_who_asks_after_something_was_forgotten_gets_nothing_of_before(
        self, memory: Memory[str, str | None]
    ) -> None:
        """The load that began before may bring what has just been revoked."""
        source = Source("red")
        source.open.clear()
        (early,) = await asking(memory, source, 1)
        source.value = "second"
        memory.forget("red")
        late = await asking(memory, source, 2)
        source.open.set()
        assert [await early, *await asyncio.gather(*late)] == ["first", "second", "second"]
        assert source.asked == 2
        assert memory.get("a") == "second"

    async def test_one_who_gives_up_takes_nothing_from_the_others(self, memory: Memory[str, str | None]) -> None:
        source = Source()
        source.open.clear()
        first, second, third = await asking(memory, source, 3)
        second.cancel()  # it only waits
        first.cancel()  # it loads: the third has to do so now
        await asyncio.sleep(0)
        source.open.set()
        assert await third == "first"
        assert (first.cancelled(), second.cancelled(), source.asked) == (True, True, 2)

    async def test_to_renew_loads_in_any_case(self, memory: Memory[str, str | None]) -> None:
        source = Source()
        assert await memory.recall("a", source.load) == "first"
        source.value = "second"
        assert await memory.renew("a", source.load) == "second"
        assert memory.get("a") == "second"
        source.value = None
        assert await memory.renew("a", source.load) is None
        assert memory.get("a") is None


async def turn_over(memory: Memory[str, str | None]) -> None:
    """What is asked for meanwhile is there."""
    while memory._meanwhile:
        await asyncio.gather(*memory._meanwhile.values(), return_exceptions=True)
        await asyncio.sleep(0)


class TestUse:
    async def test_in_the_last_part_of_a_life_has_the_value_asked_for_anew(
        self, memory: Memory[str, str | None], time: Time
    ) -> None:
        source = Source("red")
        await memory.recall("a", source.load)
        for second in range(LIFE * 4 // 5):
            time.now = second
            assert memory.get("a", source.load) == "first"
        assert source.asked == 1
        source.value, time.now = "second", LIFE - 1
        assert memory.get("a", source.load) == "first"  # nobody waits
        await turn_over(memory)
        assert memory.get("a") == "second"
        time.now += LIFE - 1
        assert memory.get("a") == "second"
        time.now += 1
        assert memory.get("a") is None

    async def test_it_is_asked_for_once_however_many_use_it(self, memory: Memory[str, str | None], time: Time) -> None:
        source = Source("red")
        await memory.recall("a", source.load)
        source.open.clear()
        time.now = LIFE - 1
        for _ in range(5):
            assert memory.get("a", source.load) == "first"
            await asyncio.sleep(0)
        source.open.set()
        await turn_over(memory)
        assert source.asked == 2

    @pytest.mark.parametrize("error", [Unavailable("away"), Timeout("late")], ids=["unavailable", "timeout"])
    async def test_without_an_answer_the_value_lives_to_its_end_and_no_longer(
        self, memory: Memory[str, str | None], time: Time, error: Exception
    ) -> None:
        source = Source("red")
        await memory.recall("a", source.load)
        source.error, time.now = error, LIFE - 1
        assert memory.get("a", source.load) == "first"
        await turn_over(memory)
        assert memory.get("a", source.load) == "first"
        await turn_over(memory)
        time.now = LIFE
        assert memory.get("a", source.load) is None

    @pytest.mark.parametrize("refused", [True, False], ids=["refused", "nothing found"])
    async def test_what_is_true_no_more_is_dropped_at_once(
        self, memory: Memory[str, str | None], time: Time, refused: bool
    ) -> None:
        source = Source("red")
        await memory.recall("a", source.load)
        source.value, source.error = None, Unauthorized("revoked") if refused else None
        time.now = LIFE - 1
        assert memory.get("a", source.load) == "first"
        await turn_over(memory)
        assert memory.get("a") is None

    async def test_a_value_that_is_forgotten_meanwhile_is_not_brought_back(
        self, memory: Memory[str, str | None], time: Time
    ) -> None:
        source = Source("red")
        await memory.recall("a", source.load)
        source.open.clear()
        time.now = LIFE - 1
        memory.get("a", source.load)
        await asyncio.sleep(0)
        memory.forget("red")
        source.open.set()
        await turn_over(memory)
        assert memory.get("a") is None

    async def test_not_all_are_asked_for_at_once(self, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_MEANWHILE", 3)
        memory: Memory[str, str | None] = Memory("test", seconds=LIFE, most=MOST, monotonic=time)
        source = Source("red")
        for key in "abcdef":
            keep(memory, key)
        source.open.clear()
        time.now = LIFE - 1
        assert all(memory.get(key, source.load) for key in "abcdef")
        await asyncio.sleep(0)
        assert source.asked == 3
        source.open.set()
        await turn_over(memory)


class TestMetrics:
    async def test_count_lookups_evictions_and_values(self, memory: Memory[str, str | None]) -> None:
        def counted(metric: Any, *labels: str) -> float:
            return float(metric.labels("test", *labels)._value.get())

        lookups = {word: counted(metrics.MEMORY_LOOKUPS, word) for word in ("hit", "miss", "shared")}
        evictions = {word: counted(metrics.MEMORY_EVICTIONS, word) for word in ("event", "bus", "full")}
        source = Source()
        source.open.clear()
        tasks = await asking(memory, source, 3)
        source.open.set()
        await asyncio.gather(*tasks)
        await memory.recall("a", source.load)
        after = {word: counted(metrics.MEMORY_LOOKUPS, word) - before for word, before in lookups.items()}
        assert after == {"hit": 1, "miss": 1, "shared": 2}

        for number in range(MOST):
            keep(memory, str(number), "red")
        assert REGISTRY.get_sample_value("causeloop_memory_values", {"memory": "test"}) == MOST
        memory.forget("red")
        keep(memory, "a")
        memory.clear()
        after = {word: counted(metrics.MEMORY_EVICTIONS, word) - before for word, before in evictions.items()}
        assert after == {"event": MOST, "bus": 1, "full": 1}


class TestDeclarations:
    def test_an_event_that_makes_others_forget_is_followed_by_somebody(self) -> None:
        followed = {kind for service in topology.SERVICES for kind in topology.forgetting(service)}
        declared = {kind for owner in topology.ANNOUNCERS.values() for kind in events(owner) if kind.forgets}
        assert followed == declared


@pytest.fixture
def remembering(bus: Connect) -> Callable[..., Awaitable["Replica"]]:
    """Starts a replica of a service that remembers something: `await remembering("gateway")`."""

    async def start(service: str) -> "Replica":
        replica = Replica(await bus(service))
        await replica.bus.start()
        await replica.bus.flush()
        return replica

    return start


class Replica:
    """A service's memories on the bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.memories = Memories(bus)
        self.forgotten: list[str] = []
        self.memories.on_forget.append(self.forgotten.append)
        self.one: Memory[str, str | None] = self.memories.memory("one", seconds=LIFE, most=MOST)
        self.other: Memory[str, str | None] = self.memories.memory("other", seconds=LIFE, most=MOST)

    async def forgot(self) -> str:
        async with asyncio.timeout(5):
            while not self.forgotten:  # noqa: ASYNC110  the bus wakes nobody here
                await asyncio.sleep(0.001)
        return self.forgotten.pop()


def an_event(kind: str, tenant: str, target: str) -> Announced:
    return Announced(ids.new("evt"), tenant, kind, datetime.now(UTC), b"{}", actor="svc_x", target=target)


class TestEvents:
    @pytest.mark.parametrize(
        ("service", "kind", "tags"),
        [
            ("auth", "auth.token_revoked", lambda tenant, target: target),
            ("tenancy", "tenancy.member_added", of_person),
            ("vault", "vault.keyring_rotated", lambda tenant, target: tenant),
        ],
    )
    async def test_make_every_replica_that_follows_them_forget_what_they_declare(
        self,
        bus: Connect,
        remembering: Callable[..., Awaitable[Replica]],
        service: str,
        kind: str,
        tags: Callable[[str, str], str],
    ) -> None:
        tenant, target = ids.new("ws"), ids.new("usr")
        forgotten = tags(tenant, target)
        replicas = [await remembering("vault" if service == "vault" else "gateway") for _ in range(3)]
        for replica in replicas:
            keep(replica.one, "a", forgotten)
            keep(replica.one, "b", "other")
            keep(replica.other, "a", "other", forgotten)
        announcing = await bus(service)
        await announcing.publish(an_event(kind, tenant, target))
        for replica in replicas:
            assert await replica.forgot() == forgotten
            assert (kept(replica.one, "ab"), kept(replica.other, "a")) == ("b", "")

    async def test_are_followed_from_the_relay_too(
        self, bus: Connect, remembering: Callable[..., Awaitable[Replica]]
    ) -> None:
        replica, announcing = await remembering("gateway"), await bus("auth")
        event = an_event("auth.token_revoked", ids.new("ws"), ids.new("tok"))
        subject = f"evt.{event.tenant}.{event.type}"
        await announcing.client.publish(subject, event.data, headers=event_headers(event))
        assert await replica.forgot() == event.target

    async def test_that_are_not_followed_change_nothing(self, remembering: Callable[..., Awaitable[Replica]]) -> None:
        replica = await remembering("vault")
        keep(replica.one, "a", "red")
        replica.memories.forget(an_event("auth.token_revoked", ids.new("ws"), "red"))
        assert (kept(replica.one, "a"), replica.forgotten) == ("a", [])


class TestTheBus:
    async def test_lost_or_back_makes_a_service_forget_everything(
        self, remembering: Callable[..., Awaitable[Replica]]
    ) -> None:
        """What was loaded in between may lack what was published in between."""
        replica = await remembering("gateway")
        keep(replica.one, "a")
        await replica.bus._disconnected()
        assert kept(replica.one, "a") == ""
        keep(replica.one, "b")
        began = replica.one.begin()
        await replica.bus._connected()
        replica.one.keep(began, "c", "stale")
        assert kept(replica.one, "bc") == ""
