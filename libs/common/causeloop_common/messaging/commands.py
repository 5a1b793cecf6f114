"""Answering commands.

    message ──► a free worker ──► in time? ──► token, issuer, permission ──► body ──► handler ──► reply

Every failure is answered; a command that became late here is dropped unexecuted, since its caller has a `Timeout` long
since. One that is late as it arrives may be so by this clock alone: that is refused, and logged. Beyond a
bounded queue commands are refused: that is `Unavailable`, and nothing was done. Large ones are answered one by one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import nats.errors
import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from causeloop_common import telemetry
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Command, Message
from causeloop_common.errors import (
    AppError,
    ClocksApart,
    Forbidden,
    Internal,
    InvalidInput,
    PayloadTooLarge,
    Unavailable,
)
from causeloop_common.idempotency import Replayed
from causeloop_common.messaging.bus import Answer, Bus
from causeloop_common.messaging.wire import (
    CLOCK,
    ERROR,
    ERROR_CODE,
    FINGERPRINT,
    HEADROOM_BYTES,
    IDEMPOTENCY_KEY,
    REPLAYED,
    REQUEST_ID,
    RETRY_AFTER,
    TOKEN,
    TRACEPARENT,
    deadline,
    invalid_input,
    label,
)
from causeloop_common.messaging.workers import Workers, current
from causeloop_common.permissions import permits
from causeloop_common.telemetry import Span, SpanKind, metrics

_log = logging.getLogger(__name__)

_MOST_BYTES = 64 * 1024 * 1024
"""Of the commands that are held, more are refused."""
_LARGE_BYTES = 256 * 1024
"""Of a command that takes milliseconds to read, in which nothing else is done."""
_COMPLAINT_SECONDS = 5.0
_NATS = {"messaging.system": "nats"}

Handler = Callable[[AuthContext, Any], Awaitable[Message]]
"""Answers one kind of command: `put_secret(ctx, command)`."""
PlainHandler = Callable[[AuthContext, bytes], Awaitable[bytes | None]]
"""Answers a command in its plain form, JSON to JSON; None for any other form, of which nothing was done."""


class _Route(NamedTuple):
    """The handler of one kind of command, and its metrics."""

    kind: type[Command[Any]]
    handler: Handler
    plain: PlainHandler | None
    seconds: Any
    answered: Any
    inboxes: tuple[str, ...]


class CommandRouter:
    """Answers commands: `CommandRouter({PutSecret: secrets.put_secret})`.

    `plain` has handlers of commands whose plain form is read and written by hand. A command in any other form is read
    as its model, and answered by its handler.

    TypeError for a handler that has another name than its command: one search for it finds the whole way.
    """

    def __init__(
        self,
        handlers: Mapping[type[Command[Any]], Handler],
        plain: Mapping[type[Command[Any]], PlainHandler] = MappingProxyType({}),
    ) -> None:
        self._handlers: dict[type[Command[Any]], Handler] = {}
        self._plain = plain
        self._running: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._bytes = 0
        self._complained_at = float("-inf")
        self._one_large = asyncio.Semaphore(1)
        self.add(handlers)

    def add(self, handlers: Mapping[type[Command[Any]], Handler]) -> None:
        """Answer these as well; before `start`."""
        for kind, handler in handlers.items():
            if (name := getattr(handler, "__name__", repr(handler))) != kind.operation:
                raise TypeError(f"The handler of {kind.__name__} is named '{name}'; name it '{kind.operation}'.")
        self._handlers |= handlers

    @property
    def kinds(self) -> list[type[Command[Any]]]:
        """The commands that are answered here."""
        return list(self._handlers)

    async def start(self, bus: Bus, *, workers: int) -> None:
        """Subscribe. At most `workers` commands run at once; up to eight times as many wait, more are refused."""
        self._bus = bus
        self._workers = Workers(bus.service, workers)
        self._most = workers * 9
        held = metrics.COMMANDS_HELD
        held.labels(bus.service, "at_work").set_function(lambda: min(self._held(), workers))
        held.labels(bus.service, "waiting").set_function(lambda: max(self._held() - workers, 0))
        held.labels(bus.service, "aside").set_function(lambda: self._workers.aside)
        for kind, handler in self._handlers.items():
            route = _Route(
                kind,
                handler,
                self._plain.get(kind),
                metrics.COMMAND_SECONDS.labels(kind.subject),
                metrics.COMMANDS.labels(kind.subject, "ok"),
                tuple(f"{topology.answers(issuer, kind.service)}." for issuer in kind.issuers),
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

    def _held(self) -> int:
        """The commands that are at work or wait for a worker."""
        return len(self._running) - self._workers.aside

    async def _receive(self, route: "_Route", message: Msg) -> None:
        if not message.reply.startswith(route.inboxes):
            # An answer to any other subject would not reach the asker, or would be published with rights it lacks.
            metrics.COMMANDS.labels(route.kind.subject, "astray").inc()
            return
        size = len(message.data)
        if self._held() >= self._most or self._bytes + size > _MOST_BYTES:
            busy = Unavailable(f"The {route.kind.service} service is busy. Try again.")
            await self._refuse(route.kind, message, busy)
            return
        task = asyncio.create_task(self._answer(route, message) if size < _LARGE_BYTES else self._turn(route, message))
        self._bytes += size
        self._running.add(task)
        task.add_done_callback(partial(self._done, size))

    def _done(self, size: int, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._bytes -= size

    async def _turn(self, route: "_Route", message: Msg) -> None:
        """Answer a large command when no other large one is at work: between two of them others have their turn, and
        the bus its signs of life.
        """
        async with self._one_large:
            await asyncio.sleep(0)
            await self._answer(route, message)

    async def _answer(self, route: "_Route", message: Msg) -> None:
        started = time.perf_counter()
        current.set(self._workers)
        kind = route.kind
        headers = message.headers or {}
        trace = headers.get(TRACEPARENT, "")
        with telemetry.caused(self._bus.tracer, kind.subject, trace, SpanKind.SERVER, _NATS) as span:
            try:
                due = deadline(headers)
                if (behind := time.time() * 1000 - due) > 0:
                    raise self._late(kind, behind / 1000)
                async with self._workers.free:
                    if time.time() * 1000 > due:
                        metrics.COMMANDS.labels(kind.subject, "late").inc()
                        span.set_attribute("error.type", "late")
                        return  # the caller has a Timeout long since; an answer now could only confuse
                    reply = await self._run(route, headers, message.data, span)
                if len(reply.body) > topology.MAX_PAYLOAD_BYTES - HEADROOM_BYTES:
                    raise PayloadTooLarge("The answer is larger than fits on the bus. Ask for less at once.")
                await self._bus.client.publish(
                    message.reply, reply.body, headers={REPLAYED: "true"} if reply.replayed else None
                )
                route.answered.inc()
            except AppError as error:
                await self._refuse(kind, message, error)
            except Exception:  # noqa: BLE001  every failure is answered
                _log.exception("%s failed", kind.subject)
                failure = Internal("Something failed on our side. Report it with the trace id.")
                await self._refuse(kind, message, failure)
            finally:
                route.seconds.observe(time.perf_counter() - started)

    def _late(self, kind: type[Command[Any]], seconds: float) -> ClocksApart:
        metrics.COMMANDS.labels(kind.subject, "late").inc()
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = now
            _log.warning(
                "%s arrives %.1f s after its deadline: this host's clock and the asking one's are apart, or one of the "
                "processes stood still",
                kind.subject,
                seconds,
            )
        return ClocksApart(f"By the {kind.service} service's clock this came too late. Nothing was done; try again.")

    async def _run(self, route: _Route, headers: dict[str, str], body: bytes, span: Span) -> Answer:
        bus, kind = self._bus, route.kind
        caller = bus.tokens.verify(headers.get(TOKEN, ""))
        if caller.issuer not in kind.issuers or not permits(caller.permissions, kind.permission):
            raise Forbidden.lacking(kind.permission, "")
        if kind.step_up:
            caller.require_step_up(time.time())
        key = headers.get(IDEMPOTENCY_KEY)
        ctx = replace(
            caller,
            request_id=headers.get(REQUEST_ID, ""),
            idempotency=Idempotency(key, headers.get(FINGERPRINT, "")) if key else None,
        )
        span.set_attribute("causeloop.tenant", ctx.tenant)
        span.set_attribute("causeloop.request_id", ctx.request_id)
        telemetry.bind(telemetry.Act(bus.service, ctx.request_id, ctx.tenant))
        sealer = bus.sealers[ctx.issuer, bus.service]
        if kind.is_sealed:
            try:
                body = sealer.open(body, label(kind.subject, ctx.tenant))
            except ValueError as error:
                raise InvalidInput.of(body="is not sealed for this receiver and message") from error
        try:
            reply = None if route.plain is None else await route.plain(ctx, body)
            if reply is None:
                reply = await _handle(route, ctx, body)
        except Replayed as done:
            span.set_attribute("causeloop.replayed", True)
            return Answer(done.reply, replayed=True)
        if kind.reply.is_sealed:
            reply = sealer.seal(reply, label(f"{kind.subject}.reply", ctx.tenant))
        return Answer(reply, replayed=False)

    async def _refuse(self, kind: type[Command[Any]], message: Msg, error: AppError) -> None:
        telemetry.fail(telemetry.get_current_span(), error)
        metrics.COMMANDS.labels(kind.subject, error.code).inc()
        headers = {ERROR_CODE: error.code, ERROR: " ".join(error.detail.split())}
        if isinstance(error, ClocksApart):
            headers[CLOCK] = str(int(time.time() * 1000))
        if error.retry_after is not None:
            headers[RETRY_AFTER] = str(error.retry_after)
        body = orjson.dumps({"fields": error.fields}) if error.fields else b""
        with suppress(AppError, nats.errors.Error, OSError):  # the bus is gone: the caller's deadline ends the wait
            await self._bus.client.publish(message.reply, body, headers=headers)


async def _handle(route: _Route, ctx: AuthContext, body: bytes) -> bytes:
    """The JSON of a handler's reply to a command in JSON."""
    kind = route.kind
    try:
        command = kind.from_json(body)
    except ValidationError as error:
        raise invalid_input(error) from error
    reply = await route.handler(ctx, command)
    if type(reply) is not kind.reply:  # sealed or not, it would be taken for the other
        raise TypeError(f"{kind.__name__} is answered with {type(reply).__name__}, not with {kind.reply.__name__}.")
    return reply.to_json()
