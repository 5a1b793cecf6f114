"""A stream on the wire: server-sent events (WHATWG HTML 9.2).

    retry: 1000                          at the start: the pause before reconnecting, and the position, for a client
    id: 41                               that is cut off before the first event; -1 stands before the first entry

    id: 42                               an entry: its index, and the leaf's stored bytes
    data: {"action":"vault.secret_written",…}

    id: 43                               an entry whose leaf retention removed
    event: pruned
    data: {"index":43,"leaf_hash":"…"}

    : heartbeat                          silence, and the connection is alive

    event: end                           the last event, with the code and sentence of a problem
    data: {"code":"unauthorized","detail":"…"}

A leaf is one line of canonical JSON, in which line ends are escaped: it is one `data` line as it is.
"""

from collections.abc import Sequence

import orjson

from causeloop_common.contracts.audit import StreamEntry
from causeloop_common.errors import AppError

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": heartbeat\n\n"
_RETRY_MILLISECONDS = 1000


def opening(position: int) -> bytes:
    """The first event: the index of the last entry before what follows."""
    return b"retry: %d\nid: %d\n\n" % (_RETRY_MILLISECONDS, position)


def events(entries: Sequence[StreamEntry]) -> bytes:
    """Entries, one event each."""
    return "".join([_event(entry) for entry in entries]).encode()


def end(error: AppError) -> bytes:
    """The last event. It has no id, so a client resumes after the last entry."""
    return b"event: end\ndata: " + orjson.dumps({"code": error.code, "detail": error.detail}) + b"\n\n"


def _event(entry: StreamEntry) -> str:
    if entry.leaf is not None:
        return f"id: {entry.index}\ndata: {entry.leaf}\n\n"
    pruned = f'{{"index":{entry.index},"leaf_hash":"{entry.leaf_hash}"}}'
    return f"id: {entry.index}\nevent: pruned\ndata: {pruned}\n\n"
