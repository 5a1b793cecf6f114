"""What JetStream delivers of a consumer, pulled ahead: while one batch is entered, the next is on its way."""

import asyncio
import time
from collections import deque
from contextlib import suppress

import nats.errors
import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import Consumer
from causeloop_common.errors import AppError
from causeloop_common.messaging.connection import Reader

BATCH = 500
_BYTES = 2 * topology.MAX_PAYLOAD_BYTES
"""Of one pull: more than the largest message, or that one would never be delivered."""
_LINGER_SECONDS = 5.0
"""So long a pull waits for messages."""


class Deliveries:
    """The deliveries of one consumer, in their order, each an event to its subject.

    The server answers a pull on its inbox: an end of the pull comes to the inbox itself, a delivery to the subject of
    its message. So nothing that is in a message makes it a status.
    """

    _subscription: Subscription

    def __init__(self, reader: Reader, consumer: Consumer) -> None:
        self._client = reader.client
        self._request = topology.next_message(consumer)
        self._inbox = f"{self._client.new_inbox()}."
        self._arrived: deque[Msg] = deque()
        self._news = asyncio.Event()
        self._pulls = 0
        self._pulled_at = 0.0
        self._due = 0
        """How many messages the server may still deliver without another pull."""
        self.are_cut = False
        """Whether the server took a message without data for the end of a pull: what it delivered after it is lost."""

    @classmethod
    async def open(cls, reader: Reader, consumer: Consumer) -> "Deliveries":
        """Ready to be asked."""
        made = cls(reader, consumer)
        made._subscription = await made._client.subscribe(f"{made._inbox}*", cb=made._on_message)
        return made

    async def close(self) -> None:
        """End the subscription; a message that was delivered and not taken is delivered again."""
        with suppress(AppError, nats.errors.Error):
            await self._subscription.unsubscribe()

    async def next(self, seconds: float) -> list[Msg]:
        """The messages that have arrived, up to a batch; none if none arrives in time, or they are cut."""
        if not self.are_cut:
            await self._pull()
        if not self._arrived and not self.are_cut:
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
        batch = [self._arrived.popleft() for _ in range(min(BATCH, len(self._arrived)))]
        if batch and not self.are_cut:
            await self._pull()  # of what comes while this batch is entered
        return batch

    async def _pull(self) -> None:
        """Ask for another batch when less than half of one is due or here, or the server left the last pull open."""
        over = time.monotonic() - self._pulled_at > 2 * _LINGER_SECONDS
        if max(self._due, 0) + len(self._arrived) > BATCH // 2 and not over:
            return
        self._pulls += 1
        self._pulled_at = time.monotonic()
        self._due = BATCH
        asked = {"batch": BATCH, "max_bytes": _BYTES, "expires": int(_LINGER_SECONDS * 1e9)}
        await self._client.publish(self._request, orjson.dumps(asked), reply=f"{self._inbox}{self._pulls}")

    async def _on_message(self, message: Msg) -> None:
        if message.subject.startswith(self._inbox):  # the end of a pull
            if message.subject == f"{self._inbox}{self._pulls}":
                self._due = 0
        else:
            self._arrived.append(message)
            self._due -= 1
            self.are_cut = self.are_cut or not message.data
        self._news.set()
