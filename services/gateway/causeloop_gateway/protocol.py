"""The HTTP/1.1 protocol of the gateway: uvicorn's on httptools, with a bound on headers and problems for bad requests.

httptools itself buffers headers without end; here a request whose line and headers exceed 32 KiB is refused and its
connection closed, before anything of it is kept.

A refused client may still be sending. If its connection were closed at once, the system would answer the unread bytes
with a reset, and the client might never see the refusal. So after a refusal only our side of the connection is closed,
and the rest of the request is thrown away for a while (RFC 9112 9.6).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from causeloop_common.errors import AppError, HeadersTooLarge, Malformed
from causeloop_gateway.inbound import HEAD_SECONDS, HEADER_BYTES
from causeloop_gateway.problems import problem

LINGER_SECONDS = 5.0
UNREAD_SECONDS = 45.0
"""A client that takes hardly anything of its answers for so long is cut off: they are held for it meanwhile. A stream
cuts it off sooner, and has its reason."""
_OFFERS_AT_ONCE = 8
"""So many requests in one piece may offer another protocol: what follows one is copied."""

_REASONS = {400: "Bad Request", 431: "Request Header Fields Too Large"}


async def respond(send: Any, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a whole answer, in one write where possible: two would be two packets and two wake-ups.

    The headers are the gateway's own, were checked where they came from, and have the body's length. An answer that is
    sent before the whole request has come ends the connection, and has the header for it.
    """
    cycle = getattr(send, "__self__", None)
    early = isinstance(cycle, RequestResponseCycle) and cycle.more_body
    if early:
        headers = (*headers, (b"connection", b"close"))
    if (
        early
        or not isinstance(cycle, RequestResponseCycle)
        or cycle.response_started
        or cycle.disconnected
        or cycle.flow.write_paused
        or not cycle.keep_alive
        or cycle.scope["method"] == "HEAD"
    ):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    lines = map(b": ".join, (*cycle.default_headers, *headers))
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(STATUS_LINE[status] + b"\r\n".join((*lines, b"", body)))
    cycle.message_event.set()
    cycle.on_response()
    await cycle.flow.drain()  # what is held for the client counts for its request


class _UntilTheEnd(RequestResponseCycle):
    """An answer to HTTP/1.0, which has no chunks: one without a length ends with its connection (RFC 9112 6.1)."""

    async def send(self, message: Any) -> None:
        """Send a part of the answer, without chunked coding."""
        if message["type"] == "http.response.start":
            self._has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            self.chunked_encoding = None if self._has_length else False
        elif not self._has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class _Lingering:
    """A transport whose `close` ends our side only, if the protocol expects that something is still unread."""

    def __init__(self, transport: Any, linger: Callable[[], bool]) -> None:
        self._transport = transport
        self._linger = linger
        self._ending = False
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._ending or bool(self._transport.is_closing())

    def close(self) -> None:
        """Close, after what was written has left."""
        if self.is_closing():
            return
        self._ending = True
        self.write = _discarded
        if self._linger() and self._transport.can_write_eof():
            self._transport.resume_reading()
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._end)
        else:
            self._end()

    def _end(self) -> None:
        self._transport.close()
        asyncio.get_running_loop().call_soon(self._bound_the_end)  # what was written leaves after this callback

    def _bound_the_end(self) -> None:
        """End a connection whose client does not read: closing alone waits for ever until it has taken everything."""
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._transport.abort)


def _discarded(_: bytes) -> None:
    """Discard what is written to a closed connection."""


class BoundedProtocol(HttpToolsProtocol):
    """Counts the bytes that are no body: heads, and whatever stands between and after the chunks of a body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._refused = False
        self._offers = False
        self._too_slow: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time limit for the first request's head."""
        super().connection_made(_Lingering(transport, self._throw_away_the_rest))  # type: ignore[arg-type]
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limits."""
        self._head_arrived()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time limit for a client that does not read."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection was refused or the head grows too large."""
        if self._refused:
            return
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._head_bytes > HEADER_BYTES:
            self._refuse(HeadersTooLarge(f"The request's headers are larger than {HEADER_BYTES} bytes. Send less."))
        elif self._in_head and self._too_slow is None:  # hardly ever: most heads arrive in one piece
            self._expect_head()

    def _feed(self, data: bytes) -> None:
        for _ in range(_OFFERS_AT_ONCE):
            self._offers = False
            try:
                return self.parser.feed_data(data)
            except HttpParserUpgrade as found:
                if self._refused:
                    return None
                data = self._without_the_offer(data[found.args[0] :])
            except HttpParserError:
                return self.send_400_response("")
        return self._refuse(Malformed("These requests offer another protocol again and again. Send HTTP/1.1 alone."))

    def _without_the_offer(self, rest: bytes) -> bytes:
        """A request that offers another protocol, as if it did not (RFC 9110 7.8): its head anew, then the rest.

        The parser stops after such a head. It would take a body for the next request, and so for somebody else's behind
        a proxy.
        """
        kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in kept:
            head += (name, b": ", value, b"\r\n")
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        return b"".join((*head, b"\r\n", rest))

    def on_message_begin(self) -> None:
        """Begin a new request's head."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["causeloop.transport"] = self.transport  # type: ignore[typeddict-unknown-key]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is none, whatever it is called (RFC 9110 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse a whole head that is too large, else go on to the body."""
        self._in_head = False
        self._in_body = True
        self._head_bytes = 0
        self._head_arrived()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEADER_BYTES:
            self._refuse(HeadersTooLarge(f"The request's headers are larger than {HEADER_BYTES} bytes. Send less."))
            return
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            if self.scope["http_version"] == "1.0":
                self.cycle.__class__ = _UntilTheEnd  # uvicorn makes it, and it has not begun
        elif self.parser.get_method() == b"CONNECT":
            self._refuse(Malformed("CONNECT is not taken: this is no proxy."))
        else:
            self._offers = True

    def on_response_complete(self) -> None:
        """End the connection after an answer that was given before the whole body came: nobody reads the rest."""
        if self._in_body and not self.pipeline:
            self.transport.close()
        super().on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Pass the body on, unless the request was refused."""
        self._head_bytes = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish the request."""
        self._in_body = False
        self._head_bytes = 0
        if not self._refused and not self._offers:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(Malformed("This is not an HTTP/1.1 request."))

    def _throw_away_the_rest(self) -> bool:
        """Whether a refused request may still be arriving; its rest is thrown away."""
        self._refused = self._refused or self._in_body
        return self._refused

    def _expect_head(self) -> None:
        self._too_slow = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_arrived(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _refuse(self, error: AppError) -> None:
        if self._refused:
            return
        self._refused = True
        status, headers, body = problem(error, "")
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}".encode()]
        lines += [name + b": " + value for name, value in (*headers, (b"connection", b"close"))]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()
