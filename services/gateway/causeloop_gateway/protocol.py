"""The HTTP/1.1 protocol of the gateway: uvicorn's on httptools, with a bound on headers and problems for bad requests.

httptools itself buffers headers without end; here a request whose line and headers exceed 32 KiB is refused and its
connection closed, before anything of it is kept.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from causeloop_common.errors import AppError, HeadersTooLarge, Malformed
from causeloop_gateway.inbound import HEAD_SECONDS, HEADER_BYTES
from causeloop_gateway.problems import problem

_REASONS = {400: "Bad Request", 431: "Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """Counts what arrives before a request's headers are complete."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._refused = False
        self._too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has so long to send its first request's head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection was refused or the head grows too large."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEADER_BYTES:
            self._refuse(HeadersTooLarge(f"The request's headers are larger than {HEADER_BYTES} bytes. Send less."))

    def on_message_begin(self) -> None:
        """A new request's head begins."""
        self._in_head = True
        self._head_bytes = 0
        if self._too_slow is None:
            self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole: refuse it if it is too large, else go on to the body."""
        self._in_head = False
        self._head_arrived()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEADER_BYTES:
            self._refuse(HeadersTooLarge(f"The request's headers are larger than {HEADER_BYTES} bytes. Send less."))
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass the body on, unless the request was refused."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(Malformed("This is not an HTTP/1.1 request."))

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
