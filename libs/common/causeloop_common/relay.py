"""The relay: committed events to JetStream, in order, at least once, never lost.

    SELECT unpublished ──► publish, all at once, in order ──► acknowledged ──► mark with the stream's sequence

One relay per service is at work (`leader`). A commit in its process wakes it; the relays of other replicas stand by and
wake it over the bus after theirs. It also polls every second. It reads the rows without a mark, so a late commit is
never skipped.

A broker may lose what it acknowledged (it syncs its files every two minutes), so rows stay for a day. When the stream
ends before the last sequence remembered here, everything after its end is published again. When the server was started
anew, everything of the five minutes before the newest mark is published again, however long the outage was. The stream
drops an event that it has by the message's id, so none is doubled. That id is made with a key of the service: under one
that others can make they could publish first, and the stream would drop the event.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any

import asyncpg
import nats.errors
import orjson
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from causeloop_common import leases, outbox, telemetry
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.errors import Unavailable
from causeloop_common.leader import Leader, Work
from causeloop_common.messaging import Bus, event_headers
from causeloop_common.telemetry import Span, SpanKind, metrics

_log = logging.getLogger(__name__)

BATCH = 500
POLL_SECONDS = 1.0
LINGER_SECONDS = 0.02
BUSY_RATE = 200.0
"""Above so many events a second a batch gathers during the linger, so that one round of statements serves many. Below,
each event leaves at once, and the acts of one client in several services arrive in their order."""
_ACK_SECONDS = 10.0
_LOOK_SECONDS = 60.0

_PENDING = """
    SELECT {event}, bucket, seq, stream_seq
    FROM {schema}.outbox WHERE published_at IS NULL ORDER BY seq LIMIT {batch}
"""
_MARK = """
    WITH held AS MATERIALIZED (SELECT {fence} AND {soon}),
         done AS (SELECT d.* FROM held,
                         unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS d(bucket, seq, stream_seq)),
         marked AS (UPDATE {schema}.outbox o SET published_at = now(), stream_seq = d.stream_seq
                    FROM done d WHERE o.bucket = d.bucket AND o.seq = d.seq RETURNING 1)
    UPDATE {schema}.relay_state SET last_sequence = greatest(last_sequence, $4)
"""
"""A lost mark only means that an event is published twice, so the disk is not waited for."""
_REWIND = """
    UPDATE {schema}.outbox SET published_at = NULL
    WHERE stream_seq > $1
       OR ($2 AND published_at > (SELECT max(published_at) FROM {schema}.outbox) - interval '5 minutes')
"""
_REMEMBER = """
    INSERT INTO {schema}.relay_state (id, last_sequence, server_id) VALUES (1, $1, $2)
    ON CONFLICT (id) DO UPDATE SET last_sequence = excluded.last_sequence, server_id = excluded.server_id
"""
_OLDEST = """
    SELECT extract(epoch FROM clock_timestamp() - occurred_at)::float8 AS seconds
    FROM {schema}.outbox WHERE published_at IS NULL ORDER BY seq LIMIT 1
"""
_STALE = """
    SELECT count(*) FILTER (WHERE published_at IS NULL) AS pending, max(occurred_at) AS newest
    FROM {schema}.outbox WHERE bucket = $1
