"""Receipts: what the log has of each service's events, and how far the stream is acknowledged."""

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
import nats.js.errors
import orjson
from nats.aio.msg import Msg

from causeloop_audit.domain.entries import Unreadable, identity
from causeloop_audit.domain.terms import Terms
from causeloop_audit.repository import Appended, Stored
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.topology import AUDIT_INTAKE
from causeloop_common.errors import AppError
from causeloop_common.messaging import Bus, WrongConsumer, consumer_state
from causeloop_log.entry import MALFORMED

_FLOOR_SECONDS = 1.0
_BEAT_SECONDS = 5.0
"""Between two floors while nothing comes."""
_SHORT_REPLY = 9
"""Tokens of a reply without domain and account."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FAULTS = (AppError, nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)


class Receipts:
    """The receipts of one lead of the intake: of the last of these terms.

    Without durability: a relay that misses one sends its event again, and has it then.
    """

    def __init__(self, bus: Bus, terms: Terms) -> None:
        self._bus = bus
        term, began = terms[-1]
        self._lead: dict[str, Any] = {"term": term, "began": began, "batch": began, "terms": terms}
        self._floor_at = float("-inf")
        self._came = True
        """Whether something came since the last floor."""

    async def send(self, messages: Sequence[Announced | Unreadable], came: Sequence[Msg], appended: Appended) -> None:
        """Receipt every event of a committed batch that the log has, with the digest that it has there."""
        self._came = True
        self._lead["batch"] = max(self._lead["batch"], appended.batch)
        has = {entry[:3]: Stored(entry.digest, entry.action) for entry, _ in appended.entries} | appended.known
        receipts: dict[str, list[Any]] = defaultdict(list)
        for message, delivery in zip(messages, came, strict=True):
            event = identity(message)
            if event[1] in topology.OWNERS and (stored := has.get(event)) is not None:
                digest = None if stored.digest is None else stored.digest.hex()
                receipts[event[1]].append([sequence(delivery), message.id, digest, stored.action == MALFORMED])
        with suppress(*_FAULTS):
            for service, entries in receipts.items():
                body = orjson.dumps({**self._lead, "entries": entries})
                await self._bus.client.publish(topology.entered(service), body)

    async def send_floor(self) -> None:
        """If it is time for it: how far the consumer is acknowledged, and the ends of the stream."""
        if time.monotonic() - self._floor_at < (_FLOOR_SECONDS if self._came else _BEAT_SECONDS):
            return
        self._floor_at, self._came = time.monotonic(), False
        try:
            consumer = await consumer_state(self._bus.reader, AUDIT_INTAKE)
            _, first, last = await self._bus.ends()
            floor = consumer.ack_floor.stream_seq if consumer.ack_floor is not None else 0
            body = orjson.dumps({**self._lead, "floor": floor, "first": first, "last": last})
            await self._bus.client.publish(topology.FLOOR, body)
        except WrongConsumer:
            raise
        except _FAULTS:
            return  # the next one follows


def sequence(delivery: Msg) -> int:
    """The number in the stream of a message that was pulled: the sixth token of its reply (NATS ADR-15), or the eighth.

    `Msg.metadata` reads all tokens, for each message at the price of its receipt.
    """
    tokens = delivery.reply.split(".")
    return int(tokens[5 if len(tokens) == _SHORT_REPLY else 7])


def stored_at(delivery: Msg) -> datetime:
    """The time at which the stream stored a message that was pulled: the eighth token of its reply, or the tenth."""
    tokens = delivery.reply.split(".")
    nanoseconds = int(tokens[7 if len(tokens) == _SHORT_REPLY else 9])
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
