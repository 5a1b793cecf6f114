"""Kinds of values, each checked where it is read: ValueError names the fault, and shows no secret."""

import base64
import binascii
import ipaddress
import re
import ssl
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit

import nkeys
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from causeloop_common.database_url import DatabaseUrl
from causeloop_common.keys import repeats

WEB = {"http": 80, "https": 443}
"""The schemes of the web, and their ports."""
_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_HEADER = re.compile(r"[A-Za-z0-9-]+: [\x20-\x7e]+")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]
ListeningPort = Annotated[int, Field(ge=0, le=65535)]
"""0 picks a free one."""


class SettingsError(Exception):
    """The environment is not usable; the text names, variable by variable, what to set."""


class Part(BaseModel):
    """A part of the settings: its fields, and which of their values production refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def unsafe(self) -> list[str]:
        """The values that production refuses, a sentence each; each part adds its own."""
        return []


def own_name(alias: str, service: str) -> str:
    """The variable's name for one service."""
    return alias.replace("{SERVICE}", service.upper())


def read_list(text: Any) -> Any:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else text


def read_ranges(text: Any) -> Any:
    """Ranges of addresses from a comma-separated list; ValueError names the first that is none."""
    ranges = []
    for part in read_list(text):
        try:
            ranges.append(ipaddress.ip_network(part))
        except ValueError as error:
            raise ValueError(f"{part} is no range such as 10.20.0.0/16") from error
    return tuple(ranges)


def read_database(url: SecretStr) -> SecretStr:
    """A database's address, checked; ValueError names what is wrong without showing it."""
    DatabaseUrl.read(url.get_secret_value())
    return url


DatabaseAddress = Annotated[SecretStr, AfterValidator(read_database)]


def read_nats(url: str) -> str:
    """The address of a NATS server, checked."""
    if "," in url:
        raise ValueError("it has several addresses, and one is taken: name one that leads to any of the servers")
    usable = has_user = False
    with suppress(ValueError):
        parts = urlsplit(url.strip())
        usable = (
            parts.scheme in ("nats", "tls") and is_place(parts) and not (parts.path or parts.query or parts.fragment)
        )
        has_user = parts.username is not None
    if usable and has_user:
        raise ValueError("it has a user or password in it, and the credential is an nkey's seed")
    if not usable:
        raise ValueError("it is no address of a NATS server, nats:// or tls:// with a host")
    return url.strip()


def read_seed(seed: SecretStr) -> SecretStr:
    """The seed of a user's nkey, checked; ValueError does not show it."""
    try:
        is_users = nkeys.from_seed(bytearray(seed.get_secret_value().encode())).public_key.startswith(b"U")
    except (nkeys.NkeysError, ValueError):
        is_users = False
    if not is_users:
        raise ValueError("it is not the seed of a user's nkey")
    return seed


def read_authority(path: str) -> str:
    """A file of certificate authorities, checked."""
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise ValueError(f"{path} has no certificate in PEM form") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be used: {error.strerror}") from error
    return path


def read_host(host: str) -> str:
    """An address or name to listen on, checked."""
    if re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", host) is None:
        raise ValueError("it is no address or name of this host")
    return host


def read_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Web origins as browsers send them, checked: whatever has another form would match none."""
    for origin in origins:
        usable = False
        with suppress(ValueError):
            parts = urlsplit(origin)
            usable = parts.scheme in WEB and f"{parts.scheme}://{parts.netloc.lower()}" == origin and is_place(parts)
        if not usable or parts.username is not None:
            raise ValueError(
                f"'{origin[:100]}' is no origin: scheme, host in small letters and port, without a path or a slash "
                "at its end"
            )
        if parts.port == WEB[parts.scheme]:
            raise ValueError(f"'{origin[:100]}' names the port that browsers leave out: leave it out")
    return origins


def is_place(parts: SplitResult) -> bool:
    """Whether an address names a host, and no port that is none; ValueError for some of those."""
    place = parts.netloc.rpartition("@")[2].lower()
    host = place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
    if parts.port == 0:
        return False
    if not place.startswith("["):
        return _NAME.fullmatch(host) is not None
    return host == str(ipaddress.IPv6Address(host))


def read_exceptions(names: tuple[str, ...]) -> tuple[str, ...]:
    """Hosts, and domains that begin with a point, checked."""
    for name in names:
        usable = _NAME.fullmatch(name.removeprefix(".").lower()) is not None
        with suppress(ValueError):
            usable = usable or bool(ipaddress.ip_address(name))
        if not usable:
            raise ValueError(f"'{name[:100]}' is neither a host nor a domain such as .example.com")
    return names


Authority = Annotated[str, AfterValidator(read_authority)]
Host = Annotated[str, AfterValidator(read_host)]
Origins = Annotated[tuple[str, ...], BeforeValidator(read_list), AfterValidator(read_origins)]
Ranges = Annotated[tuple[Network, ...], BeforeValidator(read_ranges)]
"""Ranges of addresses, comma-separated."""
Exceptions = Annotated[tuple[str, ...], BeforeValidator(read_list), AfterValidator(read_exceptions)]
"""Hosts and domains, comma-separated."""
Ports = Annotated[frozenset[Port], BeforeValidator(read_list)]
"""Ports, comma-separated."""
Seed = Annotated[SecretStr, AfterValidator(read_seed)]
Bus = Annotated[str, AfterValidator(read_nats)]


def read_key(text: str) -> bytes:
    """A 32-byte key in base64; ValueError names what is wrong without showing it."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    if len(key) != 32:
        raise ValueError(f"has {len(key)} bytes where 32 are needed (`openssl rand -base64 32`)")
    if repeats(key):
        raise ValueError("is a few bytes repeated, which anybody can guess")
    if all(0x20 <= byte < 0x7F for byte in key):
        raise ValueError("is a text, where random bytes are needed (`openssl rand -base64 32`)")
    return key


def read_headers(text: str) -> dict[str, str]:
    """Headers as OpenTelemetry writes them; ValueError names what is wrong without showing it."""
    headers = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, separator, value = (part.strip() for part in pair.partition("="))
        headers[name.lower()] = unquote(value)
        if not separator or not _HEADER.fullmatch(f"{name}: {unquote(value)}"):
            raise ValueError("is not a list of name=value, comma-separated")
    return headers
