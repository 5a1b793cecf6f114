"""Receipts: a row is confirmed when the log has its event, and sent again when the log must have had it and has not.

    entered.<service>   after each commit of the intake: which events the log has, each with its digest
    floor.events        how far the intake has acknowledged the stream, and what the stream has: each second while
                        something comes, else each five seconds

The relay remembers where the rows are that it published in this lead, so their receipts confirm them by primary key.
Other receipts, after a takeover, look for their rows by the number in the stream.

A row is missing when the acknowledged part of the stream passed its number, or the stream does not have it, and no
receipt came within some seconds. An intake that is late or silent passes nothing: lag is no loss. A receipt that is
lost costs one duplicate, which the log passes over and receipts again.

Each lead of an intake is a term, which begins after a committed batch. A term that begins below a batch that has
receipted something shows that audit's database was restored from an older copy: those confirmations are taken back.
Each lead publishes the terms before it, too, so a relay that missed some takes the lowest.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from nats.aio.msg import Msg

from causeloop_common import ids, leases
from causeloop_common.contracts import topology
from causeloop_common.leader import Leader
from causeloop_common.messaging import Bus
from causeloop_common.relay import parts
from causeloop_common.telemetry import metrics

_log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
"""So long a row waits for its receipt after the floor passed it; also the first pause before it is sent again."""
LONGEST_PAUSE_SECONDS = 300.0
AT_ONCE = 200
"""Rows that are sent again in a round, and there is one round a second."""
ROUND_SECONDS = 1.0
_WHOLE_SECONDS = 10.0
"""Between two looks for missing rows of earlier leads, too; the others begin with what is remembered, since the index
has the dead entries of all that was confirmed before."""
_CONFIRM_SECONDS = 0.5
"""Receipts gather for so long, so that one statement confirms many rows."""
_FRESH_SECONDS = 3.0
"""A floor that is older shows nothing about the end of the stream."""
_MOST = 50_000
"""Receipts that wait for their statement; more than that are dropped, and cost duplicates. Also the places that are
remembered."""

_REMEMBERED = """remembered AS (UPDATE {schema}.relay_state SET confirmed_batch = greatest(confirmed_batch, c.batch)
                        FROM (SELECT max(batch) AS batch FROM confirmed) c)"""
_CONFIRM = f"""
    WITH held AS MATERIALIZED (SELECT {{fence}} AND {{soon}}),
         confirmed AS (UPDATE {{schema}}.outbox o SET confirmed_batch = r.batch
                       FROM held, unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[])
                            AS r(bucket, seq, stream_seq, batch)
                       WHERE o.bucket = r.bucket AND o.seq = r.seq AND o.stream_seq = r.stream_seq
                         AND o.published_at IS NOT NULL RETURNING r.batch),
         {_REMEMBERED}
    SELECT count(*) AS confirmed FROM confirmed
"""  # noqa: S608  our own names
"""Without `confirmed_batch IS NULL`: the planner would read the whole index of unconfirmed rows with its dead entries
instead of one place of the primary key for each row."""
_FIND_AND_CONFIRM = f"""
    WITH held AS MATERIALIZED (SELECT {{fence}} AND {{soon}}),
         receipt AS (SELECT r.* FROM held, unnest($1::bigint[], $2::uuid[], $3::bytea[], $4::bigint[])
                     AS r(stream_seq, event_id, digest, batch)),
         found AS (SELECT o.bucket, o.seq, r.event_id, r.batch, r.digest IS NULL OR o.digest = r.digest AS agrees
                   FROM receipt r CROSS JOIN LATERAL (
                       SELECT bucket, seq, digest FROM {{schema}}.outbox
                       WHERE stream_seq = r.stream_seq AND event_id = r.event_id
                         AND published_at IS NOT NULL AND confirmed_batch IS NULL LIMIT 1) o),
         confirmed AS (UPDATE {{schema}}.outbox o SET confirmed_batch = f.batch FROM found f
                       WHERE f.agrees AND o.bucket = f.bucket AND o.seq = f.seq RETURNING f.batch),
         {_REMEMBERED}
    SELECT (SELECT count(*) FROM confirmed) AS confirmed,
           array(SELECT event_id FROM found WHERE NOT agrees) AS different
