"""One service's connection to NATS: the commands that it sends, and the live events that it receives.

A command leaves with token, deadline, trace and sealed body, and never larger than the server's limit. No connection or
no responder is `Unavailable`; no answer is `Timeout`, outcome unknown. FastStream holds the connection, commands run on
it directly (`docs/decisions/0003-lean-command-path.md`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, NamedTuple, Self, TypeVar

import nats.errors
from faststream.nats import NatsMessage
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import StreamInfo

from causeloop_common import telemetry
from causeloop_common.context import AuthContext, ServiceTokens
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced, event_headers
from causeloop_common.contracts.base import Command, Message
from causeloop_common.errors import AppError, PayloadTooLarge, Timeout, Unavailable
from causeloop_common.keys import KeyRing, Sealer
from causeloop_common.messaging.cloudevents import announced
from causeloop_common.messaging.connection import Connection, Reader
from causeloop_common.messaging.replies import Replies
from causeloop_common.messaging.server import unfit
from causeloop_common.messaging.wire import (
    CLOCK,
    DEADLINE,
    ERROR_CODE,
    FINGERPRINT,
    HEADROOM_BYTES,
    IDEMPOTENCY_KEY,
    REPLAYED,
    REQUEST_ID,
    TOKEN,
    TRACEPARENT,
    error_from,
    label,
)
from causeloop_common.messaging.workers import aside
from causeloop_common.settings import Settings
from causeloop_common.telemetry import UNTRACED, SpanKind, Tracer, metrics

_log = logging.getLogger(__name__)

ReplyT = TypeVar("ReplyT", bound=Message)

_MOST_UNREAD, _MOST_BYTES = 1000, 4 * 1024 * 1024
"""Of one subject that is followed."""
_APART_SECONDS = 30.0
"""So long a refusal counts: a replica that is not ready is asked nothing, and could not show that it is well again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply's JSON, with its secrets in clear, and whether it is the first answer again."""

    body: bytes = field(repr=False)
    replayed: bool


class StreamEnds(NamedTuple):
    """The stream of events: when it was created, and the numbers of its oldest and newest message."""

    created: str
    first: int
    last: int

    @classmethod
    def of(cls, stream: StreamInfo) -> Self:
        """Those of a stream as the server describes it; its creation in RFC 3339, since databases keep it."""
        created = "" if stream.created is None else stream.created.astimezone(UTC).isoformat(timespec="microseconds")
        return cls(created, stream.state.first_seq, stream.state.last_seq)


