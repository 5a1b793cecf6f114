"""One request and its answer: bounded in time from the first look-up to the last byte, and in bytes before and after
unpacking. Each has a connection of its own, which ends with it: nothing of one tenant's exchange is left for another's.

Redirects are answers like others: nothing here follows one.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import httpcore2
import httpx2

from causeloop_common import telemetry
from causeloop_common.errors import AppError
from causeloop_common.outbound import addresses
from causeloop_common.outbound.connecting import Backend, Connector, Tally
from causeloop_common.outbound.errors import Refused, Unanswered, Unreachable
from causeloop_common.outbound.limits import Limits
from causeloop_common.outbound.places import Places
from causeloop_common.telemetry import SpanKind, Tracer, metrics

_PORTS = {"http": 80, "https": 443}
_OVERHEAD = 128 * 1024
"""The most that arrives besides a body: headers (httpcore takes 100 KiB) and framing."""
_PIECE = 64 * 1024
_OURS = frozenset(
    {"accept-encoding", "connection", "expect", "host", "keep-alive", "proxy-authorization", "te", "upgrade"}
)
"""Headers that a caller does not choose: they are about the connection."""
_UNPACKED = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers of an answer that are no longer true of its unpacked body."""


class Measure:
    """Metrics and span of one exchange, ended once."""

    def __init__(self, purpose: str, tracer: Tracer) -> None:
        self._purpose = purpose
        self._began = time.perf_counter()
        self._is_over = False
        self.span = tracer.start_span(f"outbound {purpose}", kind=SpanKind.CLIENT)

    def end(self, outcome: str, error: BaseException | None = None) -> None:
        """Count the exchange."""
        if self._is_over:
            return
        self._is_over = True
        metrics.OUTBOUND_REQUESTS.labels(self._purpose, outcome).inc()
        metrics.OUTBOUND_SECONDS.labels(self._purpose).observe(time.perf_counter() - self._began)
        if error is not None:
            telemetry.fail(self.span, error)
        self.span.end()


class Exchange:
    """One request on its way, then its answer: `send` once, then `body` or `close`."""

    def __init__(
        self,
        request: httpx2.Request,
        connector: Connector,
        limits: Limits,
        places: Places,
        measure: Measure,
    ) -> None:
        self._request = request
        self._connector = connector
        self._limits = limits
        self._places = places
        self._measure = measure
        measure.span.set_attribute("http.request.method", request.method)
        self._deadline = asyncio.get_running_loop().time() + limits.total
        self._tally = Tally("The destination", 0)
        self._place: asyncio.Semaphore | None = None
        self._connection: httpcore2.AsyncHTTPConnection | None = None
        self._response: httpcore2.Response | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """The answer's, without those that describe how its body was packed."""

    async def send(self) -> None:
        """Send the request and read status and headers. Raises Refused, Unreachable and Unanswered."""
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._send()
        except BaseException as error:
            await self._fail(error)
            raise

    async def body(self) -> AsyncGenerator[bytes]:
        """The answer's body, unpacked, in pieces of at most 64 KiB. Raises Unanswered."""
        response, unpacked = self._response, 0
        if response is None:  # it was closed
            return
        try:
            unpacker = _unpacker(self._tally.host, response.headers)
            async with aclosing(response.aiter_stream()) as pieces:
                packed: bytes | None = b""
                while packed is not None:
                    async with asyncio.timeout_at(self._deadline):
                        packed = await anext(pieces, None)
                    for piece in unpacker.end() if packed is None else unpacker.pieces(packed):
                        unpacked += len(piece)
                        self._bound(unpacked)
                        yield piece
        except BaseException as error:
            await self._fail(error)
            raise
        await self.close()

    async def close(self, outcome: str = "", error: BaseException | None = None) -> None:
        """End the connection and count the exchange. At any time, and any number of times."""
        self._measure.end(outcome or f"{self.status // 100}xx", error)
        self._response = None
        connection, self._connection = self._connection, None
        place, self._place = self._place, None
        try:
            if connection is not None:
                await connection.aclose()
        finally:
            if place is not None:
                place.release()

    async def _send(self) -> None:
        request, limits = self._request, self._limits
        scheme, host, port = _destination(request.url)
        self._tally = Tally(host, limits.largest + _OVERHEAD)
        place = self._places.at(host, port)
        await place.acquire()
        self._place = place
        self._connection = httpcore2.AsyncHTTPConnection(
            httpcore2.Origin(scheme.encode(), host.encode(), port),
            ssl_context=self._connector.tls,
            network_backend=Backend(self._connector, self._tally, plain=scheme == "http"),
        )
        sent = httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=scheme, host=host, port=port, target=request.url.raw_path),
            headers=_headers(request, host, port if port != _PORTS[scheme] else None),
            content=request.stream,
            extensions={"timeout": {"connect": limits.connect, "read": limits.idle, "write": limits.idle}},
        )
        response = await self._connection.handle_async_request(sent)
        self._response, self.status = response, response.status
        self._measure.span.set_attribute("http.response.status_code", response.status)
        self.headers = [(name, value) for name, value in response.headers if name.lower().decode() not in _UNPACKED]
        if request.method != "HEAD":
            self._bound(next((int(value) for name, value in response.headers if name.lower() == b"content-length"), 0))

    def _bound(self, count: int) -> None:
        if count > self._limits.largest:
            raise Unanswered(
                f"{self._tally.host} answers with more than the {self._limits.largest} bytes that are accepted here.",
                "too_large",
            )

    async def _fail(self, error: BaseException) -> None:
        """End the exchange with the error that the caller gets, and raise that if it is another one."""
        failure = self._failure(error)
        await self.close(getattr(failure, "outcome", "cancelled"), failure)
        if failure is not error:
            raise failure from error

    def _failure(self, error: BaseException) -> BaseException:
        host, limits = self._tally.host, self._limits
        match error:
            case AppError():
                return error
            case TimeoutError() if not self._tally.sent:
                return Unreachable(f"{host} is not reached within {limits.total:g} s. Try again later.", "late")
            case TimeoutError():
                return Unanswered(f"{host} does not answer completely within {limits.total:g} s.", "late")
            case httpcore2.TimeoutException():
                return Unanswered(f"{host} is silent for {limits.idle:g} s amid its answer.", "late")
            case httpcore2.LocalProtocolError():
                return Refused("The request cannot be sent: its method or a header holds what neither may hold.")
            case httpcore2.ProtocolError() | zlib.error():
                return Unanswered(
                    f"{host} does not answer in HTTP/1.1 as it should, or with more than 100 KiB of headers.",
                    "malformed",
                )
            case httpcore2.NetworkError() | OSError():
                return Unanswered(f"{host} ends the connection before its answer is complete.", "lost")
            case _:
                return error