"""  # noqa: S608
_SET_ASIDE = """
    WITH held AS MATERIALIZED (SELECT {fence}),
         odd AS (SELECT o.bucket, o.seq, to_jsonb(o) AS event
                 FROM held, unnest($1::bigint[], $2::uuid[]) AS r(stream_seq, event_id), {schema}.outbox o
                 WHERE o.stream_seq = r.stream_seq AND o.event_id = r.event_id
                   AND o.published_at IS NOT NULL AND o.confirmed_batch IS NULL),
         kept AS (INSERT INTO {schema}.outbox_set_aside (event, reason) SELECT event, 'another has its id' FROM odd),
         done AS (UPDATE {schema}.outbox o SET confirmed_batch = 0, stream_seq = NULL
                  FROM odd WHERE o.bucket = odd.bucket AND o.seq = odd.seq RETURNING o.event_id)
    SELECT event_id FROM done
"""
"""The log keeps what it has: sent again, the row would be refused again, without end."""
_SEND_AGAIN = """
    WITH held AS MATERIALIZED (SELECT {fence} AND {soon}),
         missing AS ((SELECT bucket, seq FROM {schema}.outbox
                      WHERE published_at IS NOT NULL AND confirmed_batch IS NULL
                        AND stream_seq >= $6 AND stream_seq <= $1 AND {due} ORDER BY stream_seq LIMIT $5)
                     UNION ALL
                     (SELECT bucket, seq FROM {schema}.outbox
                      WHERE published_at IS NOT NULL AND confirmed_batch IS NULL
                        AND stream_seq >= $6 AND stream_seq > $2 AND {due} ORDER BY stream_seq LIMIT $5)
                     LIMIT $5),
         again AS (UPDATE {schema}.outbox o SET published_at = NULL, attempts = least(o.attempts + 1, 32000)
                   FROM held, missing m WHERE o.bucket = m.bucket AND o.seq = m.seq
                   RETURNING o.event_id, o.digest IS NULL AS is_asked)
    SELECT event_id, is_asked FROM again
"""
"""In the order of the index, from its two ends: neither what is only late nor all that is missing is read."""
_DUE = "published_at < now() - least($3 * power(2, least(attempts, 16)), $4) * interval '1 second'"
"""The pause doubles with each attempt."""
_SENT = {
    "asked": "%d events of %s are sent again, as `causeloop events reconcile` asks: the first is %s",
    "lost": "%d events of %s are acknowledged and not in the log: sent again, the first is %s",
}
_STATE = "SELECT term, confirmed_batch FROM {schema}.relay_state"
_BEGIN_TERM = """
    UPDATE {schema}.relay_state SET term = $1, confirmed_batch = least(confirmed_batch, $2)
    WHERE {fence} AND {soon}
