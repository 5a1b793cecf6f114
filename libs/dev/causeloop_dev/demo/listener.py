"""Follows a workspace's log in the background, in a thread."""

import queue
import threading
import time
from typing import NamedTuple

import httpx

from causeloop_client import Client, ClientError, Unreachable
from causeloop_client.stream import Event
from causeloop_dev.demo.page import Unexpected

_PATIENCE_SECONDS = 5.0


class Arrival(NamedTuple):
    """An entry, and the moment (monotonic seconds) at which it was there."""

    event: Event
    at: float


class Listener:
    """Follows from the index `start`, or after the index `after`; `cut` drops the connection."""

    def __init__(self, url: str, token: str, start: int | None = None, *, after: int | None = None) -> None:
        self._http = httpx.Client(trust_env=False)
        self._entries = Client(url, token, http=self._http).follow(start, after=after, waiting=self._stay_cut)
        self._arrived: queue.Queue[tuple[Event | Exception, float]] = queue.Queue()
        self._is_cut = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def until(self, action: str) -> list[Arrival]:
        """The entries that arrived, up to one with this action."""
        found: list[Arrival] = []
        while not found or found[-1].event.body["action"] != action:
            event, at = self._next(action)
            if isinstance(event, Exception):
                raise Unexpected(f"{action} on the stream", f"its end: {event}")
            found.append(Arrival(event, at))
        return found

    def end(self) -> tuple[Exception, float]:
        """Why the stream ended, and when."""
        while True:
            end, at = self._next("the end")
            if isinstance(end, Exception):
                return end, at

    def cut(self) -> None:
        """Drop the connection, whatever is on its way."""
        self._is_cut.set()
        self._http.close()

    def _next(self, wanted: str) -> tuple[Event | Exception, float]:
        try:
            return self._arrived.get(timeout=_PATIENCE_SECONDS)
        except queue.Empty:
            raise Unexpected(f"{wanted} on the stream", f"nothing for {_PATIENCE_SECONDS:g} s") from None

    def _read(self) -> None:
        try:
            for event in self._entries:
                self._arrived.put((event, time.monotonic()))
        except (ClientError, RuntimeError) as end:  # httpx raises the second when it was closed
            self._arrived.put((end, time.monotonic()))

    def _stay_cut(self, seconds: float, failure: ClientError | None) -> None:
        if self._is_cut.is_set():
            raise failure or Unreachable("The connection was cut here.")
