"""The stream of a workspace's log, without I/O: reading it, going on after a cut, giving up.

Server-sent events (WHATWG HTML 9.2.6): lines end with CR LF, LF or CR and with nothing else; text tools that also split
at other line breaks of Unicode would tear entries apart.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from causeloop_client.errors import ClientError, Problem, Unreachable
from causeloop_client.sending import append, failed, jittered

Waiting = Callable[[float, ClientError | None], None] | None
"""Called before a follower connects again: in how many seconds, and what failed, unless the stream just ended."""

_LONGEST = 1024 * 1024
_HEARTBEAT = b": heartbeat"
_SILENCE_SECONDS = 40.0
"""The gateway sends a heartbeat after 15 s of silence: a connection silent for longer is dead."""

_LONGEST_WAIT_SECONDS = 30.0
_DOUBLED = 5
_BARREN_SECONDS = 60.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_FINAL = frozenset({"unauthorized", "forbidden", "conflict"})


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event. Of a log: `message` has an entry's stored bytes, `pruned` is one that retention removed."""

    kind: str
    data: str
    id: str

    @property
    def index(self) -> int:
        """The entry's place in the log."""
        return int(self.id.rpartition("/")[2])

    @property
    def epoch(self) -> int:
        """The log's epoch, 1 unless the log could not continue what was signed of it: then its ids are `2/7`."""
        return int(self.id.partition("/")[0]) if "/" in self.id else 1

    @property
    def body(self) -> dict[str, Any]:
        """The data as JSON: the entry's fields, or `index` and `leaf_hash` of a pruned one."""
        return dict(json.loads(self.data))


class Reader:
    """Feed it bytes, take events. `last_id` and `retry` (seconds) are the newest that were received."""

    def __init__(self, last_id: str = "", retry: float = 1.0) -> None:
        self.last_id = last_id
        self.retry = retry
        self._buffer = b""
        self._id = last_id
        self._kind = ""
        self._data: list[str] = []
        self._length = 0

    @property
    def is_between(self) -> bool:
        """Whether no event has begun: bytes that come now are not the middle of one."""
        return not (self._buffer or self._data)

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with these bytes; ValueError when a line or an event never ends."""
        # A CR at the end may be half of a line's end: it waits for what follows.
        text = self._buffer + data
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._buffer = rest + held
        if len(self._buffer) > _LONGEST:
            raise ValueError("A line of the stream does not end.")
        return [event for line in lines if (event := self._line(line.decode("utf-8", "replace"))) is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
                self._length += len(line)
                if self._length > _LONGEST:
                    raise ValueError("An event of the stream does not end.")
            case "id" if "\0" not in value:
                self._id = value
            case "event":
                self._kind = value
            case "retry" if value.isascii() and value.isdigit() and len(value) < 10:
                self.retry = int(value) / 1000
            case _:  # a comment, or a field we do not know
                pass
        return None

    def _dispatch(self) -> Event | None:
        self.last_id = self._id
        kind, data = self._kind or "message", self._data
        self._kind, self._data, self._length = "", [], 0
        return Event(kind, "\n".join(data), self.last_id) if data else None


class Following:
    """Where a follower of a log is, over any number of connections.

    It begins at the index `start`, or after the entry with the id `after`, or with what comes from now on. With a
    `count` it is done after so many entries, or when the log has no more.
    """

    def __init__(
        self, url: str, patience: float, start: int | None, after: int | str | None, count: int | None, waiting: Waiting
    ) -> None:
        self._url = url
        self._patience = patience
        self._begin = {} if start is None else {"from": str(start)}
        self._left = math.inf if count is None else count
        self._waiting = waiting
        self._last_id = "" if after is None else str(after)
        self._reader = Reader()
        self._response: httpx.Response | None = None
        self._refusal = bytearray()
        self._is_reached = False
        self._failures = 0
        self._fertile_at = time.monotonic()

    def is_done(self) -> bool:
        """Whether there is nothing more to read."""
        return self._left == 0

    def request(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """The next connection, for `httpx.Client.stream`."""
        self._reader, self._response = Reader(self._last_id), None
        resume = {"last-event-id": self._last_id} if self._last_id else {}
        return {
            "method": "GET",
            "url": f"{self._url}/v1/audit/stream",
            "params": {} if resume else self._begin,
            "headers": {**headers, **resume, "accept": "text/event-stream"},
            "timeout": httpx.Timeout(10, read=_SILENCE_SECONDS),
            "follow_redirects": False,
        }

    def opened(self, response: httpx.Response) -> None:
        """The gateway answers."""
        self._response = response
        self._is_reached = True
        if response.status_code == 200:
            self._failures = 0

    def feed(self, part: bytes) -> Iterator[Event]:
        """The entries that are whole with these bytes; Problem when the stream ends, Unreachable when it is none."""
        response = self._response
        if response is None or response.status_code != 200:
            return append(self._refusal, part)
        if self._left < math.inf and self._reader.is_between and part.startswith(_HEARTBEAT):
            self._left = 0  # sent only when there is no entry to send
        try:
            events = self._reader.feed(part)
        except ValueError as error:
            raise Unreachable(str(error)) from error
        for event in events:
            if event.kind == "end":
                raise Problem.of(response, event.data.encode())
            if event.kind in ("message", "pruned") and self._left != 0:
                self._last_id, self._fertile_at = event.id, time.monotonic()
                self._left -= 1
                yield event
        self._last_id = self._reader.last_id

    def wait(self, error: httpx.RequestError | ClientError | None = None) -> float:
        """Seconds until the next connection; the failure of this one when another is of no use."""
        seconds, failure = self._reader.retry, None if error is None else failed(self._url, error)
        barren = time.monotonic() - self._fertile_at
        if self._response is not None and self._response.status_code != 200:
            failure = Problem.of(self._response, self._refusal)
            self._refusal.clear()
        if isinstance(failure, Problem):
            if failure.code in _FINAL if failure.status == 200 else failure.status not in _AGAIN:
                raise failure
            seconds = failure.retry_after or seconds
        elif failure is not None and not self._is_reached and barren >= self._patience:
            raise failure
        if self._left < math.inf and barren > _BARREN_SECONDS:
            raise failure or Unreachable("The stream was cut again and again, without an entry.")
        seconds = jittered(min(seconds * 2**self._failures, _LONGEST_WAIT_SECONDS))
        self._failures = min(self._failures + 1, _DOUBLED)
        if self._waiting is not None:
            self._waiting(seconds, failure)
        return seconds
