"""The relay: committed events to JetStream, in order, at least once, until the log has each.

    SELECT unpublished ──► publish, all at once, in order ──► acknowledged ──► mark with the stream's sequence
          ▲                                                                              │
          └── missing, sent again ◄── no receipt, though the intake passed it ◄──────────┴──► receipt ──► confirmed

One relay per service is at work (`leader`). A commit in its process wakes it; the relays of other replicas stand by and
wake it over the bus after theirs. It also polls, every two seconds. It reads the rows without a mark, so a late commit
is never skipped.

A broker may lose what it acknowledged (it syncs its files every two minutes), so rows stay until the log has receipted
them (`receipts`), and for a day. When the stream ends before the last sequence remembered here, everything after that
is published again at once; when the server was started anew, everything without a receipt, and everything of the five
minutes before the newest mark. The stream drops an event that it has by the message's id, so none is doubled. That id
is made with a key of the service: under one that others can make they could publish first, and the stream would drop
the event.

A row that cannot be announced is set aside: it holds up no other.
"""

import asyncio
import logging
import time
from contextlib import ExitStack, suppress

import asyncpg
import nats.errors
from nats.aio.msg import Msg

from causeloop_common import leases, outbox, telemetry
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced, digest
from causeloop_common.errors import Unavailable
from causeloop_common.leader import FAULTS, Leader, Work, fault_of
from causeloop_common.messaging import Bus, Linger
from causeloop_common.relay import late
from causeloop_common.relay.emptying import OldPartition
from causeloop_common.relay.receipts import ROUND_SECONDS, Receipts
from causeloop_common.relay.rewind import rewind
from causeloop_common.relay.stream import Leaving, StreamPublisher
from causeloop_common.telemetry import Span, SpanKind, metrics

_log = logging.getLogger(__name__)

BATCH = 500
POLL_SECONDS = 2.0
_LOOK_SECONDS = 60.0

_PENDING = """
    SELECT {event}, bucket, seq, attempts
    FROM {schema}.outbox WHERE published_at IS NULL ORDER BY seq LIMIT {batch}
"""
_MARK = """
    WITH held AS MATERIALIZED (SELECT {fence} AND {soon}),
         done AS (SELECT d.* FROM held,
                         unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bytea[])
                         AS d(bucket, seq, stream_seq, digest)),
         marked AS (UPDATE {schema}.outbox o SET published_at = now(), stream_seq = d.stream_seq, digest = d.digest
                    FROM done d WHERE o.bucket = d.bucket AND o.seq = d.seq RETURNING 1)
    UPDATE {schema}.relay_state SET last_sequence = greatest(last_sequence, $5)
"""
"""A lost mark only means that an event is published twice, so the disk is not waited for."""
_REMEMBERED = "SELECT last_sequence, server_id FROM {schema}.relay_state"
_REMEMBER = """
    INSERT INTO {schema}.relay_state (id, last_sequence, server_id) VALUES (1, $1, $2)
    ON CONFLICT (id) DO UPDATE SET last_sequence = excluded.last_sequence, server_id = excluded.server_id
"""
_LATE_SECONDS = 600.0
_ASIDE = "SELECT count(*) AS rows FROM {schema}.outbox_set_aside"
_SET_ASIDE = """
    WITH held AS MATERIALIZED (SELECT {fence}),
         odd AS (SELECT o.bucket, o.seq, to_jsonb(o) AS event
                 FROM held, (SELECT * FROM {schema}.outbox WHERE published_at IS NULL ORDER BY seq LIMIT {most}) o
                 WHERE NOT ({form})),
         kept AS (INSERT INTO {schema}.outbox_set_aside (event, reason) SELECT event, 'its form' FROM odd),
         done AS (UPDATE {schema}.outbox o SET published_at = now(), confirmed_batch = 0
                  FROM odd WHERE o.bucket = odd.bucket AND o.seq = odd.seq RETURNING o.seq)
    SELECT seq FROM done
"""


