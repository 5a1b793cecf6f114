"""Somebody who listens to a workspace's log in the background: one connection, in a thread."""

import json
import queue
import threading
import time
from typing import Any, NamedTuple

import httpx

from causeloop_cli.audit import client
from causeloop_cli.audit.sse import Event, Reader
from causeloop_dev.demo.person import Unexpected

_PATIENCE_SECONDS = 5.0


class Heard(NamedTuple):
    """An event, and the moment (monotonic seconds) at which it was there."""

    event: Event
    at: float

    @property
    def leaf(self) -> dict[str, Any]:
        """The entry, or what ends the stream."""
        told = json.loads(self.event.data)
        return dict(told)


class Listener:
    """Opened when made, after the entry `last_id` if it is given, else from now on; `cut` drops the connection."""

    def __init__(self, gateway: client.Gateway, last_id: str = "") -> None:
        self._http = httpx.Client(timeout=httpx.Timeout(10, read=40), follow_redirects=False)
        headers = {"authorization": f"Bearer {gateway.token}", "accept": "text/event-stream"}
        headers |= {"last-event-id": last_id} if last_id else {}
        request = self._http.build_request("GET", f"{gateway.url}/v1/audit/stream", headers=headers)
        self._response = self._http.send(request, stream=True)
        if self._response.status_code != 200:
            raise client.refusal(self._response)
        self._reader = Reader(last_id)
        self._heard: queue.Queue[Heard] = queue.Queue()
        self._told_position = threading.Event()
        self._cut = threading.Event()
        self.last_id = last_id
        threading.Thread(target=self._read, daemon=True).start()
        if not self._told_position.wait(_PATIENCE_SECONDS):
            raise Unexpected("the stream tells where it begins", f"nothing in {_PATIENCE_SECONDS:g} s")

    def until(self, wanted: str) -> list[Heard]:
        """What came up to an entry of this action, or an event of this kind (`end`)."""
        found, deadline = [], time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                heard = self._heard.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Unexpected(f"{wanted} on the stream", f"nothing of it in {_PATIENCE_SECONDS:g} s") from None
            self.last_id = heard.event.id
            found.append(heard)
            if wanted in (heard.event.kind, heard.leaf.get("action")):
                return found
            if heard.event.kind == "end":
                raise Unexpected(f"{wanted} on the stream", f"its end: {heard.leaf['code']}")

    def cut(self) -> None:
        """Drop the connection, whatever is on its way."""
        self._cut.set()
        self._http.close()

    def _read(self) -> None:
        try:
            for data in self._response.iter_raw():
                at = time.monotonic()
                if self._cut.is_set():
                    return
                for event in self._reader.feed(data):
                    self._heard.put(Heard(event, at))
                self._told_position.set()
        except (httpx.HTTPError, httpx.StreamError, OSError, ValueError):
            pass  # cut off, by us or not: what was expected and did not come is told by `until`
