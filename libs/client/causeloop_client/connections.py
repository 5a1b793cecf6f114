"""The connections of a client that is given none: the proxy and the certificate authorities that the environment names.

HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are read, in small letters too, and SSL_CERT_FILE or SSL_CERT_DIR. This
host is always reached directly, so that no proxy is given a token for it.
"""

import ipaddress
import os
import ssl
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

_PORTS = {"http": 80, "https": 443}


def arguments(url: str) -> dict[str, Any]:
    """The arguments of httpx's client for a gateway; ValueError with a sentence that names what cannot be used."""
    try:
        parts = _parts(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f"{url[:200]} is no address: {error}.") from error
    if not host or url != url.strip() or parts.scheme not in _PORTS or parts.query or parts.fragment:
        raise ValueError(f"{url[:200]} is no http or https address, such as https://causeloop.example.com.")
    found: dict[str, Any] = {"trust_env": False, "verify": _authorities(parts.scheme)}
    if not _is_direct(host, port, _variable("NO_PROXY")[1]):
        found["proxy"] = _proxy(parts.scheme)
    return found


def _authorities(scheme: str) -> ssl.SSLContext:
    if scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and is asked about nobody
    for variable, argument in (("SSL_CERT_FILE", "cafile"), ("SSL_CERT_DIR", "capath")):
        if path := os.environ.get(variable):
            try:
                return ssl.create_default_context(**{argument: path})  # type: ignore[arg-type]
            except ssl.SSLError as error:
                raise ValueError(f"{variable} names {path}, which has no certificate in PEM form.") from error
            except OSError as error:
                raise ValueError(f"{variable} names {path}, which cannot be read: {error.strerror}.") from error
    return httpx.create_ssl_context(trust_env=False)


def _proxy(scheme: str) -> str | None:
    """The address of the proxy for a scheme; its password is in no error."""
    for name in (f"{scheme.upper()}_PROXY", "ALL_PROXY"):
        variable, text = _variable(name)
        if not text:
            continue
        address = text if "://" in text else f"http://{text}"
        try:
            parts = _parts(address)
            usable = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        except (ValueError, httpx.InvalidURL):
            usable = False
        if not usable:
            raise ValueError(
                f"{variable} names no HTTP proxy, such as http://proxy.example.com:3128: another kind, as socks5://, "
                "is not supported."
            )
        return address
    return None


def _parts(address: str) -> SplitResult:
    """The parts of an address; ValueError, or httpx's InvalidURL, if a look-up of its host would fail with another."""
    parts = urlsplit(address)
    if httpx.URL(address).host.isascii():
        (parts.hostname or "").encode("idna")  # as the look-up does
    return parts


def _variable(name: str) -> tuple[str, str]:
    """A variable's name and value, the one in small letters first, as other programs read them."""
    found = name.lower() if os.environ.get(name.lower()) else name
    return found, os.environ.get(found, "")


def _is_direct(host: str, port: int, exceptions: str) -> bool:
    """Whether no proxy stands before this host: it is this one, or NO_PROXY names it, its domain or its range."""
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
        return True
    for name in (one.strip().lower() for one in exceptions.split(",")):
        if name == "*":
            return True
        if address is not None:
            with suppress(ValueError):
                if address in ipaddress.ip_network(name.strip("[]"), strict=False):
                    return True
        else:
            domain, _, wanted = name.removeprefix("*").lstrip(".").partition(":")
            if domain and (host == domain or host.endswith(f".{domain}")) and wanted in ("", str(port)):
                return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
