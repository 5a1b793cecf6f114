"""The bus: asking and answering commands, following events.

    call       ctx + command ──► token, deadline, trace, sealed body ──► reply or AppError
    answer     message ──► token verified ──► issuer and permission allowed ──► in time? ──► handler ──► reply

Promises: `Unavailable` means that the command did not run and will not: there was no connection or no responder, or
the queue was full. Once it is sent, no answer is `Timeout`, outcome unknown; what arrives after its deadline is
dropped unexecuted. Every failure is answered. Secrets are sealed for the receiver. Nothing larger than the server's
limit is sent, so no tenant can make it close a connection that others share.

Commands run directly on the NATS connection that the FastStream broker holds, since a framework's pipeline per message
costs more than the rest of the way; events are FastStream's (`docs/decisions/0003-lean-command-path.md`).
"""

import asyncio
import logging
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import nats.errors
import orjson
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.nats.security import NatsNKey, NatsSecurity
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from pydantic import ValidationError

from causeloop_common import ids, telemetry
from causeloop_common.context import AuthContext, Idempotency, ServiceTokens
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Announced, Command, Envelope, Event, Message
from causeloop_common.errors import (
    AppError,
    Forbidden,
    Internal,
    InvalidInput,
    PayloadTooLarge,
    Timeout,
    Unauthorized,
    Unavailable,
)
from causeloop_common.idempotency import Replayed
from causeloop_common.keys import KeyRing, Sealer
from causeloop_common.settings import Settings

_log = logging.getLogger(__name__)

ReplyT = TypeVar("ReplyT", bound=Message)
CommandT = TypeVar("CommandT", bound=Command[Any])
EventT = TypeVar("EventT", bound=Event)

TOKEN = "Causeloop-Token"  # noqa: S105  a header's name
DEADLINE = "Causeloop-Deadline"
REQUEST_ID = "Causeloop-Request-Id"
IDEMPOTENCY_KEY = "Causeloop-Idempotency-Key"
FINGERPRINT = "Causeloop-Fingerprint"
REPLAYED = "Causeloop-Replayed"
RETRY_AFTER = "Causeloop-Retry-After"
ERROR = "Nats-Service-Error"  # ADR-32
ERROR_CODE = "Nats-Service-Error-Code"
TRACEPARENT = "traceparent"

_HEADROOM_BYTES = 16 * 1024
"""Of `max_payload`, for the protocol's own lines."""

_ATTRIBUTES = ("ce-actor", "ce-credential", "ce-subject", "ce-requestid", TRACEPARENT)
_ATTRIBUTE = re.compile(r"[\x20-\x7e]{0,256}")
_FIRST_YEAR, _LAST_YEAR = 2000, 9000

_COMPLAINT_SECONDS = 5.0
_PING_SECONDS = 0.3
"""A connection that leaves two pings unanswered is gone when the third is due: a silent cut is known after two to three
of these, within a second."""


_UNSENT_MILLISECONDS = 1000


class Answer(NamedTuple):
    """A reply as it arrived: its JSON (sealed fields still sealed), and whether it is a replay."""

    body: bytes
    replayed: bool


