"""`causeloop audit tail`: every entry of a workspace's log as it arrives, each exactly once, whatever is cut.

It connects again with the last index it was told, waiting a little longer each time nobody answers, and ends only when
told that going on is not allowed or makes no sense, and on Ctrl-C.
"""

import argparse
import json
import random
import sys
import time
from contextlib import suppress

import httpx

from causeloop_cli.audit import client
from causeloop_cli.audit.sse import Event, Reader
from causeloop_common.errors import AppError, Conflict, Forbidden, Unauthorized, Unavailable

_SILENCE_SECONDS = 40.0
"""The gateway says something every 15 s: a connection silent for longer is dead."""

_LONGEST_WAIT_SECONDS = 30.0
_DOUBLED = 5
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def main(options: argparse.Namespace) -> int:
    """Follow the log until told to end."""
    with suppress(KeyboardInterrupt):
        Tail(client.gateway(options), options.start, as_json=options.json).run()
    return 0


class Tail:
    """One log, followed over any number of connections."""

    def __init__(self, gateway: client.Gateway, start: int | None, *, as_json: bool) -> None:
        self._gateway = gateway
        self._start = start
        self._as_json = as_json
        self._last_id = ""
        self._failures = 0
        self._reached = False

    def run(self) -> None:
        """Follow; AppError with why it cannot go on."""
        timeout = httpx.Timeout(10, read=_SILENCE_SECONDS)
        headers = {"authorization": f"Bearer {self._gateway.token}", "accept": "text/event-stream"}
        with httpx.Client(timeout=timeout, headers=headers, follow_redirects=False) as http:
            while True:
                try:
                    retry = self._connect(http)
                except (httpx.TransportError, ValueError) as error:
                    if not self._reached:
                        raise Unavailable(f"Nobody answers at {self._gateway.url}: {type(error).__name__}.") from error
                    retry = 1.0
                wait = min(retry * 2**self._failures, _LONGEST_WAIT_SECONDS)
                wait *= random.SystemRandom().uniform(0.5, 1)  # not all clients of a gateway at the same moment
                self._failures = min(self._failures + 1, _DOUBLED)
                print(f"The stream was cut; connecting again in {wait:.1f} s.", file=sys.stderr)
                time.sleep(wait)

    def _connect(self, http: httpx.Client) -> float:
        """One connection to its end; the seconds after which to come back."""
        resume = {"last-event-id": self._last_id} if self._last_id else {}
        begin = {} if self._start is None or resume else {"from": str(self._start)}
        with http.stream("GET", f"{self._gateway.url}/v1/audit/stream", params=begin, headers=resume) as response:
            self._reached = True
            if response.status_code != 200:
                return _refused(response)
            self._failures = 0
            reader = Reader(self._last_id)
            for data in response.iter_raw():
                for event in reader.feed(data):
                    self._show(event)
                self._last_id = reader.last_id
        return reader.retry

    def _show(self, event: Event) -> None:
        match event.kind:
            case "message":
                print(event.data if self._as_json else _readable(event), flush=True)
            case "pruned":
                print(event.data if self._as_json else f"{event.id}  removed by retention", flush=True)
            case "end":
                told = json.loads(event.data)
                error = AppError.from_wire(str(told["code"]), str(told["detail"]), None, None)
                if isinstance(error, Unauthorized | Forbidden | Conflict):
                    raise error
            case _:
                pass  # of a later version


def _readable(event: Event) -> str:
    """Index, time, action, actor, target; nothing of it reaches the terminal that the terminal would obey."""
    leaf = json.loads(event.data)
    told = (event.id, leaf["time"], leaf["action"], leaf["actor"], leaf["target"])
    return "  ".join("".join(c if c.isprintable() else "?" for c in str(part)) for part in told)


def _refused(response: httpx.Response) -> float:
    """The seconds after which to try again; AppError when that is of no use."""
    try:
        told = json.loads(response.read())
        error = AppError.from_wire(str(told["code"]), str(told["detail"]), told.get("errors"), None)
    except (ValueError, TypeError, KeyError):
        error = Unavailable(f"The gateway answered {response.status_code}, and not as a gateway does.")
        if response.status_code not in _AGAIN:
            raise error from None
    if response.status_code not in _AGAIN:
        raise error
    print(error.detail, file=sys.stderr)
    after = response.headers.get("retry-after", "")
    return float(after) if after.isdigit() else 1.0
