"""A wire between the services and NATS that loses, doubles, reorders and cuts, by a seed.

It is a TCP proxy that reads the client protocol, in both directions. What is on the way from an outbox to a log is at
its mercy, each kind of frame by rates of its own: published events, the stream's acknowledgements, pulls, deliveries,
the intake's acknowledgements, receipts. Commands, their replies and the protocol's own frames pass: core NATS promises
nothing for them. Connections are cut at random, all of them now and then, a reader's in a storm every 10 to 120 ms.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from chaos.receipts import frames
from chaos.receipts.frames import Frame
from tests.support.proxy import Listening

KINDS = ("event", "stored", "pull", "delivery", "acknowledgement", "receipt")
"""An event published by a relay and the stream's acknowledgement of it; a pull, what it delivers, and the
acknowledgement of that; what the intake publishes for the relays."""

STORM_SECONDS = (0.010, 0.120)
"""Between two cuts of a reader's connection in a storm."""
_CUT_SECONDS = 20.0
"""Between two cuts of any other connection, on average."""


@dataclass(frozen=True)
class Weather:
    """How likely a frame is dropped, doubled, or delayed, by at most so many seconds."""

    drop: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    longest: float = 0.3


CALM: dict[str, Weather] = {}
FOUL = {
    "event": Weather(0.02, 0.02, 0.05),
    "stored": Weather(0.01, 0.02, 0.05),
    "pull": Weather(0.02, 0.02, 0.05),
    "delivery": Weather(0.01, 0.01, 0.02),
    "acknowledgement": Weather(0.05, 0.05, 0.1, 3.0),
    "receipt": Weather(0.1, 0.1, 0.2, 8.0),
}
"""Deliveries come by the hundred, and one that is missing makes an intake begin again."""


class Wire(Listening):
    """Listens on `port`; passes on to the server that `aim` names."""

    limit = frames.LINE_BYTES

    def __init__(self, choices: random.Random) -> None:
        super().__init__()
        self._choices = choices
        self._target: Callable[[], int] = lambda: 0
        self.weather: dict[str, Weather] = CALM
        self.withheld: set[str] = set()
        """Kinds of frames of which none passes."""
        self.cutting = False
        self.storm = False
        self.tally: Counter[tuple[str, str]] = Counter()
        """How many frames of a kind were `seen`, `dropped`, `doubled`, `delayed`; connections that were `cut`."""
        self.published: Counter[bytes] = Counter()
        """By the id of an event, how often its service published it."""

    @property
    def url(self) -> str:
        """Where services connect."""
        return f"nats://127.0.0.1:{self.port}"

    def aim(self, port: Callable[[], int]) -> None:
        """Pass on to the server on this port, which it may choose later."""
        self._target = port

    def calm(self) -> None:
        """Pass everything on from now on."""
        self.weather, self.cutting, self.storm = CALM, False, False

    @contextmanager
    def withholding(self, kind: str) -> Iterator[None]:
        """A block in which no frame of a kind passes."""
        self.withheld.add(kind)
        try:
            yield
        finally:
            self.withheld.discard(kind)

    def fates(self, kind: str) -> tuple[float, ...]:
        """The delays in seconds of the copies of a frame that are to be passed on: none, one or two."""
        self.tally[kind, "seen"] += 1
        if kind in self.withheld:
            self.tally[kind, "dropped"] += 1
            return ()
        weather = self.weather.get(kind)
        if weather is None:
            return (0.0,)
        drawn = self._choices.random()
        for what, share in (("dropped", weather.drop), ("doubled", weather.double), ("delayed", weather.delay)):
            if drawn < share:
                self.tally[kind, what] += 1
                later = self._choices.uniform(0, weather.longest)
                again = self._choices.choice((0.0, later))
                return {"dropped": (), "doubled": (0.0, again), "delayed": (later,)}[what]
            drawn -= share
        return (0.0,)

    def is_cut(self, name: str, seconds: float) -> bool:
        """Whether a connection of this name is to be cut now, `seconds` after it was last asked."""
        if not self.cutting:
            return False
        if self.storm and name.endswith("_reader"):
            return True
        return self._choices.random() < seconds / _CUT_SECONDS

    def pause(self) -> float:
        """Seconds until a connection is asked for again."""
        return self._choices.uniform(*STORM_SECONDS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on, as the weather is."""
        await _Link(self, self._target()).run(reader, writer)


class _Link:
    """One connection of a client through the wire."""

    def __init__(self, wire: Wire, target: int) -> None:
        self._wire = wire
        self._target = target
        self._name = ""
        self._inboxes: set[bytes] = set()
        """Where the stream acknowledges this client's events."""

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on until either side ends, or it is cut."""
        try:
            there, thither = await asyncio.open_connection("127.0.0.1", self._target, limit=frames.LINE_BYTES)
        except OSError:
            writer.transport.abort()
            return
        tasks = {
            asyncio.create_task(self._pass_on(reader, thither, self._asked)),
            asyncio.create_task(self._pass_on(there, writer, self._answered)),
            asyncio.create_task(self._cut()),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            thither.transport.abort()
            writer.transport.abort()

    async def _cut(self) -> None:
        while True:
            pause = self._wire.pause()
            await asyncio.sleep(pause)
            if self._wire.is_cut(self._name, pause):
                self._wire.tally["reader" if self._name.endswith("_reader") else "connection", "cut"] += 1
                return

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kind: Callable[[Frame], str]
    ) -> None:
        loop = asyncio.get_running_loop()

        def write(data: bytes) -> None:
            if not sink.transport.is_closing():
                sink.write(data)

        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                frame = await frames.read(source)
                found = kind(frame)
                for delay in self._wire.fates(found) if found else (0.0,):
                    if delay:
                        loop.call_later(delay, write, frame.data)
                    else:
                        write(frame.data)
                await sink.drain()

    def _asked(self, frame: Frame) -> str:
        """The kind of a frame that the client sends; empty for what passes."""
        subject = frame.subject
        if frame.verb == b"CONNECT":
            self._name = json.loads(frame.line[len(b"CONNECT") :]).get("name") or ""
        elif subject.startswith(b"evt."):
            self._inboxes.add(frame.reply.rsplit(b".", 2)[0])
            self._wire.published[frame.header(b"ce-id")] += 1
            return "event"
        elif subject.startswith(b"$JS.ACK."):
            return "acknowledgement"
        elif b".CONSUMER.MSG.NEXT." in subject:
            return "pull"
        elif subject.startswith((b"entered.", b"floor.")):
            return "receipt"
        return ""

    def _answered(self, frame: Frame) -> str:
        """The kind of a frame that the server sends; empty for what passes."""
        if frame.reply.startswith(b"$JS.ACK."):
            return "delivery"
        if frame.subject.startswith((b"entered.", b"floor.")):
            return "receipt"
        if frame.subject.rsplit(b".", 2)[0] in self._inboxes:
            return "stored"
        return ""
