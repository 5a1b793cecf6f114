"""The bus's address: one rule for services and for the operator's commands."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from causeloop_common.database_url import is_loopback
from causeloop_common.settings.values import SettingsError, read_nats

IN_CLEAR = "NATS_URL leaves this host without TLS: use a tls:// address."


def require_bus_url(url: str, environ: Mapping[str, str]) -> None:
    """SettingsError unless the operator's address of the bus keeps the rules that services have."""
    try:
        read_nats(url)
    except ValueError as error:
        raise SettingsError(f"NATS_URL: {error}. Example: tls://nats.example.com:4222.") from None
    if environ.get("CAUSELOOP_ENV") == "production" and not is_protected_bus(url):
        raise SettingsError(IN_CLEAR)


def is_protected_bus(url: str) -> bool:
    """Whether an address of the bus stays on this host or demands TLS."""
    return urlsplit(url.strip()).scheme == "tls" or is_bus_of_this_host(url)


def is_bus_of_this_host(url: str) -> bool:
    """Whether an address of the bus is this host's."""
    return is_loopback(urlsplit(url.strip()).hostname or "localhost")
