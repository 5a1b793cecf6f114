"""The two kinds of destinations, as the settings have them: the operator's and the tenants'."""

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from causeloop_common.outbound import addresses
from causeloop_common.outbound.addresses import EVERYWHERE
from causeloop_common.outbound.errors import Refused
from causeloop_common.settings import Network, Settings, SettingsError


class Proxy(NamedTuple):
    """An HTTP proxy that opens tunnels (CONNECT)."""

    variable: str
    scheme: str
    host: str
    port: int
    authorization: bytes | None

    @classmethod
    def of(cls, variable: str, url: SecretStr | None) -> "Proxy | None":
        """The proxy that a setting names."""
        if url is None:
            return None
        parts = urlsplit(url.get_secret_value())
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(pair.encode())
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            return cls(variable, parts.scheme, addresses.host(parts.hostname or ""), port, authorization)
        except Refused as error:
            raise SettingsError(f"{variable}: {error.detail}") from error


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The rules for destinations of one kind, and the way to them."""

    opened: tuple[Network, ...]
    """Ranges of the inside that may be reached."""
    ports: frozenset[int] = frozenset()
    """Ports that may be reached; empty: all."""
    plain: Literal["never", "loopback", "always"]
    """Where a connection may go without TLS."""
    proxy: Proxy | None
    direct: tuple[str, ...] = ()
    """Hosts, and with a dot in front domains, that are reached without the proxy."""
    proxy_resolves: bool
    """Whether the proxy is given names; else it is given checked addresses."""
    help: str
    """The advice at the end of a refusal."""

    @classmethod
    def operators(cls, settings: Settings) -> "Tier":
        """Destinations that the operator configured."""
        return cls(
            opened=EVERYWHERE,
            plain="loopback" if settings.outbound_http == "loopback" else "always",
            proxy=Proxy.of("OUTBOUND_PROXY", settings.outbound_proxy),
            direct=("localhost", ".localhost", *settings.outbound_proxy_except),
            proxy_resolves=True,
            help="Use another address.",
        )

    @classmethod
    def tenants(cls, settings: Settings) -> "Tier":
        """Destinations that somebody in a workspace configured."""
        return cls(
            opened=settings.outbound_tenant_ranges,
            ports=settings.outbound_tenant_ports,
            plain="always" if settings.outbound_http == "all" else "never",
            proxy=Proxy.of("OUTBOUND_TENANT_PROXY", settings.outbound_tenant_proxy),
            proxy_resolves=settings.outbound_tenant_proxy_resolves,
            help="Use a public address; the operator can open a private range (OUTBOUND_TENANT_RANGES).",
        )

    def proxy_for(self, host: str) -> Proxy | None:
        """The proxy on the way to a host, if there is one on it."""
        address = addresses.literal(host)
        is_direct = any(host == known or (known[:1] == "." and host.endswith(known)) for known in self.direct)
        return None if is_direct or (self.direct and address is not None and address.is_loopback) else self.proxy


def trust(settings: Settings) -> ssl.SSLContext:
    """The system's certificate authorities and the setting's own; SettingsError when its file cannot be read."""
    context = ssl.create_default_context()
    if settings.outbound_ca_file is not None:
        why = None
        try:
            context.load_verify_locations(cadata=Path(settings.outbound_ca_file).read_text())
        except (ssl.SSLError, ValueError):
            why = "it holds no certificate in PEM"
        except OSError as error:
            why = error.strerror
        if why is not None:
            raise SettingsError(f"OUTBOUND_CA_FILE: {settings.outbound_ca_file} cannot be used: {why}.")
    return context