class Relay(Work):
    """Moves one service's events to the stream."""

    def __init__(self, leader: Leader, schema: str, bus: Bus, wake: asyncio.Event, key: bytes) -> None:
        self._leader = leader
        self._key = key
        self._schema = schema
        self._bus = bus
        self._wake = wake
        self._receipts = Receipts(leader, schema, bus)
        self._old = OldPartition(leader, schema)

    async def lead(self) -> None:
        """Move events whenever there are some."""
        self._old = OldPartition(self._leader, self._schema)
        server = await self._catch_up_with_stream()
        wakes = await self._bus.subscribe(topology.wake(self._schema), self._on_wake)
        stream = await StreamPublisher.subscribe(self._bus, self._key)
        try:
            await self._receipts.open()
            looked_at, linger = float("-inf"), Linger()
            while True:
                self._wake.clear()
                if time.monotonic() - looked_at > _LOOK_SECONDS:
                    looked_at = time.monotonic()
                    await self._look()
                if self._bus.server_id != server:
                    server = await self._catch_up_with_stream()
                moved = await self._move(stream)
                self._leader.works()
                if await self._receipts.settle() or await self._old.go_on():
                    continue
                metrics.OUTBOX_PENDING.labels(self._schema).set(moved if moved == BATCH else 0)
                gathers = linger.after(moved)
                if moved == BATCH:
                    continue
                await asyncio.sleep(gathers)  # 0 while little comes: acts of one client in services keep their order
                pause = min(ROUND_SECONDS, POLL_SECONDS) if self._receipts.is_behind else POLL_SECONDS
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), timeout=pause)
        finally:
            metrics.UNRECEIPTED.labels(self._schema).set(0)
            await stream.close()
            with suppress(nats.errors.Error):
                await self._receipts.close()
            with suppress(nats.errors.Error):
                await wakes.unsubscribe()

    async def stand_by(self) -> None:
        """Wake the relay at work after every commit of this process."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._bus.client.publish(topology.wake(self._schema))

    async def waiting(self) -> float:
        """The age in seconds of the oldest event that was never in the stream."""
        return await late.unsent_seconds(self._leader, self._schema)

    async def examine(self) -> None:
        """For doctor: Unavailable when the log has not receipted an act of long ago, rows are set aside, or nobody can
        look.
        """
        try:
            found = await late.unreceipted(self._leader, self._schema, _LATE_SECONDS)
            (aside,) = await self._leader.fetch(_ASIDE.format(schema=self._schema))
        except FAULTS as error:
            raise Unavailable(f"It cannot be looked at: {fault_of(error)}.") from error
        if found["unpublished"]:
            raise Unavailable(
                f"{found['unpublished']} events have been waiting to be published for ten minutes. Look whether "
                f"{self._schema} is ready, and who holds the lease 'relay' in {self._schema}.leases."
            )
        if found["seconds"] > _LATE_SECONDS:
            raise Unavailable(
                f"{found['events']} events are not receipted by the log, the oldest of an act {found['seconds']:.0f} s "
                f"ago. Look whether {self._schema} and audit are ready, and for critical lines in their logs; after "
                "`causeloop events reconcile` look again until none is left."
            )
        if aside["rows"]:
            raise Unavailable(
                f"{aside['rows']} rows are set aside: they can never be announced, or the log has another event under "
                "their id. Find out what wrote them, and empty "
                f"{self._schema}.outbox_set_aside."
            )

    async def _on_wake(self, message: Msg) -> None:
        self._wake.set()

    async def _catch_up_with_stream(self) -> str:
        """Publish again what the stream may have lost. Returns the server's id."""
        server = self._bus.server_id
        end = (await self._bus.ends()).last
        known = await self._leader.fetch(_REMEMBERED.format(schema=self._schema))
        if known and (end < known[0]["last_sequence"] or server != known[0]["server_id"]):
            self._receipts.forget()
            rows = await rewind(self._leader, self._schema, end, is_new=server != known[0]["server_id"])
            _log.warning(
                "the stream's server was started anew: %d events that it may have lost are published again", rows
            )
        async with self._leader.transaction() as connection:
            await connection.execute(_REMEMBER.format(schema=self._schema), end, server)
        return server

    async def _look(self) -> None:
        """Look at the outbox as a whole. Where it has too much for that, events are published all the same."""
        looks = {
            "set aside": self._set_aside, "old partition": self._old.look, "unreceipted": self._measure_unreceipted,
        }  # fmt: skip
        for name, look in looks.items():
            try:
                await look()
            except asyncpg.QueryCanceledError:
                _log.warning("a look at the outbox of %s took too long: %s", self._schema, name)
            self._leader.works()

    async def _set_aside(self) -> int:
        """Set aside the rows of a form that no reader takes; how many."""
        form = outbox.form(self._schema)
        statement = _SET_ASIDE.format(fence=self._leader.fence, schema=self._schema, form=form, most=late.MOST)
        rows = await self._leader.change(statement)
        if rows:
            metrics.SET_ASIDE.labels(self._schema).inc(len(rows))
            _log.critical(
                "%d rows of %s.outbox can never be announced: they are in outbox_set_aside", len(rows), self._schema
            )
        return len(rows)

    async def _measure_unreceipted(self) -> None:
        seconds = await late.unreceipted_seconds(self._leader, self._schema)
        metrics.UNRECEIPTED.labels(self._schema).set(max(seconds, 0))

    async def _move(self, stream: StreamPublisher) -> int:
        pending = _PENDING.format(event=", ".join(outbox.EVENT), schema=self._schema, batch=BATCH)
        try:
            rows = await self._leader.fetch(pending)
            events = [Leaving(outbox.read(row), row["attempts"]) for row in rows]
        except (ValueError, OverflowError) as error:  # a time that no language but SQL has
            if await self._set_aside():
                return 0
            raise Unavailable("The outbox has a row that cannot be read.") from error
        if not rows:
            return 0
        self._leader.require()
        digests = [digest(event) for event, _ in events]
        found = zip(await self._publish(events, stream), rows, digests, strict=True)
        stored = [(sequence, row, digest) for sequence, row, digest in found if sequence is not None]
        if len(stored) < len(events):
            self._wake.set()  # the rest stays, and is published again
        sequences, rows, digests = map(list, zip(*stored, strict=True))
        await self._leader.execute(
            _MARK.format(fence=self._leader.fence, soon=leases.SOON, schema=self._schema),
            [row["bucket"] for row in rows],
            [row["seq"] for row in rows],
            sequences,
            digests,
            max(sequences),
        )
        self._receipts.expect(sequences, rows, digests)
        self._old.published(rows)
        metrics.RELAYED.labels(self._schema).inc(len(rows))
        metrics.RELAY_BATCH.labels(self._schema).observe(len(rows))
        return len(rows)

    async def _publish(self, events: list[Leaving], stream: StreamPublisher) -> list[int | None]:
        """The stream's sequence of each event it acknowledged. With an exporter each carries on a span of its own."""
        if not telemetry.is_tracing(self._bus.tracer):
            return await stream.publish(events)
        with ExitStack() as spans:
            leaving = []
            for event, attempt in events:
                span = spans.enter_context(telemetry.working(self._begin(event)))
                leaving.append(Leaving(event._replace(traceparent=telemetry.traceparent(span)), attempt))
            return await stream.publish(leaving)

    def _begin(self, event: Announced) -> Span:
        return self._bus.tracer.start_span(
            f"evt.{event.type}",
            telemetry.cause(event.traceparent),
            SpanKind.PRODUCER,
            {"messaging.system": "nats", "causeloop.tenant": event.tenant, "causeloop.event_id": event.id},
        )
