"""Publishing a batch to the stream, with one wait for all its acknowledgements."""

import asyncio
import hmac
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import nats.errors
import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from causeloop_common.contracts.announced import Announced
from causeloop_common.errors import Unavailable
from causeloop_common.messaging import Bus, event_headers

_ACK_SECONDS = 10.0


class Leaving(NamedTuple):
    """An event on its way to the stream, and how often it was sent again."""

    event: Announced
    attempt: int


def message_id(key: bytes, event: str, attempt: int) -> str:
    """The id by which the stream knows this attempt: nobody without the key can publish under it first."""
    return hmac.digest(key, f"{event}/{attempt}".encode(), "sha256").hex()


class StreamPublisher:
    """Publishes a batch to the stream and waits for all its acknowledgements together.

    It has one subscription for its life: a future and an inbox per event cost half as much again as publishing it
    (docs/decisions/0017-three-own-ways-on-the-bus.md).
    """

    _subscription: Subscription

    def __init__(self, bus: Bus, key: bytes) -> None:
        self._bus = bus
        self._key = key
        self._client = bus.client
        self._prefix = f"{self._client.new_inbox()}."
        self._sequences: list[int | None] = []
        self._missing = 0
        self._batch = 0
        self._complete = asyncio.Event()
        self._refusal: str | None = None

    @classmethod
    async def subscribe(cls, bus: Bus, key: bytes) -> "StreamPublisher":
        """Ready to publish, under ids that only the key's owner can make."""
        made = cls(bus, key)
        made._subscription = await made._client.subscribe(f"{made._prefix}*.*", cb=made._on_ack)
        bus.on_disconnect.append(made._on_disconnect)
        return made

    async def close(self) -> None:
        """End the subscription."""
        self._bus.on_disconnect.remove(self._on_disconnect)
        with suppress(nats.errors.Error):
            await self._subscription.unsubscribe()

    async def publish(self, events: Sequence[Leaving]) -> list[int | None]:
        """The stream's sequence of each event, published in order; None for one that it did not acknowledge in time.

        TimeoutError when it acknowledged none, Unavailable when it refused one or the bus was lost.
        """
        self._batch += 1
        self._sequences, self._missing = [None] * len(events), len(events)
        self._refusal = None
        self._complete.clear()
        for number, (event, attempt) in enumerate(events):
            if not self._client.is_connected:
                raise Unavailable("The bus was lost in the middle of a batch.")
            await self._client.publish(
                f"evt.{event.tenant}.{event.type}",
                event.data,
                reply=f"{self._prefix}{self._batch}.{number}",
                headers=event_headers(event) | {"Nats-Msg-Id": message_id(self._key, event.id, attempt)},
            )
        try:
            await asyncio.wait_for(self._complete.wait(), timeout=_ACK_SECONDS)
        except TimeoutError:
            if self._missing == len(events):
                raise
        if self._refusal is not None:
            raise Unavailable(f"Events are not in the stream: {self._refusal}.")
        return self._sequences

    def _on_disconnect(self) -> None:
        """Give up the batch: its acknowledgements went with the connection. The relay retries on the next one."""
        self._refusal = "the bus was lost"
        self._complete.set()

    async def _on_ack(self, message: Msg) -> None:
        _, batch, number = message.subject.rsplit(".", 2)
        if int(batch) != self._batch or self._sequences[int(number)] is not None:
            return
        answer = orjson.loads(message.data or b'{"error":{"description":"there is no stream"}}')
        if "error" in answer:
            self._refusal = str(answer["error"].get("description"))
        self._sequences[int(number)] = answer.get("seq", 0)
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()
