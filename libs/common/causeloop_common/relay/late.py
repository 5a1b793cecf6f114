"""Late events and acts: those that wait for the stream, and those that wait for the log's receipt."""

from typing import Any

from causeloop_common.leader import Leader

MOST = 100_000
"""Unpublished rows, the first, that one statement looks at, well within its timeout."""
_OLDEST = """
    SELECT CASE WHEN isfinite(occurred_at) THEN extract(epoch FROM clock_timestamp() - occurred_at)::float8 ELSE 0 END
        AS seconds
    FROM (SELECT seq, occurred_at, stream_seq FROM {schema}.outbox WHERE published_at IS NULL
          ORDER BY seq LIMIT {most}) waiting
    WHERE stream_seq IS NULL ORDER BY seq LIMIT 1
"""
"""A row that is sent again was in the stream once: the age of its act is no time that it waited here."""
_UNRECEIPTED = """
    SELECT count(*) AS events, count(*) FILTER (WHERE is_unsent AND age > $1) AS unpublished,
           coalesce(max(age), 0) AS seconds
    FROM (SELECT is_unsent, CASE WHEN isfinite(occurred_at)
                            THEN extract(epoch FROM clock_timestamp() - occurred_at)::float8 END AS age
          FROM (SELECT occurred_at, stream_seq IS NULL AS is_unsent FROM {schema}.outbox WHERE published_at IS NULL
                UNION ALL
                SELECT occurred_at, false FROM {schema}.outbox
                WHERE published_at IS NOT NULL AND confirmed_batch IS NULL) late) aged
"""
"""By the time of the act: a row that is sent again is published anew. Each half has an index of its own."""
_LONGEST = """
    SELECT coalesce(max(CASE WHEN isfinite(occurred_at)
                        THEN extract(epoch FROM clock_timestamp() - occurred_at)::float8 END), 0) AS seconds
    FROM ((SELECT occurred_at FROM {schema}.outbox WHERE published_at IS NULL ORDER BY seq LIMIT {first})
          UNION ALL
          (SELECT occurred_at FROM {schema}.outbox
           WHERE published_at IS NOT NULL AND confirmed_batch IS NULL ORDER BY stream_seq LIMIT {first})) late
"""
"""The first of each half, by its index: what an outage of days left is too much to be looked at while it leaves."""
_FIRST = 1000


async def unsent_seconds(leader: Leader, schema: str) -> float:
    """The age in seconds of the oldest event that was never in the stream; 0 without one."""
    rows = await leader.fetch(_OLDEST.format(schema=schema, most=MOST))
    return float(rows[0]["seconds"]) if rows else 0.0


async def unreceipted_seconds(leader: Leader, schema: str) -> float:
    """The age in seconds of the oldest act that the log has not receipted, among the first; 0 without one."""
    (found,) = await leader.fetch(_LONGEST.format(schema=schema, first=_FIRST))
    return float(found["seconds"])


async def unreceipted(leader: Leader, schema: str, limit: float) -> Any:
    """How many `events` the log has not receipted, the age of the oldest one's act in `seconds`, and how many are
    `unpublished`: older than the limit in seconds, and never in the stream.
    """
    (found,) = await leader.fetch(_UNRECEIPTED.format(schema=schema), limit)
    return found
