"""Which addresses may be reached, by explicit lists: Python's `is_private` and `is_global` miss many of these.

Two lists. NEVER: nothing of ours lives there, and a cloud's metadata service does. INSIDE: the operator's own network,
for the operator's destinations and for the ranges that a setting opens to the tenants'. Everything else of IPv4, and
the global unicast space of IPv6 (2000::/3), is the public internet.

Sources: the special-purpose registries of IANA (RFC 6890), and the metadata addresses that the clouds document.
"""

import ipaddress
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from causeloop_common.outbound.errors import Refused
from causeloop_common.settings import Network

_LISTS = {
    "NEVER": {
        "an unspecified address": ("0.0.0.0/8", "::/128"),
        "a metadata address of a cloud": (
            "169.254.169.254/32", "169.254.170.0/24", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32",
            "fd00:ec2::/32", "fd20:ce::254/128",
        ),
        "a link-local address": ("169.254.0.0/16", "fe80::/10"),
        "a multicast address": ("224.0.0.0/4", "ff00::/8"),
        "a documentation or benchmarking address": (
            "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32", "3fff::/20",
        ),
        "a 6to4 address": ("192.88.99.0/24", "2002::/16"),
        "a Teredo address": ("2001::/32",),
        "a site-local address": ("fec0::/10",),
        "an IPv4 address in an IPv6 form": ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b:1::/48"),
        "a reserved address": ("192.0.0.0/24", "240.0.0.0/4", "2001::/23"),
    },
    "INSIDE": {
        "a loopback address": ("127.0.0.0/8", "::1/128"),
        "a private address": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
        "a shared address (CGNAT)": ("100.64.0.0/10",),
        "a NAT64 address": ("64:ff9b::/96",),
    },
}  # fmt: skip
_NEVER, _INSIDE = (
    [(ipaddress.ip_network(network), rule) for rule, networks in _LISTS[name].items() for network in networks]
    for name in ("NEVER", "INSIDE")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
EVERYWHERE: tuple[Network, ...] = (ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0"))
"""The ranges that are open to the operator's destinations."""

_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
"""A host that ends in a number is an IPv4 address to one reader or another (WHATWG URL, "ends in a number")."""
_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)


def refusal(address: IPv4Address | IPv6Address, opened: Sequence[Network]) -> str | None:
    """The rule that refuses an address, such as "a loopback address"; None when it may be reached.

    `opened` are the ranges of the inside that may be reached; it opens nothing of what is never reached.
    """
    never = _rule(address, _NEVER)
    if never is not None:
        return never
    if (inside := _rule(address, _INSIDE)) is not None:
        if not any(address in network for network in opened):
            return inside
        if address in _NAT64:  # an IPv4 destination behind the network's translator, judged as such
            return refusal(IPv4Address(int(address) & 0xFFFFFFFF), opened)
        return None
    return "a reserved address" if address.version == 6 and address not in _UNICAST else None


def read(address: str) -> IPv4Address | IPv6Address:
    """An address as the resolver writes it; a zone (`fe80::1%eth0`) does not count."""
    return ipaddress.ip_address(address.partition("%")[0])


def host(text: str) -> str:
    """The one spelling of a host: a name in lower case, or an address in its usual form. Refused if it has none.

    Spellings that readers take differently are refused: decimal, octal and hexadecimal IPv4 addresses, zones.
    """
    host = text.lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(host)) if "%" not in host else _refuse(text)
    except ValueError:
        if _NUMERIC.fullmatch(host) or not _NAME.fullmatch(host):
            return _refuse(text)
        return host


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def place(host: str, port: int) -> str:
    """Host and port as an address has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refuse(host: str) -> str:
    raise Refused(f"{host[:80]!r} is no host that can be reached: use a name, or an address in its usual spelling.")


def _rule(address: IPv4Address | IPv6Address, rules: Sequence[tuple[Network, str]]) -> str | None:
    return next((rule for network, rule in rules if address in network), None)
