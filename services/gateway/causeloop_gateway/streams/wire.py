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

In a later epoch of the log than the first, ids are `<epoch>/<index>`: nobody goes on in it who was in another one.
"""

from collections.abc import Sequence

import orjson

from causeloop_common.contracts.audit import StreamEntry
from causeloop_common.errors import AppError

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": heartbeat\n\n"
_RETRY_MILLISECONDS = 1000


def opening(epoch: int, position: int) -> bytes:
    """The first event: the index of the last entry before what follows."""
    return f"retry: {_RETRY_MILLISECONDS}\nid: {_prefix(epoch)}{position}\n\n".encode()


def events(epoch: int, entries: Sequence[StreamEntry]) -> bytes:
    """Entries, one event each."""
    prefix = _prefix(epoch)
    return "".join([_event(prefix, entry) for entry in entries]).encode()


def end(error: AppError) -> bytes:
    """The last event. It has no id, so a client resumes after the last entry."""
    return b"event: end\ndata: " + orjson.dumps({"code": error.code, "detail": error.detail}) + b"\n\n"


def _prefix(epoch: int) -> str:
    return "" if epoch == 1 else f"{epoch}/"


def _event(prefix: str, entry: StreamEntry) -> str:
    if entry.leaf is not None:
        return f"id: {prefix}{entry.index}\ndata: {entry.leaf}\n\n"
    pruned = f'{{"index":{entry.index},"leaf_hash":"{entry.leaf_hash}"}}'
    return f"id: {prefix}{entry.index}\nevent: pruned\ndata: {pruned}\n\n"
