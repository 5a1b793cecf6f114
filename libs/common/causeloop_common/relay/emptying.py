"""An old partition of an outbox: emptied as a whole, if the log has all its rows and they are of an earlier turn.

A row that waits is found by the indexes of those that wait. The time of the last publication is found by a walk in
parts, between which events are published. A partition that is too young is walked through again when it may be old
enough. So no statement grows with a partition.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from causeloop_common import outbox
from causeloop_common.leader import Leader
from causeloop_common.relay import parts

_KEPT = timedelta(days=1)
_WAITS = """
    SELECT EXISTS (SELECT FROM {schema}.outbox WHERE bucket = $1 AND published_at IS NULL ORDER BY seq LIMIT 1)
        OR EXISTS (SELECT FROM {schema}.outbox
                   WHERE bucket = $1 AND published_at IS NOT NULL AND confirmed_batch IS NULL
                   ORDER BY stream_seq LIMIT 1) AS waits
"""
"""In the order of the indexes of what waits, or the planner may take a partition for short."""


class _Walk(NamedTuple):
    """Through a partition: the place after which the next part begins, and the newest publication until there."""

    bucket: int
    place: tuple[int, int]
    newest: datetime | None = None


class OldPartition:
    """Empties tomorrow's partition of an outbox."""

    def __init__(self, leader: Leader, schema: str) -> None:
        self._leader = leader
        self._schema = schema
        self._walk: _Walk | None = None
        self._young: tuple[int, datetime] | None = None
        """A partition that was found to be too young, and until when it is."""

    async def look(self) -> None:
        """Begin to walk through the partition, unless something in it waits."""
        now = datetime.now(UTC)
        bucket = (int(now.timestamp()) // 86_400 + 1) % outbox.BUCKETS
        if self._young is not None and self._young[0] == bucket and now < self._young[1]:
            return
        if self._walk is None:
            (found,) = await self._leader.fetch(_WAITS.format(schema=self._schema), bucket)
            self._walk = None if found["waits"] else _Walk(bucket, (bucket, 0))
        await self.go_on()

    async def go_on(self) -> bool:
        """Walk through the next part, and empty the partition after the last; whether there is another part."""
        if self._walk is None:
            return False
        walk, self._walk = self._walk, None  # after a fault the next look begins anew
        statement = parts.newest(self._schema, "bucket = $4::smallint")
        found = await self._leader.fetch(statement, *walk.place, walk.newest, walk.bucket)
        self._leader.works()
        if found:
            (part,) = found
            walk = walk._replace(place=(part["bucket"], part["seq"]), newest=part["newest"])
            if part["rows"] == parts.PART:
                self._walk = walk
                return True
        if walk.newest is None:
            return False
        if datetime.now(UTC) < walk.newest + _KEPT:
            self._young = walk.bucket, walk.newest + _KEPT
            return False
        await self._empty(walk.bucket)
        return False

    def published(self, rows: Iterable[Any]) -> None:
        """Note that these rows were published just now: a walk that may have passed one of them is no good."""
        if self._walk is not None and any(row["bucket"] == self._walk.bucket for row in rows):
            self._walk = None

    async def _empty(self, bucket: int) -> None:
        """Empty it. That nothing waits is checked again under the lock: a row committed at this moment is not lost."""
        partition = f"{self._schema}.outbox_{bucket}"
        with suppress(asyncpg.LockNotAvailableError):  # the next look will do
            async with self._leader.transaction() as connection:
                await connection.execute(f"LOCK TABLE {partition} IN ACCESS EXCLUSIVE MODE NOWAIT")
                if not await connection.fetchval(_WAITS.format(schema=self._schema), bucket):
                    await connection.execute(f"TRUNCATE {partition}")
