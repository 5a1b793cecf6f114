"""Whether what a service sends reaches JetStream: the imports of its accounts, which no permission shows.

A message that no import takes on is lost without a word, an acknowledgement above all. So each way is tried with a
message that JetStream answers and then forgets: one for a stream of another name, a pull that is none, and the progress
of a message that there never was.
"""

import asyncio
from collections.abc import Iterator

import nats.errors
import orjson
from nats.aio.client import Client
from nats.js.api import Header

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.errors import Unavailable
from causeloop_common.messaging.bus import Bus

_ANSWER_SECONDS = 2.0
_NO_STREAM = {Header.EXPECTED_STREAM.value: "none"}
_PROGRESS = b"+WPI"

_Way = tuple[Client, str, bytes, dict[str, str] | None]
"""A connection, and what is sent over it: subject, body, headers."""


async def examine(bus: Bus) -> None:
    """For doctor: Unavailable with the ways that lead nowhere."""
    ways: list[_Way] = [(bus.client, *sent) for sent in _sent(bus.service)]
    if bus.service in topology.readers():
        ways += [(bus.reader.client, *sent, None) for sent in _read(bus.service)]
    answered = await asyncio.gather(*(_is_answered(*way) for way in ways))
    if lost := [subject for (_, subject, *_), is_answered in zip(ways, answered, strict=True) if not is_answered]:
        raise Unavailable(
            f"NATS passes on nothing that it sends to {', '.join(lost)}: the accounts in the server's configuration "
            "lack an import or an export, which `causeloop keys --nats config` prints."
        )


def _sent(service: str) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    yield f"evt.{ids.INSTALLATION}.{service}.none", b"", _NO_STREAM
    yield f"dead.{service}.none.0", b"", _NO_STREAM


def _read(service: str) -> Iterator[tuple[str, bytes]]:
    for consumer in topology.CONSUMERS:
        if consumer.service == service:
            yield topology.next_message(consumer), orjson.dumps({"batch": "none"})
            yield topology.acknowledgement(consumer), _PROGRESS


async def _is_answered(client: Client, subject: str, body: bytes, headers: dict[str, str] | None) -> bool:
    try:
        await client.request(subject, body, timeout=_ANSWER_SECONDS, headers=headers)
    except (nats.errors.Error, OSError, TimeoutError):
        return False
    return True
