"""A whole log over HTTP: its key, a checkpoint, and the entries that the checkpoint is of."""

import json
import re
from collections.abc import Iterator

import httpx

from causeloop_cli.audit import client
from causeloop_cli.audit.sse import Event, Reader
from causeloop_common.errors import AppError, Unavailable
from causeloop_log.export_file import Head
from causeloop_log.verification import Leaf, Pruned, Refused

_TRIES = 20
_SIZE = re.compile(r"[0-9]{1,18}")
_HEARTBEAT = b": heartbeat"


def head(gateway: client.Gateway) -> Head:
    """The log as it is now: what is signed, and the key as the log tells it."""
    return Head(client.ask(gateway, "/audit/checkpoint"), client.ask(gateway, "/audit/key"))


def size_of(checkpoint: str) -> int:
    """How many entries a checkpoint says there are. Not verified here: it only says how many to ask for."""
    lines = checkpoint.split("\n", 2)
    return int(lines[1]) if len(lines) > 1 and _SIZE.fullmatch(lines[1]) else 0


def leaves(gateway: client.Gateway, size: int) -> Iterator[Leaf]:
    """The first `size` entries, over as many connections as it takes. Fewer when the log has fewer."""
    reader, taken, failures = Reader(), 0, 0
    with httpx.Client(timeout=httpx.Timeout(10, read=40), follow_redirects=False) as http:
        while taken < size:
            try:
                for event in _events(http, gateway, reader):
                    if event is None:
                        return
                    yield _leaf(event)
                    taken, failures = taken + 1, 0
                    if taken == size:
                        return
            except (httpx.TransportError, ValueError, Unavailable) as error:
                failures += 1
                if failures == _TRIES:
                    raise Unavailable(f"The log cannot be read from {gateway.url}: {error}") from error
            reader = Reader(reader.last_id)


def _events(http: httpx.Client, gateway: client.Gateway, reader: Reader) -> Iterator[Event | None]:
    """The events of one connection, from where the reader is; None when the log has no more."""
    headers = {"authorization": f"Bearer {gateway.token}", "accept": "text/event-stream"}
    if reader.last_id:
        headers["last-event-id"] = reader.last_id
    with http.stream("GET", f"{gateway.url}/v1/audit/stream", params={"from": "0"}, headers=headers) as response:
        if response.status_code != 200:
            raise client.refusal(response)
        for data in response.iter_raw():
            if reader.is_between and data.startswith(_HEARTBEAT):  # said only when there is nothing else to say
                yield None
            for event in reader.feed(data):
                if event.kind == "end":
                    told = json.loads(event.data)
                    raise AppError.from_wire(str(told["code"]), str(told["detail"]), None, None)
                if event.kind in ("message", "pruned"):
                    yield event


def _leaf(event: Event) -> Leaf:
    if event.kind == "pruned":
        try:
            return Pruned(bytes.fromhex(json.loads(event.data)["leaf_hash"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Refused(3, "entries", "a removed entry has no hash") from error
    return event.data.encode()
