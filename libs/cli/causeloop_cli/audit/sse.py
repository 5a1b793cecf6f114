"""Reading server-sent events (WHATWG HTML 9.2.6), from bytes as they come.

Lines end with CR LF, LF or CR and with nothing else; text tools that also split at other line breaks of Unicode would
tear entries apart.
"""

from typing import NamedTuple

_LONGEST = 1024 * 1024


class Event(NamedTuple):
    """One event that was dispatched. `id` is the last id told, with it or before it."""

    kind: str
    data: str
    id: str


class Reader:
    """Feed it bytes, take events. `last_id` and `retry` (seconds) are what was told so far."""

    def __init__(self, last_id: str = "", retry: float = 1.0) -> None:
        self.last_id = last_id
        self.retry = retry
        self._buffer = b""
        self._id = last_id
        self._kind = ""
        self._data: list[str] = []

    @property
    def is_between(self) -> bool:
        """Whether no event has begun: bytes that come now are not the middle of one."""
        return not (self._buffer or self._data)

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with these bytes; ValueError when a line never ends."""
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
            case "id" if "\0" not in value:
                self._id = value
            case "event":
                self._kind = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value) / 1000
            case _:  # a comment, or nothing we know
                pass
        return None

    def _dispatch(self) -> Event | None:
        self.last_id = self._id
        kind, data = self._kind or "message", self._data
        self._kind, self._data = "", []
        return Event(kind, "\n".join(data), self.last_id) if data else None
