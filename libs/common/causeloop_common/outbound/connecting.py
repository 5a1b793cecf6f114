"""From a host to a connection: resolve once, check every address, connect to one of those, verify TLS for the name.

Between the check and the connection nothing is looked up again, so a name that resolves differently the second time
gains nothing. Through a proxy the same addresses are asked for; only where the proxy is trusted to resolve (the
operator's destinations, or a setting) it is given the name.
"""

import asyncio
import os
import ssl
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpcore2

from causeloop_common.outbound import addresses
from causeloop_common.outbound.errors import Refused, Unanswered, Unreachable
from causeloop_common.outbound.limits import Limits
from causeloop_common.outbound.resolver import Resolver
from causeloop_common.outbound.tiers import Proxy, Tier

_TRIES = 4
"""Addresses of one name that are tried."""


class Tally:
    """How much one exchange may still receive, and whether it has sent anything."""

    def __init__(self, host: str, most: int) -> None:
        self.host = host
        self.sent = False
        self._left = most

    def receive(self, count: int) -> None:
        """Count bytes; Unanswered when they are too many."""
        self._left -= count
        if self._left < 0:
            raise Unanswered(f"{self.host} answers with more bytes than are accepted here.", "too_large")


class Stream(httpcore2.AsyncNetworkStream):
    """A connection to a checked address, with what it carries counted."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream, tally: Tally) -> None:
        self._inner = inner
        self._tally = tally

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(max_bytes, timeout)
        self._tally.receive(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._tally.sent = True
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Stream":
        """The same connection under TLS; Unreachable when it is not verified."""
        secure = await _start_tls(self._inner, ssl_context, server_hostname or self._tally.host, timeout)
        return Stream(secure, self._tally)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class Connector:
    """Makes the connections of one client."""

    def __init__(self, tier: Tier, limits: Limits, resolver: Resolver, tls: ssl.SSLContext) -> None:
        self._tier = tier
        self._limits = limits
        self._resolver = resolver
        self.tls = tls
        self._network = httpcore2.AnyIOBackend()

    async def connect(self, host: str, port: int, tally: Tally, *, plain: bool) -> Stream:
        """A connection to `host`, which `addresses.host` gave; `plain` means that no TLS follows.

        Raises Refused and Unreachable.
        """
        tier = self._tier
        if tier.ports and port not in tier.ports:
            allowed = ", ".join(map(str, sorted(tier.ports)))
            raise Refused(f"Port {port} of {host} is not reached: use one of {allowed}.")
        proxy = tier.proxy_for(host)
        if proxy is not None and tier.proxy_resolves:
            if (address := addresses.literal(host)) is not None:
                self._check(host, [address])
            self._check_plain(host, port, [], plain=plain)
            return Stream(await self._tunnel(proxy, host, port), tally)
        found = await self._resolve(host)
        self._check(host, found)
        self._check_plain(host, port, found, plain=plain)
        if proxy is not None:
            return Stream(await self._tunnel(proxy, str(found[0]), port), tally)
        return Stream(await self._dial(host, found, port), tally)

    async def _resolve(self, host: str) -> list[IPv4Address | IPv6Address]:
        if (address := addresses.literal(host)) is not None:
            return [address]
        try:
            async with asyncio.timeout(self._limits.resolve):
                found = await self._resolver.resolve(host)
        except TimeoutError as error:
            late = f"The name {host} did not resolve within {self._limits.resolve:g} s: check the DNS servers."
            raise Unreachable(late, "unresolved") from error
        except (OSError, UnicodeError) as error:
            unknown = f"The name {host} does not resolve: check how it is spelled, and the DNS servers."
            raise Unreachable(unknown, "unresolved") from error
        if not found:
            raise Unreachable(f"The name {host} has no address: check how it is spelled.", "unresolved")
        return [addresses.read(address) for address in found]

    def _check(self, host: str, found: Sequence[IPv4Address | IPv6Address]) -> None:
        """Refused if one address is not allowed; which one is not shown, a name of the inside might be asked for."""
        for address in found:
            if (rule := addresses.refusal(address, self._tier.opened)) is not None:
                verb = "is" if addresses.literal(host) is not None else "resolves to"
                raise Refused(f"{host} is not reached, because it {verb} {rule}. {self._tier.help}")

    def _check_plain(self, host: str, port: int, found: Sequence[IPv4Address | IPv6Address], *, plain: bool) -> None:
        allowed = self._tier.plain == "always" or (
            self._tier.plain == "loopback" and found and all(address.is_loopback for address in found)
        )
        if plain and not allowed:
            raise Refused(
                f"{addresses.place(host, port)} is not reached without TLS: use its https:// address, or let the "
                "operator allow it (OUTBOUND_HTTP)."
            )

    async def _dial(
        self, host: str, found: Sequence[IPv4Address | IPv6Address], port: int
    ) -> httpcore2.AsyncNetworkStream:
        tried = found[:_TRIES]
        why = ""
        for address in tried:
            try:
                return await self._network.connect_tcp(str(address), port, timeout=self._limits.connect / len(tried))
            except httpcore2.ConnectTimeout:
                why = f"no answer within {self._limits.connect:g} s"
            except httpcore2.ConnectError as error:
                why = _system_reason(error)
        raise Unreachable(
            f"There is no connection to {addresses.place(host, port)} ({why}): check that it listens there, and that a "
            "firewall lets this service out.",
            "unconnected",
        )

    async def _tunnel(self, proxy: Proxy, host: str, port: int) -> httpcore2.AsyncNetworkStream:
        """A tunnel through the proxy to a host, by HTTP's CONNECT (RFC 9110, 9.3.6)."""
        target = addresses.place(host, port)
        found = await self._resolve(proxy.host)
        for address in found:
            if (rule := addresses.refusal(address, addresses.EVERYWHERE)) is not None:
                raise Unreachable(f"{proxy.variable} names {rule}: correct it.", "proxy")
        stream = await self._dial(f"the proxy {proxy.host}", found, proxy.port)
        try:
            if proxy.scheme == "https":
                stream = await _start_tls(stream, self.tls, proxy.host, self._limits.connect)
            headers = [(b"Host", target.encode())]
            if proxy.authorization is not None:
                headers.append((b"Proxy-Authorization", proxy.authorization))
            url = httpcore2.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target=target)
            connection = httpcore2.AsyncHTTP11Connection(origin=url.origin, stream=stream)
            async with asyncio.timeout(self._limits.connect):
                response = await connection.handle_async_request(httpcore2.Request("CONNECT", url, headers=headers))
            if not 200 <= response.status < 300:
                raise Unreachable(
                    f"The proxy ({proxy.variable}) answers {response.status} for {target}: "
                    + ("put its user and password into the setting." if response.status == 407 else "let it through."),
                    "proxy",
                )
        except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError) as error:  # OSError: a timeout, too
            await stream.aclose()
            silent = f"The proxy ({proxy.variable}) does not open a way to {target}: check the setting."
            raise Unreachable(silent, "proxy") from error
        except BaseException:
            await stream.aclose()
            raise
        tunnel: httpcore2.AsyncNetworkStream = response.extensions["network_stream"]
        return tunnel


