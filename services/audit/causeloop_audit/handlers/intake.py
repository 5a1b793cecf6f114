"""The intake: every event on the bus into its tenant's log."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import nats.errors
import orjson
from nats.aio.msg import Msg

from causeloop_audit.domain.entries import Unreadable, identity
from causeloop_audit.handlers.deliveries import BATCH, Deliveries
from causeloop_audit.handlers.receipts import Receipts, sequence, stored_at
from causeloop_audit.service import LogService
from causeloop_common import ids, telemetry
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.topology import AUDIT_INTAKE
from causeloop_common.errors import AppError, Unavailable
from causeloop_common.leader import Leader, Work
from causeloop_common.messaging import Bus, Linger, Progress, announced, consumer_state, public_subject
from causeloop_common.telemetry import Span, SpanKind, metrics

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0
_BESIDE_SECONDS = 0.05
"""The wait for a batch while there is more to enter of what was held."""
_RESET_SECONDS = 2.0
_LOOK_SECONDS = 10.0
"""Between two looks whether what is held can be entered."""


class Intake(Work):
    """Enters every event of the stream in its tenant's log.

    One intake is at work at a time. It commits a batch in its term and then acknowledges it: what is delivered again is
    found in the log. It never gives up on an event: it waits while the database or the bus has a fault, and what cannot
    be read is entered as malformed.

    One acknowledgement covers a batch and everything before it. That is right because whatever has a lower number in
    the stream was delivered earlier and is entered. Two steps keep this true: an intake that begins resets the
    consumer, which then delivers everything that was not acknowledged, in the stream's order and counted from 1; and
    when the count has a gap, there is silence after the bus was lost, or an event is delivered a second time, it begins
    again. A second delivery shows that an acknowledgement of an earlier intake came late: with its higher count the
    server ignores ours.

    Where the database is older than what was acknowledged, it was restored: then the consumer is reset to what the
    database has, and delivers the rest of the stream again. Its entries become the same as they were.
    """

    def __init__(self, bus: Bus, service: LogService, leader: Leader) -> None:
        self._bus = bus
        self._service = service
        self._leader = leader
        self._progress = Progress(bus.reader, AUDIT_INTAKE)
        self._looked_at = float("-inf")
        self._entered = self._again_to = 0
        """The last number of the stream that was entered, and that up to which it is entered again."""
        self._enters_held = False
        """Whether a look for what is held is to be followed by another at once."""

    async def lead(self) -> None:
        """Enter events until cancelled."""
        receipts = Receipts(self._bus, await self._service.begin_term())
        self._looked_at = float("-inf")  # another intake may have held events meanwhile
        while True:
            await self._reset()
            deliveries = await Deliveries.open(self._bus.reader, AUDIT_INTAKE)
            try:
                await self._enter(deliveries, receipts)
            finally:
                await deliveries.close()

    async def _enter(self, deliveries: Deliveries, receipts: Receipts) -> None:
        """Enter what is delivered, until it is cut."""
        delivered, reconnects, linger = 0, self._bus.reader.client.stats["reconnects"], Linger()
        while True:
            self._leader.works()
            await self._enter_held()
            await receipts.send_floor()
            batch = await deliveries.next(_BESIDE_SECONDS if self._enters_held else _WAIT_SECONDS)
            if not batch:
                if deliveries.are_cut:
                    return
                if self._bus.reader.client.stats["reconnects"] != reconnects:
                    raise Unavailable("The bus was lost, and what it delivered may be lost with it.")
                if self._entered < self._again_to:
                    await self._end_again()
                continue
            began = time.perf_counter()
            whole = in_order(batch, delivered)
            if whole:
                delivered += len(whole)
                await self._take_in(whole, receipts)
                self._leader.require()  # a later intake's acknowledgements would be ignored after a late one of ours
                await whole[-1].ack()
            if len(whole) < len(batch):
                raise Unavailable("A delivery was lost on its way to the log, or came a second time.")
            rest = linger.after(len(batch)) - (time.perf_counter() - began)
            if rest > 0 and len(batch) < BATCH // 2 and not deliveries.are_cut:
                await asyncio.sleep(rest)

    async def _enter_held(self) -> None:
        """Enter one part of what is held, if it is time for it; the next one after the next batch."""
        if self._enters_held or time.monotonic() - self._looked_at > _LOOK_SECONDS:
            self._looked_at = time.monotonic()
            appended, self._enters_held = await self._service.enter_held()
            await self._announce_heads(appended.sizes)

    async def waiting(self) -> float:
        """The seconds for which the oldest event has been waiting that was in the stream at an earlier look."""
        return await self._progress.waiting()

    async def check(self) -> None:
        """Readiness: Unavailable while the stream is entered again, since logs are shorter than they were."""
        if self._leader.leads and self._entered < self._again_to:
            raise Unavailable(
                "Audit's database was restored from an older copy: the stream is entered again up to message "
                f"{self._again_to}, and {self._entered} is reached."
            )

    async def _reset(self) -> None:
        """Have the consumer begin after the last acknowledgement, whatever it delivered since then, or where the
        database ends, if that is older.
        """
        reset = await self._ask_reset()
        floor = int(reset["ack_floor"]["stream_seq"])
        begin, self._again_to = await self._service.again_from(await self._bus.ends(), floor)
        self._entered = floor if begin is None else begin - 1
        if begin is not None and (await self._ask_reset(seq=begin))["num_pending"]:
            _log.warning(
                "the database is older than what was acknowledged: the stream is entered again from %d to %d",
                begin, floor,
            )  # fmt: skip

    async def _end_again(self) -> None:
        """End what is entered again where the stream ends before its number is reached, as after a purge."""
        state = await consumer_state(self._bus.reader, AUDIT_INTAKE)
        if not state.num_pending and not state.num_ack_pending:
            await self._service.end_again()
            self._again_to = 0

    async def _ask_reset(self, **begin: int) -> Any:
        """Reset the consumer to its last acknowledgement, or to begin at this number; its state after that."""
        request, body = topology.reset(AUDIT_INTAKE), orjson.dumps(begin) if begin else b""
        try:
            answer = await self._bus.reader.client.request(request, body, timeout=_RESET_SECONDS)
        except (TimeoutError, nats.errors.NoRespondersError) as error:
            why = "it does not answer. Run `causeloop migrate`; NATS must be of version 2.14 or later"
            raise Unavailable(f"The consumer {AUDIT_INTAKE.name} cannot be reset: {why}.") from error
        state = orjson.loads(answer.data)
        if refusal := state.get("error"):
            raise Unavailable(f"The consumer {AUDIT_INTAKE.name} cannot be reset: {refusal['description']}.")
        return state

    async def _take_in(self, batch: Sequence[Msg], receipts: Receipts) -> None:
        """Append a batch to the logs, send the receipts, and publish the logs' new sizes."""
        messages = [_read(message) for message in batch]
        events = [message for message in messages if isinstance(message, Announced)]
        spans = [self._begin(event) for event in events] if telemetry.is_tracing(self._bus.tracer) else []
        began = time.perf_counter()
        position = sequence(batch[-1])
        appended = await self._service.append(messages, position=position)
        self._entered = position
        await receipts.send(messages, batch, appended)
        metrics.APPEND_SECONDS.observe(time.perf_counter() - began)
        metrics.INTAKE_BATCH.observe(len(batch))
        if events:
            oldest = min(event.occurred_at for event in events)
            metrics.INTAKE_LAG.observe(max((datetime.now(UTC) - oldest).total_seconds(), 0))
        indexes = {entry[:3]: index for entry, index in appended.entries} if spans else {}
        for event, span in zip(events, spans, strict=False):
            index = indexes.get(identity(event))
            if index is not None:  # else the log had it before
                span.set_attribute("causeloop.log_index", index)
                span.end()
        await self._announce_heads(appended.sizes)

    def _begin(self, event: Announced) -> Span:
        return self._bus.tracer.start_span(
            "audit.append",
            telemetry.cause(event.traceparent),
            SpanKind.CONSUMER,
            {
                "messaging.system": "nats",
                "causeloop.tenant": event.tenant,
                "causeloop.event_id": event.id,
                "causeloop.action": event.type,
            },
        )

    async def _announce_heads(self, sizes: Mapping[UUID, int]) -> None:
        """Publish the new sizes of these logs. A reader that misses one looks for itself a little later."""
        with suppress(AppError, nats.errors.Error, OSError):
            for log, size in sizes.items():
                await self._bus.client.publish(topology.head(ids.tenant_id(log)), b"%d" % size)


def in_order(batch: list[Msg], delivered: int) -> list[Msg]:
    """The beginning of a batch in which nothing is missing and nothing is delivered again, after so many deliveries.

    An acknowledgement covers all before it: one delivery that is missing in the middle, and another one that came
    twice, make a batch of the right length.
    """
    for place, message in enumerate(batch):
        tokens = message.reply.split(".")
        numbers = tokens[4:7] if len(tokens) == 9 else tokens[6:9]  # deliveries, stream, consumer: NATS ADR-15
        if numbers[0] != "1" or numbers[2] != str(delivered + place + 1):
            return batch[:place]
    return batch


def _read(message: Msg) -> Announced | Unreadable:
    try:
        return announced(message)
    except (ValueError, KeyError):
        return Unreadable(public_subject(message.subject), message.headers or {}, message.data, stored_at(message))