class Bus(Connection):
    """One service's connection to NATS, its tokens and its sealers."""

    def __init__(self, settings: Settings, keys: KeyRing, tracer: Tracer = UNTRACED) -> None:
        super().__init__(settings, settings.service, settings.nats_nkey_seed)
        self.service = settings.service
        self.tracer = tracer
        self.tokens = ServiceTokens(keys)
        self.sealers = {pair: Sealer(keys.pair(*pair)) for pair in topology.pairs() if self.service in pair}
        """By (issuer, audience): what seals and opens the bodies of this pair."""
        self.reader = Reader(settings)
        """The connection to the service's consumers, if it has any."""
        self._replies: Replies
        self._apart: dict[str, tuple[float, float]] = {}
        """By service that refused something for its time: when, and how many seconds this clock is ahead of its own."""
        self.on_disconnect: list[Callable[[], None]] = []
        """Called when the connection is lost, or messages were dropped."""
        self.on_connect: list[Callable[[], None]] = []
        """Called when there is a connection, again with every subscription."""

    async def connect(self) -> None:
        """Connect; `Unavailable` when the server cannot be reached, refuses, or is not fit for our messages."""
        if self.service in topology.readers():
            await self.reader.connect()
        await super().connect()
        self._replies = await Replies.subscribe(self.client)

    async def ended(self) -> None:
        """Wait until this connection, or the reader's, has ended for good."""
        waiting = [asyncio.create_task(one) for one in (super().ended(), self.reader.ended())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def close(self) -> None:
        """Send what is waiting and disconnect."""
        await self.reader.close()
        await super().close()

    def check(self) -> None:
        """`Unavailable` unless connected to a server that is fit for our messages and permits every subject we need."""
        if (lack := unfit(self.client)) is not None:
            raise Unavailable(lack)
        super().check()
        if self.service in topology.readers():
            self.reader.check()

    @property
    def server_id(self) -> str:
        """Which run of which server this is connected to; another one may have lost what the last acknowledged."""
        return str(self.client._server_info["server_id"])

    async def ends(self) -> StreamEnds:
        """The ends of the stream of events; `Unavailable` without the stream."""
        for stream in await self.jetstream().streams_info():
            if stream.config.name == topology.EVENTS.name:
                return StreamEnds.of(stream)
        raise Unavailable(f"There is no stream {topology.EVENTS.name}. Run `causeloop migrate`.")

    def check_clock(self) -> None:
        """Unavailable while each service that answers finds this one's clock apart from its own."""
        for service, (noted_at, seconds) in self._apart.items():
            if time.monotonic() - noted_at > _APART_SECONDS:
                continue
            raise Unavailable(
                f"This host's clock is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} that of the "
                f"{service} service. Set both by NTP: each refuses what the other asks."
            )

    def _note_clock(self, service: str, seconds: float) -> None:
        if abs(seconds) >= 1:  # else it was late by a hair, by both clocks
            self._apart[service] = (time.monotonic(), seconds)

    async def call(self, ctx: AuthContext, command: Command[ReplyT]) -> ReplyT:
        """Ask and wait: the reply, or the AppError that the owner answered. In a command, others have its worker."""
        kind = type(command)
        async with aside(kind.service, queues=True):
            answer = await self.request(ctx, kind, command.to_json())
        return kind.reply.from_json(answer.body)  # type: ignore[return-value]

    async def request(self, ctx: AuthContext, kind: type[Command[Any]], body: bytes) -> Answer:
        """Ask with a command's JSON, and wait for the reply's. The owner validates: the body may be a client's."""
        span = self.tracer.start_span(
            kind.subject,
            kind=SpanKind.CLIENT,
            attributes={
                "messaging.system": "nats",
                "causeloop.tenant": ctx.tenant,
                "causeloop.request_id": ctx.request_id,
            },
        )
        with telemetry.working(span):
            return await self._request(ctx, kind, body, telemetry.traceparent(span))

    async def _request(self, ctx: AuthContext, kind: type[Command[Any]], body: bytes, traceparent: str) -> Answer:
        _ = self.client
        headers = {
            TOKEN: self.tokens.mint(ctx, kind.service),
            DEADLINE: str(int((time.time() + kind.timeout) * 1000)),
            REQUEST_ID: ctx.request_id,
            TRACEPARENT: traceparent,
        }
        if ctx.idempotency is not None and kind.keyed:
            headers[IDEMPOTENCY_KEY], headers[FINGERPRINT] = ctx.idempotency
        sealer = self.sealers[self.service, kind.service]
        if kind.is_sealed:
            body = sealer.seal(body, label(kind.subject, ctx.tenant))
        if len(body) > topology.MAX_PAYLOAD_BYTES - HEADROOM_BYTES:
            raise PayloadTooLarge(f"The request is {len(body)} bytes on the bus, more than fits. Send less at once.")
        try:
            message = await self._replies.ask(kind.subject, body, headers, kind.timeout)
        except nats.errors.NoRespondersError as error:
            raise Unavailable(f"The {kind.service} service is not running. Nothing was done; try again.") from error
        except (nats.errors.Error, TimeoutError, OSError) as error:
            again = "; it may have acted. Retry with the same Idempotency-Key." if kind.keyed else ". Try again."
            raise Timeout(f"The {kind.service} service did not answer in time{again}") from error
        answered = message.headers or {}
        if (code := answered.get(ERROR_CODE)) is not None:
            if (clock := answered.get(CLOCK)) is not None:
                self._note_clock(kind.service, time.time() - int(clock) / 1000)
            raise error_from(code, answered, message.data)
        if self._apart:
            self._apart.clear()  # this clock agrees with somebody's
        reply = message.data
        if kind.reply.is_sealed:
            reply = sealer.open(reply, label(f"{kind.subject}.reply", ctx.tenant))
        return Answer(reply, REPLAYED in answered)

    def follow(self, subject: str, receive: Callable[[Announced], Awaitable[None]]) -> None:
        """Receive live events without durability: a missed event is gone. Call before `start`.

        Few are kept unread: those that come faster than they are read are dropped, which `on_disconnect` is called for.
        Behind many an event would come later than after a lost connection.
        """
        subscriber = self.broker.subscriber(
            subject, decoder=undecoded, no_reply=True, pending_msgs_limit=_MOST_UNREAD, pending_bytes_limit=_MOST_BYTES
        )

        async def on_event(message: NatsMessage) -> None:
            with suppress(ValueError, KeyError):
                await receive(announced(message.raw_message))

        subscriber(raw(on_event))

    async def publish(self, event: Announced) -> None:
        """Publish an event live, before anything else that this connection sends; the relay puts it into the stream."""
        with suppress(AppError, nats.errors.Error, OSError):  # the relay publishes it again
            await self.client.publish(f"now.{event.tenant}.{event.type}", event.data, headers=event_headers(event))

    async def subscribe(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Receive a live subject from now on, over reconnects, until `unsubscribe`; a missed message is gone.

        Straight from the connection, without a framework's price per message. `Unavailable` without the bus.
        """
        try:
            return await self.client.subscribe(subject, cb=receive)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("The message bus cannot be reached. Try again.") from error

    async def start(self) -> None:
        """Start what was declared with `follow`."""
        await self.broker.start()

    async def flush(self) -> None:
        """Wait until the server knows of every message and subscription so far."""
        with suppress(AppError, nats.errors.Error, OSError, TimeoutError):  # what is lost is subscribed again anyway
            await self.client.flush()  # nats-py sends this ping ahead of what is waiting
            await self.client.flush()

    async def _connected(self) -> None:
        await super()._connected()
        metrics.BUS_CONNECTED.labels(self.service).set(1)
        for react in self.on_connect:
            react()
        _log.info("connected to the bus")

    async def _disconnected(self) -> None:
        metrics.BUS_CONNECTED.labels(self.service).set(0)
        if self._client is not None:
            _log.warning("lost the bus")
        for react in self.on_disconnect:
            react()

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):  # messages were dropped: as good as a lost connection
            for react in self.on_disconnect:
                react()
        if not self.is_connected and self._is_news(error):  # every try to connect again ends up here
            _log.warning("bus: %s: %s", type(error).__name__, error)
        await super()._failed(error)


async def undecoded(message: NatsMessage) -> NatsMessage:
    """FastStream's decoder: hand the message on as it is (a plain function would go to a thread for each message)."""
    return message


def raw(receive: Callable[[NatsMessage], Awaitable[None]]) -> Callable[[NatsMessage], Awaitable[None]]:
    """The handler FastStream calls with what `undecoded` returned."""

    async def handle(message: NatsMessage) -> None:
        await receive(message)

    return handle