class Backend(httpcore2.AsyncNetworkBackend):
    """The connector in the form that httpcore takes, for one exchange."""

    def __init__(self, connector: Connector, tally: Tally, *, plain: bool) -> None:
        self._connector = connector
        self._tally = tally
        self._plain = plain

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """A connection to a checked address of the host."""
        return await self._connector.connect(host, port, self._tally, plain=self._plain)


async def _start_tls(
    stream: httpcore2.AsyncNetworkStream, tls: ssl.SSLContext, host: str, seconds: float | None
) -> httpcore2.AsyncNetworkStream:
    try:
        return await stream.start_tls(tls, host, seconds)
    except httpcore2.ConnectTimeout as error:
        raise Unreachable(f"{host} does not answer a TLS handshake: check the port.", "untrusted") from error
    except (httpcore2.ConnectError, OSError) as error:
        cause = error.__cause__ or error
        if not isinstance(cause, ssl.SSLCertVerificationError):
            no_tls = (
                f"{host} does not speak TLS here ({getattr(cause, 'reason', None) or 'it hangs up'}): check the port."
            )
            raise Unreachable(no_tls, "untrusted") from error
        match cause.verify_code:
            case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, …_IP_ADDRESS_MISMATCH
                why = "was made for another name: use a name that stands in it"
            case 9 | 10:  # X509_V_ERR_CERT_NOT_YET_VALID, …_CERT_HAS_EXPIRED
                why = "is not valid at this time: let it be renewed, and check this machine's clock"
            case _:
                why = (
                    f"is not trusted ({cause.verify_message}): if a private authority made it, set OUTBOUND_CA_FILE to "
                    "the file with that authority's certificate"
                )
        raise Unreachable(f"The certificate of {host} {why}.", "untrusted") from error
    except BaseException:  # a deadline: the handshake was cancelled
        await stream.aclose()
        raise


def _system_reason(error: BaseException) -> str:
    """The operating system's reason for a failed connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__
    return "it failed"