"""


class _Receipt(NamedTuple):
    """The log has this event, which came under this number of the stream. None: it has it from before digests."""

    sequence: int
    event: UUID
    digest: bytes | None
    batch: int


class _Place(NamedTuple):
    """Where a row is that was published in this lead, and what its receipt must have."""

    bucket: int
    seq: int
    event: UUID
    digest: bytes


class _Floor(NamedTuple):
    """How far the stream was acknowledged in a term at a time, and its last number."""

    term: str
    at: float
    passed: int
    last: int


class _Beginning(NamedTuple):
    """A term that began after a batch; up to which place confirmations are taken back, and how many."""

    term: str
    began: int
    place: tuple[int, int] = parts.BEGINNING
    rows: int = 0


class Receipts:
    """The receipts for one service's events."""

    def __init__(self, leader: Leader, schema: str, bus: Bus) -> None:
        self._leader = leader
        self._schema = schema
        self._bus = bus
        self._received: list[_Receipt] = []
        self._places: dict[int, _Place] = {}
        """By the number in the stream: what was published in this lead and is not confirmed."""
        self._floors: deque[_Floor] = deque(maxlen=60)
        self._confirmed_at = self._looked_at = 0.0
        self._looked_whole_at = float("-inf")
        self.is_behind = False
        """Whether the last round found something that was missing: there may be more for the next one."""
        self._subscriptions: list[Any] = []
        self._term = ""
        """The greatest that came: what comes of a lesser one is late, and begins nothing."""
        self._highest = 0
        self._begun: _Beginning | None = None

    async def open(self) -> None:
        """Begin to receive them. Nothing of an earlier lead counts: what came in between was not received."""
        self._received.clear()
        self.forget()
        self._floors.clear()
        self._begun = None
        for state in await self._leader.fetch(_STATE.format(schema=self._schema)):
            self._term, self._highest = state["term"], state["confirmed_batch"]
        self._subscriptions = [
            await self._bus.subscribe(topology.entered(self._schema), self._on_entered),
            await self._bus.subscribe(topology.FLOOR, self._on_floor),
        ]

    async def close(self) -> None:
        """Receive no more."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    def expect(self, sequences: Sequence[int], rows: Sequence[Any], digests: Sequence[bytes]) -> None:
        """Remember where the rows are that were just marked as published under these numbers."""
        for sequence, row, digest in zip(sequences, rows, digests, strict=True):
            self._places[sequence] = _Place(row["bucket"], row["seq"], row["event_id"], digest)
        while len(self._places) > _MOST:
            del self._places[next(iter(self._places))]

    def forget(self) -> None:
        """Remember no place any more: rows are published again, under other numbers."""
        self._places.clear()

    async def settle(self) -> bool:
        """Confirm what was receipted, and have sent again what is missing; whether there is more to do at once."""
        now = time.monotonic()
        if self._begun is not None and not await self._begin_term(self._begun):
            return True
        if self._received and now - self._confirmed_at > _CONFIRM_SECONDS:
            self._confirmed_at = now
            await self._confirm()
        whole = now - self._looked_whole_at > _WHOLE_SECONDS
        if (self._places or whole) and now - self._looked_at > ROUND_SECONDS:
            return await self._send_again(now, whole)
        return False

    async def _confirm(self) -> None:
        """Confirm the rows of all receipts: by one statement those whose place is remembered, by another the rest."""
        received, self._received = self._received, []
        own = {"fence": self._leader.fence, "soon": leases.SOON, "schema": self._schema}
        placed: list[tuple[int, int, int, int]] = []
        others: list[_Receipt] = []
        different: list[_Receipt] = []
        for receipt in received:
            place = self._places.get(receipt.sequence)
            if place is None or place.event != receipt.event:
                others.append(receipt)
            elif receipt.digest is None or receipt.digest == place.digest:
                del self._places[receipt.sequence]
                placed.append((place.bucket, place.seq, receipt.sequence, receipt.batch))
            else:
                different.append(receipt)
        if placed:
            (found,) = await self._leader.change(_CONFIRM.format(**own), *zip(*placed, strict=True))
            metrics.CONFIRMED.labels(self._schema).inc(found["confirmed"])
        if others:
            (found,) = await self._leader.change(_FIND_AND_CONFIRM.format(**own), *zip(*others, strict=True))
            metrics.CONFIRMED.labels(self._schema).inc(found["confirmed"])
            events = set(found["different"])
            different += [receipt for receipt in others if receipt.event in events]
        self._highest = max(self._highest, *(receipt.batch for receipt in received))
        if different:
            await self._set_aside(different)

    async def _set_aside(self, receipts: Sequence[_Receipt]) -> None:
        """Raise the alarm, and set aside the rows under whose ids the log has other events."""
        for receipt in receipts:
            metrics.RECEIPT_ALARMS.labels(self._schema, "different").inc()
            _log.critical(
                "the log has another event under the id of %s of %s: somebody published in this service's name",
                ids.encode("evt", receipt.event), self._schema,
            )  # fmt: skip
            self._places.pop(receipt.sequence, None)
        statement = _SET_ASIDE.format(fence=self._leader.fence, schema=self._schema)
        odd = {(receipt.sequence, receipt.event) for receipt in receipts}
        rows = await self._leader.change(statement, *zip(*odd, strict=True))
        metrics.SET_ASIDE.labels(self._schema).inc(len(rows))

    async def _begin_term(self, beginning: _Beginning) -> bool:
        """Begin a term, or do the next part of it; whether it has begun.

        What was confirmed by batches that the log does not have any more, since its database was restored, is taken
        back first, part by part, with what is to be published between the parts. Nothing is confirmed meanwhile. Until
        the last part is done the earlier term is kept, so that after a fault it begins anew.
        """
        term, began, place, rows = beginning
        own = {"fence": self._leader.fence, "soon": leases.SOON, "schema": self._schema}
        if began < self._highest:
            if place == parts.BEGINNING:
                self.forget()
            held = "{fence} AND {soon}".format(**own)
            statement = parts.take_back(self._schema, parts.BY_BATCH, held=held)
            for done in await self._leader.change(statement, began, *place):
                metrics.TAKEN_BACK.labels(self._schema).inc(done["rows"])
                if self._begun is beginning:  # else another term began meanwhile
                    self._begun = _Beginning(term, began, (done["bucket"], done["seq"]), rows + done["rows"])
                return False
            _log.critical(
                "the log ended at batch %d, and had receipted batch %d: %d events of %s are confirmed anew",
                began, self._highest, rows, self._schema,
            )  # fmt: skip
        await self._leader.execute(_BEGIN_TERM.format(**own), term, began)
        self._highest = min(self._highest, began)
        if self._begun is beginning:
            self._begun = None
        return self._begun is None

    def _note_term(self, body: Any) -> None:
        term = str(body["term"])
        if term > self._term:
            missed = [int(began) for earlier, began in body.get("terms", ()) if earlier > self._term]
            began = min([int(body["began"]), *missed])
            if began < self._highest:  # the stream is entered again from an earlier number
                self._floors.clear()
            if self._begun is not None:  # of a term that ended before it was begun here
                began = min(began, self._begun.began)
            self._received = [receipt for receipt in self._received if receipt.batch <= began]
            self._term, self._begun = term, _Beginning(term, began)

    async def _send_again(self, now: float, whole: bool) -> bool:
        """Have the next batch begin with what is missing. Without a floor of late, and one of before, nothing is."""
        while len(self._floors) > 1 and now - self._floors[1].at > GRACE_SECONDS:
            self._floors.popleft()
        if not self._floors or now - self._floors[0].at <= GRACE_SECONDS or now - self._floors[-1].at > _FRESH_SECONDS:
            return False
        self._looked_at = now
        statement = _SEND_AGAIN.format(fence=self._leader.fence, soon=leases.SOON, schema=self._schema, due=_DUE)
        passed, last = self._floors[0].passed, self._floors[-1].last
        begin = 0 if whole else min(self._places)
        rows = await self._leader.change(statement, passed, last, GRACE_SECONDS, LONGEST_PAUSE_SECONDS, AT_ONCE, begin)
        self.is_behind = bool(rows)
        if whole or rows:
            self._looked_whole_at = float("-inf") if rows else now
        if rows:
            self.forget()
            self._note_sent([row["event_id"] for row in rows if row["is_asked"]], "asked", logging.INFO)
            self._note_sent([row["event_id"] for row in rows if not row["is_asked"]], "lost", logging.ERROR)
        return bool(rows)

    def _note_sent(self, events: Sequence[UUID], why: str, level: int) -> None:
        """Count and log what is sent again: that it was lost is an alarm, that an operator asked for it is none."""
        if events:
            metrics.SENT_AGAIN.labels(self._schema, why).inc(len(events))
            _log.log(level, _SENT[why], len(events), self._schema, ids.encode("evt", events[0]))

    async def _on_entered(self, message: Msg) -> None:
        try:
            self._receive(orjson.loads(message.data))
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("a receipt cannot be read: %s", type(error).__name__)

    async def _on_floor(self, message: Msg) -> None:
        try:
            body = orjson.loads(message.data)
            passed = max(int(body["floor"]), int(body["first"]) - 1)
            floor = _Floor(str(body["term"]), time.monotonic(), passed, int(body["last"]))
            self._note_term(body)
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("a floor cannot be read: %s", type(error).__name__)
        else:
            if floor.term != self._term:
                return  # of an intake before: it may have passed more of the stream
            earlier = self._floors[-1] if self._floors else floor
            if floor.term != earlier.term and floor.passed < earlier.passed:
                self._floors.clear()  # the stream is entered again
            self._floors.append(floor)

    def _receive(self, body: Any) -> None:
        batch = int(body["batch"])
        self._note_term(body)
        if body["term"] != self._term:
            return  # of an intake before: its batches may have gone with a restore
        for sequence, event, digest, is_malformed in body["entries"][: _MOST - len(self._received)]:
            raw = None if digest is None else bytes.fromhex(digest)
            self._received.append(_Receipt(int(sequence), ids.decode(event, "evt"), raw, batch))
            if is_malformed:
                metrics.RECEIPT_ALARMS.labels(self._schema, "malformed").inc()
                _log.error("the log has %s of %s as malformed: it is not sent again", event, self._schema)