class _Plain:
    """A body that is not packed."""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The same bytes."""
        yield data

    def end(self) -> Iterator[bytes]:
        """Nothing is left."""
        return iter(())


class _Gzip:
    """A body packed with gzip (RFC 1952), unpacked piece by piece: what is not asked for is not made."""

    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._is_empty = True

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The content of the next bytes."""
        self._is_empty = False
        while piece := self._unpacker.decompress(data, _PIECE):
            yield piece
            data = self._unpacker.unconsumed_tail
        if self._unpacker.unused_data:
            raise zlib.error("bytes follow the end")

    def end(self) -> Iterator[bytes]:
        """Check that the end was there."""
        if not self._unpacker.eof and not self._is_empty:
            raise zlib.error("the end is missing")
        return iter(())


def _unpacker(host: str, headers: list[tuple[bytes, bytes]]) -> _Plain | _Gzip:
    packed = b",".join(value for name, value in headers if name.lower() == b"content-encoding").strip().lower()
    if packed in (b"", b"identity"):
        return _Plain()
    if packed in (b"gzip", b"x-gzip"):
        return _Gzip()
    raise Unanswered(f"{host} packs its answer in another way than gzip, which alone was asked for.", "malformed")


def _destination(url: httpx2.URL) -> tuple[str, str, int]:
    """Scheme, host and port; Refused when the address has none, or holds a password."""
    if url.scheme not in _PORTS or not url.host:
        raise Refused("The address is none that can be reached: it begins with https:// and names a host.")
    if url.userinfo:
        raise Refused("The address has a user or password in it: send them in a header.")
    host = addresses.host(url.raw_host.decode())
    port = _PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port < 65536:
        raise Refused(f"{port} is no port.")
    return url.scheme, host, port


def _headers(request: httpx2.Request, host: str, port: int | None) -> list[tuple[bytes, bytes]]:
    name = addresses.place(host, port) if port else addresses.place(host, 0).removesuffix(":0")
    headers = [
        (b"Host", name.encode()),
        *((key, value) for key, value in request.headers.raw if key.lower().decode() not in _OURS),
        (b"Accept-Encoding", b"gzip"),
        (b"Connection", b"close"),
    ]
    if "user-agent" not in request.headers:
        headers.append((b"User-Agent", b"causeloop"))
    return headers
