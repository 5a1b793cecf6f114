"""The memories of a service: others' answers and its own rows, kept for a while, and the events that make it forget.

    memory = application.memories.memory("data_keys", seconds=300, most=10_000)
    keyring = await memory.recall(tenant, load)  # load: the value, and the tags by which it is forgotten

A value lives a fixed time from the moment it was asked for; use does not prolong it. There is a bound on their number,
and the oldest goes first. Of many who ask for the same value at once one loads it.

An event's class line has what it makes forget, `forgets="target"`, `"tenant"` or `"person"`; the services that
`topology.REMEMBERS` names follow such events, and drop every value that has the event's tag. A lost bus makes a service
forget everything, and so does its return. The race rule: a value that was being loaded when its tag was forgotten, or
when the bus was lost or came back, is not kept, since it may be older than what was missed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import Event
from causeloop_common.messaging import Bus
from causeloop_common.telemetry import metrics

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Began(NamedTuple):
    """The moment at which a value was asked for."""

    forgotten: int
    """How often something had been forgotten by then."""
    at: float


class _Kept(NamedTuple, Generic[V]):
    value: V
    until: float
    tags: tuple[str, ...]


class _Loading(NamedTuple, Generic[V]):
    began: Began
    result: asyncio.Future[V]


class Memory(Generic[K, V]):
    """At most `most` values by key, none for longer than `seconds`. None is no value and not kept.

    A value's tags are the ids by which it is forgotten: its tenant, always; the thing that it comes from; and
    `of_person` where it is about a person in a tenant.
    """

    def __init__(
        self, name: str, *, seconds: float, most: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._monotonic = monotonic
        self._kept: dict[K, _Kept[V]] = {}
        self._by_tag: dict[str, set[K]] = {}
        self._loading: dict[K, _Loading[V]] = {}
        self._moment = 0
        self._cleared = 0
        self._forgotten: dict[str, int] = {}
        lookups, evictions = metrics.MEMORY_LOOKUPS, metrics.MEMORY_EVICTIONS
        self._hits, self._misses, self._shared = (lookups.labels(name, word) for word in ("hit", "miss", "shared"))
        self._by_event, self._by_bus, self._by_size = (
            evictions.labels(name, word) for word in ("event", "bus", "full")
        )
        metrics.MEMORY_VALUES.labels(name).set_function(lambda: len(self._kept))

    def __len__(self) -> int:
        """How many values are kept."""
        return len(self._kept)

    async def recall(self, key: K, load: Callable[[], Awaitable[tuple[V, tuple[str, ...]]]]) -> V:
        """The value that is kept, or else what `load` returns, which is kept with its tags.

        Askers who come while it loads get its result, or its error, too; unless something was forgotten since it
        began. Then it may be too old for them, and the next one loads again.
        """
        while True:
            if (known := self.get(key)) is not None:
                return known
            other = self._loading.get(key)
            if other is None or other.began.forgotten != self._moment:
                return await self.renew(key, load)
            self._shared.inc()
            await asyncio.wait([other.result])
            if not other.result.cancelled():
                return other.result.result()

    async def renew(self, key: K, load: Callable[[], Awaitable[tuple[V, tuple[str, ...]]]]) -> V:
        """What `load` returns now, in place of the value that is kept; those who ask meanwhile get it, too."""
        loading = _Loading[V](self.begin(), asyncio.get_running_loop().create_future())
        self._loading[key] = loading
        try:
            value, tags = await load()
        except Exception as error:
            loading.result.set_exception(error)
            loading.result.exception()  # it is the caller's: without others who asked nobody has to look at it
            raise
        else:
            loading.result.set_result(value)
            self._drop(key)
            if value is not None:
                self.keep(loading.began, key, value, *tags)
            return value
        finally:
            loading.result.cancel()  # if it was cancelled itself; those who wait then ask again
            if self._loading.get(key) is loading:
                del self._loading[key]

    def get(self, key: K) -> V | None:
        """The value that is kept, if it is not too old."""
        found = self._kept.get(key)
        if found is not None:
            if self._monotonic() < found.until:
                self._hits.inc()
                return found.value
            self._drop(key)
        return None

    def begin(self) -> Began:
        """The moment before a value is asked for, for `keep`."""
        self._misses.inc()
        return Began(self._moment, self._monotonic())

    def keep(self, began: Began, key: K, value: V, *tags: str) -> None:
        """Keep a value for its time since it was asked for, unless the race rule forbids it."""
        if began.forgotten < self._cleared or any(self._forgotten.get(tag, 0) > began.forgotten for tag in tags):
            return
        self._drop(key)
        if len(self._kept) >= self._most:
            self._drop(next(iter(self._kept)))
            self._by_size.inc()
        self._kept[key] = _Kept(value, began.at + self._seconds, tags)
        for tag in tags:
            self._by_tag.setdefault(tag, set()).add(key)

    def forget(self, tag: str) -> None:
        """Drop every value that has this tag, also those that are being loaded."""
        self._moment += 1
        if len(self._forgotten) >= self._most:  # rather lose what is being loaded than keep tags without bound
            self._forgotten.clear()
            self._cleared = self._moment
        self._forgotten[tag] = self._moment
        for key in self._by_tag.pop(tag, set()).copy():
            self._drop(key)
            self._by_event.inc()

    def clear(self) -> None:
        """Drop every value, also those that are being loaded."""
        self._moment += 1
        self._cleared = self._moment
        self._by_bus.inc(len(self._kept))
        self._kept.clear()
        self._by_tag.clear()
        self._forgotten.clear()

    def _drop(self, key: K) -> None:
        found = self._kept.pop(key, None)
        for tag in found.tags if found is not None else ():
            if (keys := self._by_tag.get(tag)) is not None:
                keys.discard(key)
                if not keys:
                    del self._by_tag[tag]


class Memories:
    """The memories of one service; what makes one of them forget is followed for all."""

    def __init__(self, bus: Bus) -> None:
        self._memories: list[Memory[Any, Any]] = []
        self._kinds = {kind.type: kind for kind in topology.forgetting(bus.service)}
        self.on_forget: list[Callable[[str], None]] = []
        """Called with the tag of an event, after all memories have dropped what has it."""
        for subject in topology.follows(bus.service):
            bus.follow(subject, self._on_event)
        bus.on_disconnect.append(self.clear)
        bus.on_connect.append(self.clear)

    def memory(self, name: str, *, seconds: float, most: int) -> Memory[Any, Any]:
        """A memory of this service; `name` is a label of metrics."""
        made: Memory[Any, Any] = Memory(name, seconds=seconds, most=most)
        self._memories.append(made)
        return made

    def forget(self, event: Announced) -> None:
        """Drop what an event makes forget, if this service follows it."""
        if (kind := self._kinds.get(event.type)) is None:
            return
        tag = _tag(kind, event)
        for memory in self._memories:
            memory.forget(tag)
        for react in self.on_forget:
            react(tag)

    def clear(self) -> None:
        """Drop everything."""
        for memory in self._memories:
            memory.clear()

    async def _on_event(self, event: Announced) -> None:
        self.forget(event)


def of_person(tenant: str, person: str) -> str:
    """The tag of what is remembered of a person in a tenant."""
    return f"{tenant}/{person}"


def _tag(kind: type[Event], event: Announced) -> str:
    match kind.forgets:
        case "tenant":
            return event.tenant
        case "person":
            return of_person(event.tenant, event.target)
        case _:
            return event.target