"""


class Relay(Work):
    """Moves one service's events to the stream."""

    def __init__(self, leader: Leader, schema: str, bus: Bus, wake: asyncio.Event, key: bytes) -> None:
        self._leader = leader
        self._key = key
        self._schema = schema
        self._bus = bus
        self._wake = wake

    async def lead(self) -> None:
        """Move events whenever there are some."""
        server = await self._catch_up_with_stream()
        wakes = await self._bus.subscribe(topology.wake(self._schema), self._on_wake)
        stream = await _StreamPublisher.subscribe(self._bus, self._key)
        try:
            looked_at = moved_at = float("-inf")
            while True:
                self._wake.clear()
                if time.monotonic() - looked_at > _LOOK_SECONDS:
                    looked_at = time.monotonic()
                    await self._empty_old_bucket()
                if self._bus.server_id != server:
                    server = await self._catch_up_with_stream()
                moved = await self._move(stream)
                self._leader.works()
                metrics.OUTBOX_PENDING.labels(self._schema).set(moved if moved == BATCH else 0)
                if moved:
                    now = time.monotonic()
                    busy = moved > BUSY_RATE * (now - moved_at)
                    moved_at = now
                    await asyncio.sleep(LINGER_SECONDS if busy and moved < BATCH else 0)
                    continue
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), timeout=POLL_SECONDS)
        finally:
            await stream.close()
            with suppress(nats.errors.Error):
                await wakes.unsubscribe()

    async def stand_by(self) -> None:
        """Wake the relay at work after every commit of this process."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._bus.client.publish(topology.wake(self._schema))

    async def waiting(self) -> float:
        """The age in seconds of the oldest event that is not published."""
        rows = await self._leader.fetch(_OLDEST.format(schema=self._schema))
        return float(rows[0]["seconds"]) if rows else 0.0

    async def _on_wake(self, message: Msg) -> None:
        self._wake.set()

    async def _catch_up_with_stream(self) -> str:
        """Publish again what the stream may have lost. Returns the server's id."""
        server = self._bus.server_id
        end = await self._bus.last_sequence()
        async with self._leader.transaction() as connection:
            known = await connection.fetch(f"SELECT last_sequence, server_id FROM {self._schema}.relay_state")  # noqa: S608
            if known and (end < known[0]["last_sequence"] or server != known[0]["server_id"]):
                rewind = _REWIND.format(schema=self._schema)
                again = await connection.execute(rewind, end, server != known[0]["server_id"])
                _log.warning("the stream's server was started anew: publishing again what it may have lost (%s)", again)
            await connection.execute(_REMEMBER.format(schema=self._schema), end, server)
        return server

    async def _move(self, stream: "_StreamPublisher") -> int:
        pending = _PENDING.format(event=", ".join(outbox.EVENT), schema=self._schema, batch=BATCH)
        rows = await self._leader.fetch(pending)
        if not rows:
            return 0
        self._leader.require()
        events = [outbox.read(row) for row in rows]
        sequences = await self._publish(events, stream)
        await self._leader.execute(
            _MARK.format(fence=self._leader.fence, soon=leases.SOON, schema=self._schema),
            [row["bucket"] for row in rows],
            [row["seq"] for row in rows],
            sequences,
            max(sequences),
        )
        metrics.RELAYED.labels(self._schema).inc(len(rows))
        metrics.RELAY_BATCH.labels(self._schema).observe(len(rows))
        return len(rows)

    async def _publish(self, events: list[Announced], stream: "_StreamPublisher") -> list[int]:
        """The stream's sequence of every event. With an exporter each carries on the span of its publishing."""
        if not telemetry.is_tracing(self._bus.tracer):
            return await stream.publish(events)
        with ExitStack() as spans:
            leaving = []
            for event in events:
                span = spans.enter_context(telemetry.working(self._begin(event)))
                leaving.append(event._replace(traceparent=telemetry.traceparent(span)))
            return await stream.publish(leaving)

    def _begin(self, event: Announced) -> Span:
        return self._bus.tracer.start_span(
            f"evt.{event.type}",
            telemetry.cause(event.traceparent),
            SpanKind.PRODUCER,
            {"messaging.system": "nats", "causeloop.tenant": event.tenant, "causeloop.event_id": event.id},
        )

    async def _empty_old_bucket(self) -> None:
        """Empty tomorrow's partition, if all its rows were published and are of an earlier turn.

        That is checked again under the lock, so that a row committed at this moment is not lost.
        """
        bucket = (int(datetime.now(UTC).timestamp()) // 86_400 + 1) % outbox.BUCKETS
        partition = f"{self._schema}.outbox_{bucket}"
        stale = _STALE.format(schema=self._schema)
        if not _is_over(await self._leader.fetch(stale, bucket)):
            return
        with suppress(asyncpg.LockNotAvailableError):  # the next look will do
            async with self._leader.transaction() as connection:
                await connection.execute(f"LOCK TABLE {partition} IN ACCESS EXCLUSIVE MODE NOWAIT")
                if _is_over(await connection.fetch(stale, bucket)):
                    await connection.execute(f"TRUNCATE {partition}")


def message_id(key: bytes, event: str) -> str:
    """The id by which the stream knows a message of this event: nobody without the key can publish under it first."""
    return hmac.digest(key, event.encode(), "sha256").hex()


def _is_over(states: Sequence[Any]) -> bool:
    """Whether all rows of a partition were published and are of an earlier turn; False without rows."""
    (state,) = states
    newest: datetime | None = state["newest"]
    return newest is not None and not state["pending"] and (datetime.now(UTC) - newest).days >= 1


class _StreamPublisher:
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
    async def subscribe(cls, bus: Bus, key: bytes) -> "_StreamPublisher":
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

    async def publish(self, events: Sequence[Announced]) -> list[int]:
        """The stream's sequence of every event, published in order; Unavailable unless all were acknowledged."""
        self._batch += 1
        self._sequences, self._missing = [None] * len(events), len(events)
        self._refusal = None
        self._complete.clear()
        for number, event in enumerate(events):
            if not self._client.is_connected:
                raise Unavailable("The bus was lost in the middle of a batch.")
            await self._client.publish(
                f"evt.{event.tenant}.{event.type}",
                event.data,
                reply=f"{self._prefix}{self._batch}.{number}",
                headers=event_headers(event) | {"Nats-Msg-Id": message_id(self._key, event.id)},
            )
        await asyncio.wait_for(self._complete.wait(), timeout=_ACK_SECONDS)
        if self._refusal is not None:
            raise Unavailable(f"Events are not in the stream: {self._refusal}.")
        return [sequence for sequence in self._sequences if sequence is not None]

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