class _Replies:
    """The replies to this process's requests: one subscription on its private inbox, a future for each request."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = f"{client.new_inbox()}."
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._sent = 0

    @classmethod
    async def subscribe(cls, client: Client) -> "_Replies":
        """Ready to ask."""
        made = cls(client)
        await client.subscribe(f"{made._prefix}*", cb=made._on_reply)
        return made

    async def ask(self, subject: str, body: bytes, headers: dict[str, str], seconds: float) -> Msg:
        """The reply; TimeoutError when none came in time, NoRespondersError when nobody listens."""
        loop = asyncio.get_running_loop()
        self._sent += 1
        inbox = f"{self._prefix}{self._sent}"
        waiting: asyncio.Future[Msg] = loop.create_future()
        self._waiting[inbox] = waiting
        timer = loop.call_later(seconds, _time_out, waiting)
        try:
            await self._client.publish(subject, body, reply=inbox, headers=headers)
            reply = await waiting
        finally:
            timer.cancel()
            del self._waiting[inbox]
        if reply.headers is not None and reply.headers.get("Status") == "503":
            raise nats.errors.NoRespondersError
        return reply

    async def _on_reply(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


def _time_out(waiting: "asyncio.Future[Msg]") -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError())


class Bus:
    """One service's connection to NATS, its tokens and its sealers."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self.service = settings.service
        self._tokens = ServiceTokens(keys)
        self._sealers: dict[tuple[str, str], Sealer] = {
            pair: Sealer(keys.pair(*pair)) for pair in topology.pairs() if self.service in pair
        }
        seed = settings.nats_nkey_seed
        trusted = ssl.create_default_context(cafile=settings.nats_ca_file) if settings.nats_ca_file else None
        self.broker = NatsBroker(
            settings.nats_url,
            name=f"causeloop-{self.service}",
            inbox_prefix=topology.inbox(self.service),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]
            connect_timeout=2,
            ping_interval=_PING_SECONDS,  # type: ignore[arg-type]
            max_outstanding_pings=2,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._connected,
            error_cb=self._failed,
            allow_reconnect=True,
            apply_types=False,
            logger=None,
            ack_policy=AckPolicy.MANUAL,
            security=(
                NatsNKey.from_seed(seed.get_secret_value(), ssl_context=trusted)
                if seed
                else NatsSecurity(ssl_context=trusted)
            ),
        )
        self._client: Client | None = None
        self._replies: _Replies
        self._complained_at = float("-inf")
        self.on_disconnect: list[Callable[[], None]] = []
        """Called when the connection is lost."""

    async def connect(self) -> None:
        """Connect; `Unavailable` when the server cannot be reached or refuses."""
        try:
            self._client = await asyncio.wait_for(self.broker.connect(), timeout=5)
        except (OSError, nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"NATS does not let {self.service} in: {type(error).__name__}.") from error
        self._replies = await _Replies.subscribe(self._client)
        await self._connected()

    async def close(self) -> None:
        """Send what is waiting and disconnect."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(nats.errors.Error, OSError, TimeoutError):
                if client.is_connected:
                    await asyncio.wait_for(client.flush(), timeout=2)
            with suppress(nats.errors.Error, OSError, TimeoutError):
                await self.broker.stop()

    @property
    def is_connected(self) -> bool:
        """Whether a message would leave now."""
        return self._client is not None and self._client.is_connected

    @property
    def client(self) -> Client:
        """The NATS connection; `Unavailable` while there is none."""
        if self._client is None or not self._client.is_connected:
            raise Unavailable("The message bus cannot be reached. Nothing was done; try again.")
        return self._client

    @property
    def server_id(self) -> str:
        """Which run of which server this is connected to; another one may have lost what the last acknowledged."""
        return str(self.client._server_info["server_id"])

    def jetstream(self) -> JetStreamContext:
        """JetStream on this connection."""
        return self.client.jetstream(timeout=5)

    async def call(self, ctx: AuthContext, command: Command[ReplyT]) -> ReplyT:
        """Ask and wait: the reply, or the AppError that the owner answered."""
        answer = await self.request(ctx, command)
        return command.reply.model_validate_json(answer.body, context=self.envelope_of_reply(ctx, command))  # type: ignore[return-value]

    async def request(self, ctx: AuthContext, command: Command[Any]) -> Answer:
        """Ask and wait for the reply's bytes."""
        _ = self.client
        headers = {
            TOKEN: self._tokens.mint(ctx, command.service),
            DEADLINE: str(int((time.time() + command.timeout) * 1000)),
            REQUEST_ID: ctx.request_id,
            TRACEPARENT: telemetry.child_traceparent(ctx.traceparent),
        }
        if ctx.idempotency is not None and not command.pure:
            headers[IDEMPOTENCY_KEY], headers[FINGERPRINT] = ctx.idempotency
        body = command.to_wire(self._envelope(self.service, command.service, ctx, command.subject))
        if len(body) > topology.MAX_PAYLOAD_BYTES - _HEADROOM_BYTES:
            raise PayloadTooLarge(f"The request is {len(body)} bytes on the bus, more than fits. Send less at once.")
        try:
            message = await self._replies.ask(command.subject, body, headers, command.timeout)
        except nats.errors.NoRespondersError as error:
            raise Unavailable(f"The {command.service} service is not running. Nothing was done; try again.") from error
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Timeout(
                f"The {command.service} service did not answer in time; it may have acted. "
                "Retry with the same Idempotency-Key."
            ) from error
        told = message.headers or {}
        if (code := told.get(ERROR_CODE)) is not None:
            raise _error_from(code, told, message.data)
        return Answer(message.data, REPLAYED in told)

    def envelope_of_reply(self, ctx: AuthContext, command: Command[Any]) -> Envelope:
        """What opens the sealed fields of the reply to this command."""
        return self._envelope(self.service, command.service, ctx, f"{command.subject}.reply")

    def _envelope(self, issuer: str, audience: str, ctx: AuthContext, label: str) -> Envelope:
        return Envelope(self._sealers[issuer, audience], f"{label}:{ctx.tenant}")

    def follow(self, subject: str, receive: Callable[[Announced], Awaitable[None]]) -> None:
        """Follow live events without durability: what was missed is gone. Call before `start`."""
        subscriber = self.broker.subscriber(subject, decoder=_undecoded, no_reply=True)

        async def on_event(message: NatsMessage) -> None:
            with suppress(ValueError, KeyError):
                await receive(announced(message.raw_message))

        subscriber(_raw(on_event))

    async def say(self, event: Announced) -> None:
        """Tell those who follow at this moment, ahead of whatever this connection says next; the stream hears later."""
        with suppress(AppError, nats.errors.Error, OSError):  # the relay says it again
            await self.client.publish(f"now.{event.tenant}.{event.type}", event.data, headers=event_headers(event))

    async def start(self) -> None:
        """Start what was declared with `follow` and `EventRouter`."""
        await self.broker.start()

    async def flush(self) -> None:
        """Wait until the server knows of every message and subscription so far."""
        with suppress(AppError, nats.errors.Error, OSError, TimeoutError):  # what is lost is subscribed again anyway
            await self.client.flush()  # nats-py sends this ping ahead of what is waiting
            await self.client.flush()

    async def _connected(self) -> None:
        if self._client is not None:
            _give_up_unsent(self._client)
        telemetry.BUS_CONNECTED.labels(self.service).set(1)
        _log.info("connected to the bus")

    async def _disconnected(self) -> None:
        telemetry.BUS_CONNECTED.labels(self.service).set(0)
        if self._client is not None:
            _log.warning("lost the bus")
        for react in self.on_disconnect:
            react()

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):  # messages were dropped: as good as a lost connection
            for react in self.on_disconnect:
                react()
        now = time.monotonic()
        if self.is_connected or now - self._complained_at > _COMPLAINT_SECONDS:
            self._complained_at = now  # while the bus is away every try to reconnect ends up here
        else:
            return
        _log.warning("bus: %s: %s", type(error).__name__, error)


