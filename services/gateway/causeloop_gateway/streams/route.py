"""`GET /v1/audit/stream`: the checks before a stream begins, and its first index, in the epoch of the last id."""

import asyncio
import re
import socket
from functools import partial
from typing import Any, ClassVar

from causeloop_common.contracts.audit import LAST_INDEX
from causeloop_common.errors import InvalidInput, Malformed
from causeloop_common.telemetry import metrics
from causeloop_gateway.commands import Gateway, Route
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.inbound import Inbound
from causeloop_gateway.reader import unknown_fields
from causeloop_gateway.streams import wire
from causeloop_gateway.streams.registry import Streams
from causeloop_gateway.streams.stream import SLOW_SECONDS, Stream

FROM = "from"
LAST_EVENT_ID = "last-event-id"
_SYSTEM_BYTES = 128 * 1024
"""The kernel's buffer for a stream; by default it takes megabytes. Enough for 1 MB/s over 100 ms."""

_INDEX = re.compile(r"[0-9]{1,16}")
_POSITION = re.compile(r"(?:([2-9]|[1-9][0-9]{1,8})/)?(-1|[0-9]{1,16})")
_HEADERS = [
    (b"content-type", wire.MEDIA_TYPE.encode()),
    (b"x-accel-buffering", b"no"),  # so that a proxy holds nothing back
    (b"connection", b"close"),
]


class StreamRoute(Route):
    """Answers with the log, for as long as the caller may see it."""

    timed: ClassVar[bool] = False

    def __init__(self, gateway: Gateway, streams: Streams, endpoint: Endpoint) -> None:
        super().__init__(gateway, endpoint)
        self._streams = streams

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        request: Inbound = scope["inbound"]
        await self._signed_in(request)
        start, epoch = _start(request)
        if request.method == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": b""})
            return
        admit = partial(self._signed_in, request, is_counted=False)
        stream = Stream(scope["caller"].identity, admit, self._streams.read, receive, send)
        transport = scope["causeloop.transport"]
        async with self._streams.opened(stream):
            await stream.begin(start, epoch)
            _narrow(transport)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            why = await stream.run(transport.abort)
        metrics.STREAMS_ENDED.labels(why).inc()
        if why != "left":  # the client may not read the end either
            asyncio.get_running_loop().call_later(SLOW_SECONDS, transport.abort)


def _narrow(transport: Any) -> None:
    """Bound the kernel's buffer for a client that does not read, and notice soon that a client has vanished."""
    if transport.is_closing():
        return  # it has already
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SYSTEM_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SLOW_SECONDS * 1000))


def _start(request: Inbound) -> tuple[int | None, int | None]:
    """The first index to send, None for entries from now on; and its epoch, None for that of the log."""
    request.refuse_body()
    given = request.parameters()
    begin = given.pop(FROM, None)
    if given:
        raise unknown_fields([*given])
    if begin is not None and (_INDEX.fullmatch(begin) is None or int(begin) > LAST_INDEX):
        raise InvalidInput.of(**{FROM: "is not an index of a log, a number from 0"})
    position = request.headers.get(LAST_EVENT_ID)
    if not position:  # an empty one, as EventSource's is before the first event, is none
        return (None if begin is None else int(begin)), None
    found = _POSITION.fullmatch(position)
    if found is None or int(found[2]) >= LAST_INDEX:
        raise Malformed("Last-Event-ID is not an id of this stream. Send the last one you received, or none.")
    return int(found[2]) + 1, int(found[1] or 1)
