"""Confirmations are taken back in parts: a part is a bounded walk along the primary key, well within the timeout of a
statement, whatever the outbox has.
"""

PART = 10_000
"""The rows of an outbox that one statement looks at."""
BEGINNING = (-1, 0)
"""The place (bucket, seq) before the first row."""

BY_BATCH = "confirmed_batch > $1::bigint"
BY_TIME = "published_at >= $1::timestamptz AND stream_seq IS NOT NULL AND confirmed_batch IS NOT NULL"


def take_back(schema: str, condition: str, held: str = "true") -> str:
    """The statement that takes back the confirmations of one part, if `held` holds.

    $1 is the value of the condition, ($2, $3) the place after which the part begins. Its row has how many were taken
    back, and the last place of the part; it has no row when no part is left.
    """
    return f"""
        WITH held AS MATERIALIZED (SELECT {held}),
             part AS MATERIALIZED (SELECT bucket, seq, {condition} AS goes FROM {schema}.outbox
                                   WHERE (bucket, seq) > ($2::smallint, $3::bigint)
                                   ORDER BY bucket, seq LIMIT {PART}),
             back AS (UPDATE {schema}.outbox o SET confirmed_batch = NULL FROM held, part p
                      WHERE p.goes AND o.bucket = p.bucket AND o.seq = p.seq RETURNING 1)
        SELECT (SELECT count(*) FROM back) AS rows, bucket, seq FROM part ORDER BY bucket DESC, seq DESC LIMIT 1
    """  # noqa: S608  our own names
