"""The intake: every event on the bus into its tenant's log."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError

from causeloop_audit.domain.entries import Unreadable, identity
from causeloop_audit.repository import LogWriter
from causeloop_audit.service import LogService
from causeloop_common import ids, telemetry
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.topology import AUDIT_INTAKE
from causeloop_common.errors import AppError, Unavailable
from causeloop_common.messaging import Bus, announced
from causeloop_common.telemetry import Kind, Span, Tracer

_log = logging.getLogger(__name__)

BATCH = 500
_WAIT_SECONDS = 1.0
_RECALL_SECONDS = 5.0
_LINGER_SECONDS = 0.05
"""After a small batch: the first event of a lull is entered at once, under load one commit serves many."""


class Intake:
    """Every event from the stream into its tenant's log.

    One intake at a time, since one acknowledgement covers a whole batch. It commits, then acknowledges: what is
    delivered again is found in the log. It never gives up on an event: faults of database and bus are waited out, and
    what cannot be read is entered as malformed.
    """

    def __init__(self, bus: Bus, service: LogService, writer: LogWriter) -> None:
        self._bus = bus
        self._service = service
        self._writer = writer
        self._failure: str | None = None

    async def check(self) -> None:
        """Readiness: whether events are taken in."""
        if self._failure is not None:
            raise Unavailable(f"The intake waits: {self._failure}.")

    async def run(self) -> None:
        """Take in until cancelled."""
        while True:
            try:
                await self._lead()
            except (AppError, nats.errors.Error, JetStreamError, OSError, TimeoutError) as error:
                self._failure = type(error).__name__
                _log.warning("intake waits: %s: %s", type(error).__name__, error)
            finally:
                self._writer.close()
            await asyncio.sleep(0.25)

    async def _lead(self) -> None:
        await self._writer.connect()
        while not await self._writer.lead():
            self._failure = None  # another one takes in
            await asyncio.sleep(_WAIT_SECONDS)
        stream = self._bus.jetstream()
        deliveries = await self._recall(stream)
        subscription = await stream.pull_subscribe_bind(AUDIT_INTAKE.name, AUDIT_INTAKE.stream)
        try:
            self._failure = None
            while True:
                try:
                    batch = await subscription.fetch(BATCH, timeout=_WAIT_SECONDS)
                except TimeoutError:
                    _ = self._bus.client  # Unavailable when there is silence because the bus is gone
                    continue
                if not batch:  # the server ended the pull by a status and no message
                    _ = self._bus.client
                    continue
                began = time.perf_counter()
                deliveries = _counted(batch, deliveries)
                await self._take_in(batch)
                await batch[-1].ack()
                if len(batch) < BATCH and (rest := _LINGER_SECONDS - (time.perf_counter() - began)) > 0:
                    await asyncio.sleep(rest)
        finally:
            if self._bus.is_connected:
                await subscription.unsubscribe()

    async def _take_in(self, batch: Sequence[Msg]) -> None:
        """Append a batch, and tell of it."""
        events = [_read(message) for message in batch]
        readable = [event for event in events if isinstance(event, Announced)]
        tracer = self._bus.tracer
        spans = [] if tracer is None else [_begin(tracer, event) for event in readable]
        began = time.perf_counter()
        try:
            appended = await self._service.append(events)
        except BaseException:
            await self._give_back(batch)
            raise
        telemetry.APPEND_SECONDS.observe(time.perf_counter() - began)
        telemetry.INTAKE_BATCH.observe(len(batch))
        if readable:
            oldest = min(event.occurred_at for event in readable)
            telemetry.INTAKE_LAG.observe(max((datetime.now(UTC) - oldest).total_seconds(), 0))
        indexes = {(entry.log, entry.event): index for entry, index in appended.entries} if spans else {}
        for event, span in zip(readable, spans, strict=False):
            index = indexes.get(identity(event))
            if index is not None:  # else the log had it before
                span.set("causeloop.log_index", index)
                span.end()
        await self._announce_heads(appended.sizes)

    async def _announce_heads(self, sizes: Mapping[UUID, int]) -> None:
        """Wake who waits for these logs to grow. Whoever misses it looks by themselves soon."""
        with suppress(AppError, nats.errors.Error, OSError):
            for log, size in sizes.items():
                await self._bus.client.publish(topology.head(ids.tenant_id(log)), b"%d" % size)

    async def _recall(self, stream: JetStreamContext) -> int:
        """Have delivered again, before anything new, what nobody acknowledged; how many deliveries there were so far.

        An acknowledgement covers all before it: what an intake that was killed had in hand, or what was lost on its
        way here, would else count as entered with the next batch.
        """
        info = await stream.consumer_info(AUDIT_INTAKE.stream, AUDIT_INTAKE.name)
        deliveries = int(info.delivered.consumer_seq)
        held = range(info.ack_floor.stream_seq + 1, info.delivered.stream_seq + 1)
        if info.num_ack_pending and held:
            _log.warning("events were delivered before and not acknowledged: %d", info.num_ack_pending)
            place = f"$JS.ACK.{AUDIT_INTAKE.stream}.{AUDIT_INTAKE.name}.1.{{}}.{deliveries}.0.0"
            for sequence in held:
                await self._bus.client.publish(place.format(sequence), Msg.Ack.Nak)
            # The answer to the last says that the server has taken all: only then is it asked for more.
            await self._bus.client.request(place.format(held[-1]), Msg.Ack.Nak, timeout=_RECALL_SECONDS)
        return deliveries

    async def _give_back(self, batch: Sequence[Msg]) -> None:
        """Have a batch delivered again when somebody next asks, instead of after the time to acknowledge it."""
        with suppress(AppError, nats.errors.Error, OSError):
            for message in batch:
                await message.nak()


def _counted(batch: Sequence[Msg], before: int) -> int:
    """The consumer's count of deliveries after this batch; Unavailable when one of them did not arrive here."""
    if batch[0].metadata.sequence.consumer != before + 1 or batch[-1].metadata.sequence.consumer != before + len(batch):
        raise Unavailable("A delivery was lost on its way to the log.")
    return before + len(batch)


def _begin(tracer: Tracer, event: Announced) -> Span:
    span = tracer.begin("audit.append", Kind.CONSUMER, event.traceparent)
    span.set("messaging.system", "nats")
    span.set("causeloop.tenant", event.tenant)
    span.set("causeloop.event_id", event.id)
    span.set("causeloop.action", event.type)
    return span


def _read(message: Msg) -> Announced | Unreadable:
    try:
        return announced(message)
    except (ValueError, KeyError):
        return Unreadable(message.subject, message.metadata.sequence.stream, message.data)
