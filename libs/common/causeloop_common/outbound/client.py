"""The way out of a service, for each purpose: requests, a transport for SDKs, and guarded connections."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import NamedTuple

import httpcore2
import httpx2

from causeloop_common.errors import AppError
from causeloop_common.outbound import addresses
from causeloop_common.outbound.connecting import Connector, Stream, Tally
from causeloop_common.outbound.errors import Refused, Unanswered, Unreachable
from causeloop_common.outbound.exchange import Exchange, Measure
from causeloop_common.outbound.limits import Limits
from causeloop_common.outbound.places import Places
from causeloop_common.outbound.resolver import Lookup, Resolver, system_lookup
from causeloop_common.outbound.tiers import Tier, trust
from causeloop_common.settings import Settings
from causeloop_common.telemetry import UNTRACED, Tracer

_REDIRECTS = (301, 302, 303, 307, 308)
_COUNTED = ("content-length", "transfer-encoding")
"""Headers that follow from a body, and are not a caller's to choose."""


class Answer(NamedTuple):
    """A whole answer. A redirect is one, too: it is not followed."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name; values of one name are joined by commas."""
    body: bytes
    """Unpacked."""


class Outbound:
    """The one way out of a service. SettingsError when its settings cannot be used."""

    def __init__(self, settings: Settings, tracer: Tracer = UNTRACED, *, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._tracer = tracer
        self._lookup = lookup
        self._tls = trust(settings)

    def operators(self, purpose: str, limits: Limits | None = None) -> "Client":
        """A client for a destination that the operator configured: it may be private, never a metadata service.

        `purpose` is a label of metrics and the name of spans: one word of the code, nobody's data.
        """
        return self._client(purpose, limits, Tier.operators(self._settings))

    def tenants(self, purpose: str, limits: Limits | None = None) -> "Client":
        """A client for destinations that somebody in a workspace named: public ones, and ranges that are opened."""
        return self._client(purpose, limits, Tier.tenants(self._settings))

    def _client(self, purpose: str, limits: Limits | None, tier: Tier) -> "Client":
        limits = limits or Limits()
        connector = Connector(tier, limits, Resolver(self._lookup), self._tls)
        return Client(purpose, connector, limits, self._tracer)


class Client:
    """Reaches the destinations of one purpose."""

    def __init__(self, purpose: str, connector: Connector, limits: Limits, tracer: Tracer) -> None:
        self._purpose = purpose
        self._connector = connector
        self._limits = limits
        self._tracer = tracer
        self._places = Places(limits.per_host)

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> Answer:
        """A request and its whole answer, whatever its status, within `Limits.total` seconds.

        Raises Refused and Unreachable, when nothing was sent, and Unanswered, when it is unknown what the request did.
        """
        given = {name: value for name, value in (headers or {}).items() if name.lower() not in _COUNTED}
        try:
            request = httpx2.Request(method, url, headers=given, content=content or None)
        except (httpx2.InvalidURL, UnicodeError) as error:
            self._measure().end("refused", error)
            raise Refused("The address cannot be read: it begins with https:// and names a host.") from error
        exchange = self._exchange(request)
        await exchange.send()
        async with aclosing(exchange.body()) as pieces:
            body = b"".join([piece async for piece in pieces])
        return Answer(exchange.status, httpx2.Headers(exchange.headers), body)

    def transport(self) -> httpx2.AsyncBaseTransport:
        """The way for an SDK's requests: `httpx2.AsyncClient(transport=…)`. Redirects are refused."""
        return _Transport(self)

    @asynccontextmanager
    async def open_connection(self, host: str, port: int, *, starttls: bool = False) -> AsyncIterator["Connection"]:
        """A connection under TLS for another protocol than HTTP. With `starttls` it begins in clear, for a protocol
        that asks for TLS itself; the caller has to.

        Raises Refused and Unreachable.
        """
        async with AsyncExitStack() as kept:
            yield await self._open(host, port, kept, starttls=starttls)

    async def _open(self, host: str, port: int, kept: AsyncExitStack, *, starttls: bool) -> "Connection":
        measure = self._measure()
        try:
            host = addresses.host(host)
            async with asyncio.timeout(self._limits.total):
                await kept.enter_async_context(self._places.at(host, port))
                stream = await self._connector.connect(host, port, Tally(host, self._limits.largest), plain=False)
                connection = Connection(stream, host, self._connector.tls, self._limits)
                kept.push_async_callback(connection.close)
                if not starttls:
                    await connection.start_tls()
        except TimeoutError as error:
            late = Unreachable(f"{host} is not reached within {self._limits.total:g} s. Try again later.", "late")
            measure.end(late.outcome, late)
            raise late from error
        except BaseException as error:
            measure.end(getattr(error, "outcome", "cancelled"), error)
            raise
        measure.end("connected")
        return connection

    def _measure(self) -> Measure:
        return Measure(self._purpose, self._tracer)

    def _exchange(self, request: httpx2.Request) -> Exchange:
        return Exchange(request, self._connector, self._limits, self._places, self._measure())


class Connection:
    """Bytes both ways to a checked address; each wait is bounded by `Limits.idle`."""

    def __init__(self, stream: Stream, host: str, tls: ssl.SSLContext, limits: Limits) -> None:
        self._stream = stream
        self._host = host
        self._tls = tls
        self._limits = limits

    async def start_tls(self) -> None:
        """Go on under TLS, verified for the host's name. Unreachable when it is not."""
        self._stream = await self._stream.start_tls(self._tls, self._host, self._limits.connect)

    async def read(self, most: int = 64 * 1024) -> bytes:
        """The next bytes; none at the end. Raises Unanswered."""
        try:
            return await self._stream.read(most, self._limits.idle)
        except (httpcore2.NetworkError, httpcore2.TimeoutException, OSError) as error:
            raise self._failure(error) from error

    async def write(self, data: bytes) -> None:
        """Send bytes. Raises Unanswered."""
        try:
            await self._stream.write(data, self._limits.idle)
        except (httpcore2.NetworkError, httpcore2.TimeoutException, OSError) as error:
            raise self._failure(error) from error

    async def close(self) -> None:
        """End the connection."""
        await self._stream.aclose()

    def _failure(self, error: Exception) -> Unanswered:
        if isinstance(error, httpcore2.TimeoutException):
            return Unanswered(f"{self._host} takes or sends nothing for {self._limits.idle:g} s.", "late")
        return Unanswered(f"{self._host} ended the connection.", "lost")


class _Transport(httpx2.AsyncBaseTransport):
    """A client in the form that SDKs take; failures become httpx2's, with our sentence."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the answer's body streams."""
        exchange = self._client._exchange(request)
        try:
            await exchange.send()
            if exchange.status in _REDIRECTS:
                refused = Unanswered(f"{request.url.host} redirects, and redirects are not followed.", "redirected")
                await exchange.close(refused.outcome, refused)
                raise refused
        except AppError as error:
            raise _foreign(error, request) from error
        return httpx2.Response(exchange.status, headers=exchange.headers, stream=_Body(exchange, request))


class _Body(httpx2.AsyncByteStream):
    def __init__(self, exchange: Exchange, request: httpx2.Request) -> None:
        self._exchange = exchange
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._exchange.body()) as pieces:
            try:
                async for piece in pieces:
                    yield piece
            except AppError as error:
                raise _foreign(error, self._request) from error

    async def aclose(self) -> None:
        """The SDK needs no more of it."""
        await self._exchange.close()


def _foreign(error: AppError, request: httpx2.Request) -> httpx2.TransportError:
    """An error of ours as SDKs know it."""
    is_late = getattr(error, "outcome", "") == "late"
    if isinstance(error, Unanswered):
        kind: type[httpx2.TransportError] = httpx2.ReadTimeout if is_late else httpx2.ReadError
    else:
        kind = httpx2.ConnectTimeout if is_late else httpx2.ConnectError
    return kind(error.detail, request=request)
