"""Following events durably."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import nats.errors
import nats.js.errors
from faststream import AckPolicy
from faststream.nats import JStream, NatsMessage, PullSub
from nats.aio.msg import Msg

from causeloop_common import ids, telemetry
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import Event
from causeloop_common.errors import AppError, Unavailable
from causeloop_common.messaging.bus import Bus, raw, undecoded
from causeloop_common.messaging.cloudevents import announced, letter_headers, public_subject
from causeloop_common.messaging.progress import Progress, WrongConsumer
from causeloop_common.telemetry import SpanKind, metrics

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""An event that waits longer is a fault."""
LOOK_SECONDS = 5.0
AGAIN_SECONDS = 0.5
"""Between two looks while the last one failed: this replica is not ready until one succeeds."""
_PULL_SECONDS = 5.0
"""A pull that a lost connection took along is repeated after so long."""
_AT_ONCE = 4
"""Events that a replica handles at the same time. It pulls one by one, so it holds few that it does not work on."""

Handler = Callable[[AuthContext, Any, UUID], Awaitable[None]]
"""Reacts to one kind of event: `member_removed(ctx, event, event_id)`. The id is one of the event's `identity`."""


class EventRouter:
    """Follows a durable consumer: `EventRouter(CONSUMER, {MemberRemoved: sessions.member_removed})`.

    The replicas of the service share its events. A kind of event without a handler is passed over. An event is
    delivered at least once, so its handler begins with `tx.claim(consumer, event_id)`. A passing fault is retried for
    as long as it lasts, with delay; an event that fails otherwise is copied to the dead-letter stream after `attempts`,
    and then terminated.
    """

    def __init__(
        self, consumer: topology.Consumer, handlers: Mapping[type[Event], Handler], *, attempts: int = 6
    ) -> None:
        self.consumer = consumer
        self._attempts = attempts
        self._handlers = {kind.type: (kind, handler) for kind, handler in handlers.items()}
        self._waiting = 0.0
        self._fault: str | None = f"The consumer {consumer.name} has not been looked at yet."
        metrics.CONSUMER_LAG.labels(consumer.name).set_function(lambda: self._waiting)

    def attach(self, bus: Bus) -> None:
        """Declare the subscription; `run` begins it."""
        self._bus = bus
        self._progress = Progress(bus.reader, self.consumer)
        self._subscriber = bus.reader.broker.subscriber(
            self.consumer.filters[0],  # a name for FastStream; the consumer, made by the operator, has the filters
            durable=self.consumer.name,
            stream=JStream(self.consumer.stream, declare=False),
            pull_sub=PullSub(batch_size=1, timeout=_PULL_SECONDS),
            max_workers=_AT_ONCE,
            inbox_prefix=f"{topology.inbox(bus.reader.name)}.".encode(),  # the connection's own is not asked for pulls
            ack_policy=AckPolicy.MANUAL,
            decoder=undecoded,
            no_reply=True,
        )
        self._subscriber(raw(self._receive))

    async def run(self) -> None:
        """Follow whenever there is a consumer, and look how long its oldest event has been waiting, until cancelled."""
        while True:
            try:
                self._waiting = await self._progress.waiting()
                if not self._subscriber.running:
                    await self._subscriber.start()
                self._fault = None
            except WrongConsumer as error:
                self._fault = error.detail
                await self._subscriber.stop()  # or it would ask without a pause
            except AppError as error:
                self._fault = error.detail
            except (nats.errors.Error, OSError, TimeoutError) as error:
                self._fault = f"The consumer {self.consumer.name} cannot be asked for: {type(error).__name__}."
            await asyncio.sleep(LOOK_SECONDS if self._fault is None else AGAIN_SECONDS)

    async def check(self) -> None:
        """Readiness: raise `Unavailable` unless the consumer is there, and its events are handled."""
        if self._fault is not None:
            raise Unavailable(self._fault)
        if self._waiting > PATIENCE_SECONDS:
            raise Unavailable(f"An event has been waiting for {self.consumer.name} for {self._waiting:.0f} seconds.")

    async def _receive(self, message: NatsMessage) -> None:
        delivery = message.raw_message
        tries = delivery.metadata.num_delivered or 1
        try:
            event = announced(delivery)
            found = self._handlers.get(event.type)
            if found is not None:
                kind, handler = found
                given = {
                    "messaging.system": "nats",
                    "causeloop.tenant": event.tenant,
                    "causeloop.event_id": event.id,
                }
                name, trace = f"evt.{event.type}", event.traceparent
                with telemetry.caused(self._bus.tracer, name, trace, SpanKind.CONSUMER, given):
                    ctx = AuthContext(
                        tenant=event.tenant,
                        principal=f"svc_{self.consumer.service}",
                        permissions=frozenset(),
                        issuer=event.type.partition(".")[0],
                        request_id=event.request_id,
                    )
                    telemetry.bind(telemetry.Act(self.consumer.service, ctx.request_id, ctx.tenant))
                    await handler(ctx, kind.model_validate_json(event.data), identity(event))
        except Unavailable as error:
            _log.warning("an event waits for %s: %s", self.consumer.name, error.detail)  # the same for each of them
            await delivery.nak(delay=_delay(tries))
        except Exception as error:  # noqa: BLE001  retried, then kept as a dead letter
            _log.exception("%s failed, attempt %d of %d", delivery.subject, tries, self._attempts)
            if tries < self._attempts:
                await delivery.nak(delay=_delay(tries))
                return
            await self._bury(delivery, type(error).__name__)
        else:
            await delivery.ack()
            metrics.CONSUMED.labels(self.consumer.name).inc()

    async def _bury(self, delivery: Msg, failure: str) -> None:
        """Copy what cannot be handled to the dead letters; while that is impossible, it comes again.

        The letter has no id for the stream: others could take that first. One whose acknowledgement was lost is there
        twice, under one subject, and is given back once.
        """
        number = delivery.metadata.sequence.stream
        headers = letter_headers(public_subject(delivery.subject), delivery.headers or {}, failure)
        try:
            await self._bus.jetstream().publish(topology.dead(self.consumer, number), delivery.data, headers=headers)
        except (AppError, nats.errors.Error, OSError, TimeoutError) as error:
            _log.warning(
                "an event that %s cannot handle cannot become a dead letter yet: %s",
                self.consumer.name,
                type(error).__name__,
            )
            await delivery.nak(delay=_delay(10))
            return
        metrics.DEAD_LETTERS.labels(self.consumer.name).inc()
        await delivery.term()


def identity(event: Announced) -> UUID:
    """An id of service and id: services may announce under one id, and each such event is another one."""
    service = event.type.partition(".")[0]
    return ids.decode(ids.derived("evt", f"{service}/{event.id}".encode()), "evt")


def _delay(tries: int) -> float:
    """Seconds until the next attempt: twice as long each time, at most 30."""
    return min(0.1 * float(2 ** min(tries, 10)), 30.0)
