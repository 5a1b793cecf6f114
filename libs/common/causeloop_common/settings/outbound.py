"""Which destinations outside are reached, and how."""

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from causeloop_common.database_url import is_loopback
from causeloop_common.settings.values import WEB, Exceptions, Network, Part, Ports, Ranges, is_place

_PRIVATE: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "64:ff9b::/96")
)
"""The networks that an operator may open to the tenants' destinations in production; this host is in none of them."""


class OutboundSettings(Part):
    """Authorities, proxies, and what tenants may name."""

    outbound_ca_file: str | None = Field(
        default=None,
        alias="OUTBOUND_CA_FILE",
        examples=["/etc/causeloop/outbound-ca.pem"],
        description="certificate authorities (PEM) trusted beside the system's, for everything outbound",
    )
    outbound_http: Literal["loopback", "operators", "all"] = Field(
        default="loopback",
        alias="OUTBOUND_HTTP",
        examples=["loopback"],
        description="who is reached without TLS: the operator's destinations on this host, all of the operator's, all",
    )
    outbound_proxy: SecretStr | None = Field(
        default=None,
        alias="OUTBOUND_PROXY",
        examples=["http://proxy.example.com:3128"],
        description="HTTP proxy for the operator's destinations; it is given names",
    )
    outbound_proxy_except: Exceptions = Field(
        default=(),
        alias="OUTBOUND_PROXY_EXCEPT",
        examples=["idp.internal,.example.com"],
        description="hosts, and .domains, that are reached without OUTBOUND_PROXY, comma-separated; loopback always is",
    )
    outbound_tenant_proxy: SecretStr | None = Field(
        default=None,
        alias="OUTBOUND_TENANT_PROXY",
        examples=["http://proxy.example.com:3128"],
        description="HTTP proxy for the tenants' destinations; it is given addresses that were checked",
    )
    outbound_tenant_proxy_resolves: bool = Field(
        default=False,
        alias="OUTBOUND_TENANT_PROXY_RESOLVES",
        examples=["false"],
        description="that proxy is given names instead, and must itself refuse those of private addresses",
    )
    outbound_tenant_ranges: Ranges = Field(
        default=(),
        alias="OUTBOUND_TENANT_RANGES",
        examples=["10.20.0.0/16"],
        description="private ranges (CIDR) that tenants' destinations may be in, comma-separated",
    )
    outbound_tenant_ports: Ports = Field(
        default=frozenset(),
        alias="OUTBOUND_TENANT_PORTS",
        examples=["443,8443"],
        description="ports of tenants' destinations, comma-separated; unset: any",
    )

    @field_validator("outbound_proxy", "outbound_tenant_proxy")
    @classmethod
    def _is_proxy(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy is not None:
            parts = urlsplit(proxy.get_secret_value())
            try:
                usable = is_place(parts)
            except ValueError:
                raise ValueError("has a port that is none") from None
            if parts.scheme not in WEB or not usable or parts.path.strip("/") or parts.query:
                raise ValueError("is no address of an HTTP proxy")
        return proxy

    def unsafe(self) -> list[str]:
        """Destinations that are not the tenants' to reach, and what crosses a network in clear."""
        problems = super().unsafe()
        problems += [
            f"OUTBOUND_TENANT_RANGES opens {opened}, which is no private network: name ranges within "
            f"{', '.join(map(str, _PRIVATE))}."
            for opened in self.outbound_tenant_ranges
            if not any(_is_within(opened, private) for private in _PRIVATE)
        ]
        if self.outbound_http == "all":
            problems.append("OUTBOUND_HTTP=all sends tenants' data without TLS: set it to loopback or operators.")
        for variable, proxy in (
            ("OUTBOUND_PROXY", self.outbound_proxy),
            ("OUTBOUND_TENANT_PROXY", self.outbound_tenant_proxy),
        ):
            parts = urlsplit(proxy.get_secret_value() if proxy else "")
            if parts.scheme == "http" and parts.password and not is_loopback(parts.hostname or "localhost"):
                problems.append(f"{variable} sends its credentials without TLS: use the proxy's https:// address.")
        return problems


def _is_within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
