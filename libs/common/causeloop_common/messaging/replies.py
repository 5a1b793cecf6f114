"""Requests on one NATS connection, without a subscription for each.

A reply subject is `_INBOX.<issuer>.<audience>.<connection>.<number>`: the server lets the audience alone publish there,
so no service answers in another's place, though it has seen the name of the connection.
"""

import asyncio

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from causeloop_common.messaging.wire import header_block


class Replies:
    """The replies to this process's requests: one subscription on its private inbox, a future for each request."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox, _, self._name = client.new_inbox().rpartition(".")
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._sent = 0
        self._loop = asyncio.get_running_loop()  # to ask for it is a system call

    @classmethod
    async def subscribe(cls, client: Client) -> "Replies":
        """The replies on this connection, subscribed."""
        made = cls(client)
        await client.subscribe(f"{made._inbox}.*.{made._name}.*", cb=made._on_reply)
        return made

    async def ask(self, subject: str, body: bytes, headers: dict[str, str], seconds: float) -> Msg:
        """The reply; TimeoutError without one in time, NoRespondersError without a subscriber of the subject."""
        self._sent += 1
        inbox = f"{self._inbox}.{subject.split('.', 2)[1]}.{self._name}.{self._sent}"
        waiting: asyncio.Future[Msg] = self._loop.create_future()
        self._waiting[inbox] = waiting
        timer = self._loop.call_later(seconds, _time_out, waiting)
        try:
            await self._publish(subject, inbox, header_block(headers), body)
            reply = await waiting
        finally:
            timer.cancel()
            del self._waiting[inbox]
        if reply.headers is not None and reply.headers.get("Status") == "503":
            raise nats.errors.NoRespondersError
        return reply

    async def _publish(self, subject: str, inbox: str, block: bytes, body: bytes) -> None:
        """Publish as `Client.publish` does, without its checks and its loop over headers.

        They would make asking a third dearer (docs/decisions/0017-three-own-ways-on-the-bus.md).
        """
        client, size = self._client, len(block)
        if not client.is_connected:
            raise nats.errors.ConnectionClosedError
        client.stats["out_msgs"] += 1
        client.stats["out_bytes"] += len(body)
        line = f"HPUB {subject} {inbox} {size} {size + len(body)}\r\n"
        await client._send_command(b"".join((line.encode(), block, body, b"\r\n")))
        if client._flush_queue is not None and client._flush_queue.empty():
            await client._flush_pending()

    async def _on_reply(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


def _time_out(waiting: "asyncio.Future[Msg]") -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError())
