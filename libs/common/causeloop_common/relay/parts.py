"""Statements that go through a whole outbox do so in parts: a part is a bounded walk along the primary key, well within
the timeout of a statement, whatever the outbox has.
"""

PART = 10_000
"""The rows of an outbox that one statement looks at."""
BEGINNING = (-1, 0)
"""The place (bucket, seq) before the first row."""

BY_BATCH = "confirmed_batch > $1::bigint"
BY_ACT = "occurred_at >= $1::timestamptz AND stream_seq IS NOT NULL AND confirmed_batch IS NOT NULL"
WAITING = "occurred_at >= $1::timestamptz AND confirmed_batch IS NULL"
ASKED = "confirmed_batch = NULL, digest = NULL"
"""The marks of what an operator asks for. A published row without digest and confirmation is nothing else."""


def take_back(
    schema: str, condition: str, *, held: str = "true", marks: str = "confirmed_batch = NULL", waiting: str = "false"
) -> str:
    """The statement that takes back the confirmations of one part, or other `marks`, if `held` holds.

    $1 is the value of the condition (a second one is $4), ($2, $3) the place after which the part begins. Its row has
    how many were taken back, how many others were `waiting`, and the last place of the part; it has no row when no part
    is left.
    """
    return f"""
        WITH held AS MATERIALIZED (SELECT {held}),
             part AS MATERIALIZED (SELECT bucket, seq, {condition} AS goes, {waiting} AS waits
                                   FROM {schema}.outbox
                                   WHERE (bucket, seq) > ($2::smallint, $3::bigint)
                                   ORDER BY bucket, seq LIMIT {PART}),
             back AS (UPDATE {schema}.outbox o SET {marks} FROM held, part p
                      WHERE p.goes AND o.bucket = p.bucket AND o.seq = p.seq RETURNING 1)
        SELECT (SELECT count(*) FROM back) AS rows, (SELECT count(*) FROM part WHERE waits) AS waiting, bucket, seq
        FROM part ORDER BY bucket DESC, seq DESC LIMIT 1
    """  # noqa: S608  our own names


def newest(schema: str, condition: str = "true") -> str:
    """The statement that finds the newest publication of one part, or $3 if that is later.

    ($1, $2) is the place after which the part begins, $4 a value of the condition. Its row has how many rows the part
    has and the last place of it, too; it has no row when no part is left.
    """
    return f"""
        WITH part AS MATERIALIZED (SELECT bucket, seq, published_at FROM {schema}.outbox
                                   WHERE (bucket, seq) > ($1::smallint, $2::bigint) AND {condition}
                                   ORDER BY bucket, seq LIMIT {PART})
        SELECT greatest($3::timestamptz, (SELECT max(published_at) FROM part)) AS newest,
               (SELECT count(*) FROM part) AS rows, bucket, seq
        FROM part ORDER BY bucket DESC, seq DESC LIMIT 1
    """  # noqa: S608  our own names
