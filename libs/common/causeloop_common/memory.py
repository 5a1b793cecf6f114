"""The memories of a service: others' answers and its own rows, kept for a while, and the events that make it forget.

    memory = application.memories.memory("data_keys", seconds=300, most=10_000)
    keyring = await memory.recall(tenant, load)  # load: the value, and the tags by which it is forgotten

A value lives a fixed time from the moment it was asked for; use does not prolong it. One that is used in the last part
of its life can be asked for anew meanwhile, so that nobody waits for what is in use, and what is not goes. There is a
bound on their number, and the oldest goes first. Of many who ask for the same value at once one loads it.

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
from causeloop_common.errors import AppError, Timeout, Unavailable
from causeloop_common.messaging import Bus
from causeloop_common.telemetry import metrics

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Load = Callable[[], Awaitable[tuple[V, tuple[str, ...]]]]
"""Asks for a value: the value, and the tags by which it is forgotten."""

_LATE = 0.2
"""The part of a life, its last, in which a use has the value asked for anew."""
_MEANWHILE = 64
"""Values that are asked for anew at once. A value beyond them lives to its end."""
_SWEPT = 8
"""Values of which the time is over that go for each one that comes."""


class Began(NamedTuple):
    """The moment at which a value was asked for."""

    forgotten: int
    """How often something had been forgotten by then."""
    at: float


class _Loading(NamedTuple, Generic[V]):
    began: Began
    result: asyncio.Future[V]


class _Keys(set[K]):
    """The keys of several values with one tag."""


class Memory(Generic[K, V]):
    """At most `most` values by key, none for longer than `seconds`. None is no value and not kept.

    A value's tags are the ids by which it is forgotten: its tenant, always; the thing that it comes from; and
    `of_person` where it is about a person in a tenant. Each value costs a tuple of itself, its end and its tags, and a
    place under its key and each tag: under 400 bytes if value, key and tags are the same strings.
    """

    def __init__(
        self, name: str, *, seconds: float, most: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._late = seconds * _LATE
        self._most = most
        self._monotonic = monotonic
        self._kept: dict[K, tuple[V, float, *tuple[str, ...]]] = {}
        self._by_tag: dict[str, K | _Keys[K]] = {}
        self._meanwhile: dict[K, asyncio.Task[None]] = {}
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

    async def recall(self, key: K, load: Load[V]) -> V:
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

    async def renew(self, key: K, load: Load[V]) -> V:
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

    def get(self, key: K, renew: Load[V] | None = None) -> V | None:
        """The value that is kept, if it is not too old. `renew` asks for it anew meanwhile when it is late."""
        found = self._kept.get(key)
        if found is not None:
            left = found[1] - self._monotonic()
            if left > 0:
                self._hits.inc()
                if renew is not None and left < self._late and key not in self._meanwhile:
                    self._ask_meanwhile(key, renew)
                return found[0]
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
        self._make_room()
        self._kept[key] = (value, began.at + self._seconds, *tags)
        for tag in tags:
            held = self._by_tag.setdefault(tag, key)
            if isinstance(held, _Keys):
                held.add(key)
            elif held != key:
                self._by_tag[tag] = _Keys((held, key))

    def forget(self, tag: str) -> None:
        """Drop every value that has this tag, also those that are being loaded."""
        self._moment += 1
        if len(self._forgotten) >= self._most:  # rather lose what is being loaded than keep tags without bound
            self._forgotten.clear()
            self._cleared = self._moment
        self._forgotten[tag] = self._moment
        held = self._by_tag.get(tag)
        for key in () if held is None else (*held,) if isinstance(held, _Keys) else (held,):
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

    def _ask_meanwhile(self, key: K, load: Load[V]) -> None:
        if len(self._meanwhile) < _MEANWHILE:
            task = asyncio.create_task(self._renew_meanwhile(key, load))
            self._meanwhile[key] = task
            task.add_done_callback(lambda _: self._meanwhile.pop(key))

    async def _renew_meanwhile(self, key: K, load: Load[V]) -> None:
        """Ask anew. Without an answer the value lives to its end; after a refusal it is not true any more."""
        try:
            await self.renew(key, load)
        except (Unavailable, Timeout):
            pass
        except AppError:
            self._drop(key)

    def _make_room(self) -> None:
        """Have room for one more: some whose time is over go, and the oldest if there are still too many."""
        now = self._monotonic()
        for _ in range(_SWEPT):
            oldest = next(iter(self._kept), None)
            if oldest is None or now < self._kept[oldest][1]:
                break
            self._drop(oldest)
        if len(self._kept) >= self._most:
            self._drop(next(iter(self._kept)))
            self._by_size.inc()

    def _drop(self, key: K) -> None:
        _, _, *tags = self._kept.pop(key, (None, None))
        for tag in tags:
            held = self._by_tag.get(tag)
            if isinstance(held, _Keys):
                held.discard(key)
            if not held or held == key:
                self._by_tag.pop(tag, None)


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
