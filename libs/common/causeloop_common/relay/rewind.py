"""Rows that a stream may have lost are marked as unpublished, part by part, before the relay publishes the rest."""

from causeloop_common import leases
from causeloop_common.leader import Leader
from causeloop_common.relay import parts

_MAY_BE_LOST = """
    published_at IS NOT NULL AND (digest IS NOT NULL OR confirmed_batch IS NOT NULL) AND (
        stream_seq > $1::bigint
        OR $4::timestamptz IS NOT NULL AND stream_seq IS NOT NULL
            AND (confirmed_batch IS NULL OR published_at > $4 - interval '5 minutes'))
"""
"""A row that an operator asked for keeps its mark, and is sent again in its turn."""


async def rewind(leader: Leader, schema: str, end: int, *, is_new: bool) -> int:
    """Mark as unpublished what came after the stream's end; how many rows.

    When the server is a new one, mark also what has no receipt, and what was published in the five minutes before the
    newest mark. A fault leaves some of it marked: then it begins anew, and marks no less.
    """
    newest = await _newest_mark(leader, schema) if is_new else None
    held = f"{leader.fence} AND {leases.SOON}"
    statement = parts.take_back(schema, _MAY_BE_LOST, held=held, marks="published_at = NULL")
    place, rows = parts.BEGINNING, 0
    while done := await leader.change(statement, end, *place, newest):
        place, rows = (done[0]["bucket"], done[0]["seq"]), rows + done[0]["rows"]
    return rows


async def _newest_mark(leader: Leader, schema: str) -> object:
    """The time of the newest publication; None without one."""
    statement = parts.newest(schema)
    place, newest = parts.BEGINNING, None
    while found := await leader.fetch(statement, *place, newest):
        leader.works()
        place, newest = (found[0]["bucket"], found[0]["seq"]), found[0]["newest"]
    return newest
