"""Events of logs that are damaged, kept until they can be appended: across tenants, by the writer's role."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import asyncpg
import orjson

from causeloop_common.errors import Unavailable

_HOLD = """
    INSERT INTO audit.held (workspace_id, service, event_id, subject, headers, data, came_at, until)
    SELECT *, clock_timestamp() + interval '1 second'
    FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::bytea[], $6::bytea[], $7::timestamptz[])
    ON CONFLICT DO NOTHING
"""
_COUNT = "UPDATE audit.intake SET batch = batch + 1, position = coalesce($1, position) RETURNING batch"
_KEPT = """
    SELECT h.workspace_id, h.service, h.event_id, h.subject, h.headers, h.data, h.came_at FROM audit.held h
    JOIN unnest($1::uuid[], $2::text[], $3::uuid[]) AS n(workspace_id, service, event_id)
        USING (workspace_id, service, event_id)
"""
_LOGS = """
    WITH RECURSIVE logs AS (
        (SELECT workspace_id, until FROM audit.held ORDER BY workspace_id, number LIMIT 1)
        UNION ALL
        SELECT first.workspace_id, first.until FROM logs CROSS JOIN LATERAL (
            SELECT h.workspace_id, h.until FROM audit.held h WHERE h.workspace_id > logs.workspace_id
            ORDER BY h.workspace_id, h.number LIMIT 1
        ) AS first
    )
    SELECT workspace_id, until <= clock_timestamp() AS is_due FROM logs
"""
"""From the first held event of one log to that of the next: it is asked again and again, however much is held."""
_NEXT = """
    SELECT number, subject, headers, data, came_at FROM (
        SELECT h.*, sum(octet_length(data) + octet_length(headers)) OVER (ORDER BY number) AS bytes,
               row_number() OVER (ORDER BY number) AS place
        FROM (SELECT * FROM audit.held WHERE workspace_id = $1 ORDER BY number LIMIT $2) h) part
    WHERE place = 1 OR bytes <= $3 ORDER BY number
"""
_DROP = "DELETE FROM audit.held WHERE workspace_id = $1 AND number <= $2"


def row_is_gone() -> Unavailable:
    """The refusal where audit.intake has no row: nobody would know how far the stream is entered."""
    return Unavailable("The row of audit.intake is gone: take it from a copy of audit's database.")


class Transactions(Protocol):
    """Where the writer's transactions come from: the leader of the intake, which lets only its own term commit."""

    def transaction(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """A transaction of the writer's role; its connection."""
        ...

    async def fetch(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of a statement that only reads."""
        ...


class HeldMessage(NamedTuple):
    """A message as it was published, and the time at which the stream stored it."""

    subject: str
    headers: dict[str, str]
    data: bytes
    came_at: datetime


class HeldEvent(NamedTuple):
    """A message with its identity: log, service, event. The headers are a JSON object."""

    log: UUID
    service: str
    event: UUID
    subject: str
    headers: bytes
    data: bytes
    came_at: datetime

    @property
    def message(self) -> HeldMessage:
        """The message alone."""
        return HeldMessage(self.subject, _headers(self.headers), self.data, self.came_at)


class HeldEvents:
    """Keeps the events of damaged logs, in the order in which they came."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def hold(self, events: Sequence[HeldEvent], position: int | None) -> tuple[list[HeldEvent], int]:
        """Keep these, each once, in a commit that counts as a batch; what is kept of each, and the batch's number.

        `position` is the number in the stream up to which everything is entered or held with this commit.
        """
        async with self._transactions.transaction() as connection:
            await connection.execute(_HOLD, *zip(*events, strict=True))
            kept = await connection.fetch(_KEPT, *zip(*(event[:3] for event in events), strict=True))
            batch: int | None = await connection.fetchval(_COUNT, position)
            if batch is None:
                raise row_is_gone()
        return [HeldEvent(*row) for row in kept], batch

    async def logs(self) -> dict[UUID, bool]:
        """The logs with events that are held, and whether it is time to try again."""
        return {row["workspace_id"]: row["is_due"] for row in await self._transactions.fetch(_LOGS)}

    async def next(self, log: UUID, limit: int, max_bytes: int) -> tuple[list[HeldMessage], int]:
        """A log's oldest held messages that fit into both bounds, at least one; and the number of the last of them."""
        rows = await self._transactions.fetch(_NEXT, log, limit, max_bytes)
        messages = [HeldMessage(row[1], _headers(row[2]), row[3], row[4]) for row in rows]
        return messages, rows[-1]["number"] if rows else 0

    async def drop(self, log: UUID, number: int) -> None:
        """Forget a log's held messages up to a number."""
        async with self._transactions.transaction() as connection:
            await connection.execute(_DROP, log, number)


def _headers(text: bytes) -> dict[str, str]:
    """The headers; none where the row is damaged, so that it delays no other."""
    try:
        return dict(orjson.loads(text))
    except (ValueError, TypeError):
        return {}