def _give_up_unsent(client: Client) -> None:
    """Let the kernel end a connection whose other side has taken nothing for so long.

    nats-py waits until everything is sent before it connects anew. To a host that is gone nothing is ever sent, and
    TCP alone waits for a quarter of an hour. (Linux only; elsewhere it stays with that.)
    """
    if client._transport is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        wire = client._transport._io_writer.get_extra_info("socket")  # type: ignore[attr-defined]
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MILLISECONDS)


class _Route(NamedTuple):
    """What answers one kind of command, and its metrics."""

    kind: type[Command[Any]]
    handler: Callable[[AuthContext, Any], Awaitable[Message]]
    seconds: Any
    answered: Any
    inboxes: tuple[str, ...]


class CommandRouter:
    """Answers commands: `@router.on(PutSecret) async def put_secret(ctx, command)`."""

    def __init__(self) -> None:
        self._handlers: dict[type[Command[Any]], Callable[[AuthContext, Any], Awaitable[Message]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []

    def on(
        self, kind: type[CommandT]
    ) -> Callable[
        [Callable[[AuthContext, CommandT], Awaitable[Message]]], Callable[[AuthContext, CommandT], Awaitable[Message]]
    ]:
        """Register the handler of one kind of command."""

        def register(
            handler: Callable[[AuthContext, CommandT], Awaitable[Message]],
        ) -> Callable[[AuthContext, CommandT], Awaitable[Message]]:
            self._handlers[kind] = handler
            return handler

        return register

    @property
    def kinds(self) -> list[type[Command[Any]]]:
        """What is answered here."""
        return list(self._handlers)

    async def start(self, bus: Bus, *, workers: int) -> None:
        """Subscribe. At most `workers` commands run at once; up to eight times as many wait, more are refused."""
        self._bus = bus
        self._slots = asyncio.Semaphore(workers)
        self._most = workers * 9
        for kind, handler in self._handlers.items():
            route = _Route(
                kind,
                handler,
                telemetry.COMMAND_SECONDS.labels(kind.subject),
                telemetry.COMMANDS.labels(kind.subject, "ok"),
                tuple(f"{topology.inbox(issuer)}." for issuer in kind.issuers),
            )
            subscription = await bus.client.subscribe(kind.subject, queue=bus.service, cb=partial(self._receive, route))
            self._subscriptions.append(subscription)

    async def drain(self, seconds: float) -> None:
        """Leave the queue group, so that new commands go elsewhere, and let the running ones end."""
        if not self._subscriptions:  # it never started
            return
        with suppress(AppError, nats.errors.Error, OSError, TimeoutError):
            _ = self._bus.client
            await asyncio.gather(*(leaving.drain() for leaving in self._subscriptions))  # type: ignore[no-untyped-call]
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def _receive(self, route: "_Route", message: Msg) -> None:
        if not message.reply.startswith(route.inboxes):
            # An answer to any other subject would say there, with this service's rights, what the asker may not say.
            telemetry.COMMANDS.labels(route.kind.subject, "astray").inc()
            return
        if len(self._running) >= self._most:
            busy = Unavailable(f"The {route.kind.service} service is busy. Try again.")
            await self._refuse(route.kind, message, busy)
            return
        task = asyncio.create_task(self._answer(route, message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, route: "_Route", message: Msg) -> None:
        started = time.perf_counter()
        kind = route.kind
        try:
            async with self._slots:
                headers = message.headers or {}
                if time.time() * 1000 > _deadline(headers):
                    telemetry.COMMANDS.labels(kind.subject, "late").inc()
                    return  # the caller was told long ago; answering now could only confuse
                reply = await self._run(kind, route.handler, headers, message.data)
            if len(reply.body) > topology.MAX_PAYLOAD_BYTES - _HEADROOM_BYTES:
                raise PayloadTooLarge("The answer is larger than fits on the bus. Ask for less at once.")
            await self._bus.client.publish(
                message.reply, reply.body, headers={REPLAYED: "true"} if reply.replayed else None
            )
            route.answered.inc()
        except AppError as error:
            await self._refuse(kind, message, error)
        except Exception:  # noqa: BLE001  every failure is answered
            _log.exception("%s failed", kind.subject)
            await self._refuse(kind, message, Internal("Something failed on our side. Report it with the trace id."))
        finally:
            route.seconds.observe(time.perf_counter() - started)

    async def _run(self, kind: type[Command[Any]], handler: Any, headers: dict[str, str], body: bytes) -> Answer:
        bus = self._bus
        claims = bus._tokens.verify(headers.get(TOKEN, ""))
        if claims.issuer not in kind.issuers or kind.permission not in claims.permissions:
            raise Forbidden(f"This needs the permission '{kind.permission}'.")
        key = headers.get(IDEMPOTENCY_KEY)
        ctx = AuthContext(
            *claims,
            request_id=headers.get(REQUEST_ID, ""),
            traceparent=headers.get(TRACEPARENT, ""),
            idempotency=Idempotency(key, headers.get(FINGERPRINT, "")) if key else None,
        )
        telemetry.bind(telemetry.Act(bus.service, ctx.request_id, ctx.tenant, ctx.traceparent))
        try:
            command = kind.model_validate_json(
                body, context=bus._envelope(claims.issuer, bus.service, ctx, kind.subject)
            )
        except ValidationError as error:
            raise invalid_input(error) from error
        try:
            reply = await handler(ctx, command)
        except Replayed as done:
            return Answer(done.reply, replayed=True)
        envelope = bus._envelope(claims.issuer, bus.service, ctx, f"{kind.subject}.reply")
        return Answer(reply.to_wire(envelope), replayed=False)

    async def _refuse(self, kind: type[Command[Any]], message: Msg, error: AppError) -> None:
        telemetry.COMMANDS.labels(kind.subject, error.code).inc()
        headers = {ERROR_CODE: error.code, ERROR: " ".join(error.detail.split())}
        if error.retry_after is not None:
            headers[RETRY_AFTER] = str(error.retry_after)
        body = orjson.dumps({"fields": error.fields}) if error.fields else b""
        with suppress(AppError, nats.errors.Error, OSError):  # the bus is gone: the caller's deadline tells them
            await self._bus.client.publish(message.reply, body, headers=headers)


class EventRouter:
    """Follows a durable consumer: `@router.on(MemberRemoved) async def member_removed(ctx, event, event_id)`.

    At least once; a handler begins with `tx.claim(consumer, event_id)`. A passing fault is retried for as long as it
    lasts, with delay; any other after `attempts` goes to the dead-letter stream, copied before it is terminated.
    """

    def __init__(self, consumer: topology.Consumer, *, attempts: int = 6) -> None:
        self.consumer = consumer
        self._attempts = attempts
        self._handlers: dict[str, tuple[type[Event], Any]] = {}

    def on(
        self, kind: type[EventT]
    ) -> Callable[
        [Callable[[AuthContext, EventT, UUID], Awaitable[None]]], Callable[[AuthContext, EventT, UUID], Awaitable[None]]
    ]:
        """Register the handler of one kind of event; kinds without one are passed over."""

        def register(
            handler: Callable[[AuthContext, EventT, UUID], Awaitable[None]],
        ) -> Callable[[AuthContext, EventT, UUID], Awaitable[None]]:
            self._handlers[kind.type] = (kind, handler)
            return handler

        return register

    def attach(self, bus: Bus) -> None:
        """Declare the subscription; `Bus.start` begins it."""
        self._bus = bus
        subscriber = bus.broker.subscriber(
            self.consumer.filters[0],  # a name for FastStream; the consumer, made by the operator, has the filters
            durable=self.consumer.name,
            stream=JStream(self.consumer.stream, declare=False),
            pull_sub=PullSub(batch_size=16, timeout=1.0),
            inbox_prefix=f"{topology.inbox(bus.service)}.".encode(),  # the connection's own is not asked for pulls
            ack_policy=AckPolicy.MANUAL,
            decoder=_undecoded,
            no_reply=True,
        )
        subscriber(_raw(self._receive))

    async def _receive(self, message: NatsMessage) -> None:
        raw = message.raw_message
        tries = raw.metadata.num_delivered or 1
        try:
            event = announced(raw)
            found = self._handlers.get(event.type)
            if found is not None:
                kind, handler = found
                service = raw.subject.split(".")[2]
                ctx = AuthContext(
                    event.tenant, f"svc_{self.consumer.service}", frozenset(), None, service, event.request_id,
                    telemetry.child_traceparent(event.traceparent),
                )  # fmt: skip
                telemetry.bind(telemetry.Act(self.consumer.service, ctx.request_id, ctx.tenant, ctx.traceparent))
                await handler(ctx, kind.model_validate_json(event.data), ids.decode(event.id, "evt"))
        except Unavailable as error:
            _log.warning("%s waits: %s", raw.subject, error.detail)
            await raw.nak(delay=_delay(tries))
        except Exception:  # noqa: BLE001  retried, then kept as a dead letter
            _log.exception("%s failed, attempt %d of %d", raw.subject, tries, self._attempts)
            if tries < self._attempts:
                await raw.nak(delay=_delay(tries))
                return
            subject = f"dead.{self.consumer.service}.{self.consumer.name}"
            # An id of its own: under the event's, the letter of a second consumer would pass for a duplicate.
            letter = f"{self.consumer.name}/{raw.metadata.sequence.stream}"
            headers = {**(raw.headers or {}), "Causeloop-Subject": raw.subject, "Nats-Msg-Id": letter}
            await self._bus.jetstream().publish(subject, raw.data, headers=headers)
            await raw.term()
        else:
            await raw.ack()


def _delay(tries: int) -> float:
    """Seconds until the next attempt: twice as long each time, at most 30."""
    return min(0.1 * float(2 ** min(tries, 10)), 30.0)


def announced(message: Msg) -> Announced:
    """An event as it arrived (CloudEvents 1.0, NATS binding, binary mode); ValueError or KeyError if it is none.

    Tenant and type are taken from the subject, which the bus guards, and never from what the sender wrote.
    """
    _, tenant, service, name = message.subject.split(".")
    headers = message.headers or {}
    ids.tenant_uuid(tenant)
    ids.decode(headers["ce-id"], "evt")
    if not all(_ATTRIBUTE.fullmatch(headers.get(name, "")) for name in _ATTRIBUTES):
        raise ValueError("an attribute is too long or not printable ASCII")
    occurred_at = datetime.fromisoformat(headers["ce-time"])
    if occurred_at.tzinfo is None or not _FIRST_YEAR <= occurred_at.year <= _LAST_YEAR:
        raise ValueError("the time has no zone or is out of bounds")
    return Announced(
        id=headers["ce-id"],
        tenant=tenant,
        type=f"{service}.{name}",
        occurred_at=occurred_at,
        actor=headers["ce-actor"],
        credential=headers.get("ce-credential"),
        target=headers["ce-subject"],
        request_id=headers.get("ce-requestid", ""),
        traceparent=headers.get(TRACEPARENT, ""),
        data=message.data,
    )


def event_headers(event: Announced) -> dict[str, str]:
    """The headers with which an event travels; `announced` reads them. JetStream deduplicates by the event's id."""
    headers = {
        "Nats-Msg-Id": event.id,
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": f"/causeloop/{event.type.partition('.')[0]}",
        "ce-type": event.type,
        "ce-subject": event.target,
        "ce-time": event.occurred_at.isoformat(),
        "ce-actor": event.actor,
        "ce-requestid": event.request_id,
        "content-type": "application/json",
        TRACEPARENT: event.traceparent,
    }
    if event.credential is not None:
        headers["ce-credential"] = event.credential
    return headers


def invalid_input(error: ValidationError) -> InvalidInput:
    """A pydantic refusal as field → reasons; what was sent is not repeated."""
    fields: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"]) or "body"
        fields.setdefault(name, []).append(problem["msg"].removeprefix("Value error, "))
    return InvalidInput("The request has invalid fields; see 'errors'.", fields=fields)


def _error_from(code: str, headers: dict[str, str], body: bytes) -> AppError:
    fields = orjson.loads(body).get("fields") if body else None
    retry_after = headers.get(RETRY_AFTER)
    return AppError.from_wire(code, headers.get(ERROR, ""), fields, int(retry_after) if retry_after else None)


def _deadline(headers: dict[str, str]) -> int:
    try:
        return int(headers[DEADLINE])
    except (KeyError, ValueError) as error:
        raise Unauthorized("The command carries no deadline.") from error


async def _undecoded(message: NatsMessage) -> NatsMessage:
    """FastStream's decoder: hand the message on as it is (a plain function would go to a thread for each message)."""
    return message


def _raw(receive: Callable[[NatsMessage], Awaitable[None]]) -> Callable[[NatsMessage], Awaitable[None]]:
    """The handler FastStream calls with what `_undecoded` returned."""

    async def handle(message: NatsMessage) -> None:
        await receive(message)

    return handle
