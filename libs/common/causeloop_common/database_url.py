"""The one reader of database addresses: for services, `causeloop migrate`, `doctor` and `keys` alike.

A URL is read as libpq reads it. Each of libpq's parameters works as there, or is refused by its name with what to do
instead; no other parameter is let through, since a driver would hand it to the server as a setting. Nothing is taken
from the environment (PGHOST, PGSSLMODE, a password file): what a process connects to stands in its URL alone.
"""

import ipaddress
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

SOCKET_FOLDERS = ("/run/postgresql", "/var/run/postgresql", "/tmp", "localhost")  # noqa: S108  where libpq looks, too
PORT = 5432
CONNECT_SECONDS = 5
_LONGEST = 4096
_TLS_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("prefer", "disable"),
    "client_encoding": ("utf8", "utf-8", "auto"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "ssl_max_protocol_version": tuple(_TLS_VERSIONS),
    "ssl_min_protocol_version": tuple(_TLS_VERSIONS),
    "sslcompression": ("0",),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "sslsni": ("1",),
    "target_session_attrs": ("any", "read-write", "primary"),
}
"""The values that work, by parameter."""
_FREE = (
    "application_name", "connect_timeout", "dbname", "fallback_application_name", "host", "options", "password",
    "port", "sslcert", "sslkey", "sslpassword", "sslrootcert", "user",
)  # fmt: skip
_ADVICE = {
    "channel_binding": "leave it out and add sslmode=verify-full, which proves the server by its certificate",
    "gssencmode": "leave it out and use TLS: sslmode=verify-full",
    "hostaddr": "name the server by host alone",
    "keepalives": "leave it out: a server that falls silent is given up after 12 seconds in any case",
    "passfile": "write the password into the URL",
    "pgbouncer": "leave it out: what a pooler needs is found out at the start",
    "require_auth": "leave it out and add sslmode=verify-full, which proves the server by its certificate",
    "schema": "leave it out: each service has a schema of its own",
    "service": "write host, database and user into the URL",
    "sslcrl": "leave it out: revoke by a new authority in sslrootcert",
    "ssl": "write sslmode=verify-full instead",
    "sslmode": "write sslmode=verify-full",
    "target_session_attrs": "leave it out or write read-write: services write",
}
"""The advice for a parameter that does not work."""
_FAMILIES = ("keepalives", "service", "sslcrl")
"""Parameters whose advice is that of all whose names begin so."""


@dataclass(frozen=True, repr=False)
class DatabaseUrl:
    """A database's address, as read: hosts in order, who connects, and libpq's other parameters."""

    hosts: tuple[tuple[str, int], ...]
    database: str
    user: str | None
    password: str | None
    parameters: Mapping[str, str]

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.database!r} on {', '.join(host for host, _ in self.hosts)})"

    @classmethod
    def read(cls, text: str) -> "DatabaseUrl":
        """The address in a URL; ValueError names what is wrong, never with a value that may be secret."""
        text = text.strip()
        if len(text) > _LONGEST or not text.isprintable():
            raise ValueError("has control characters in it, or more than 4096 characters")
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in ("postgresql", "postgres"):
            raise ValueError("is no address of a database: it begins with postgresql://")
        authority, _, tail = rest.partition("/")
        if not tail and "?" in authority and "@" not in authority.partition("?")[2]:
            authority, _, query = authority.partition("?")
            tail = f"?{query}"
        credentials, _, hosts = authority.rpartition("@")
        if "@" in credentials:
            raise ValueError("has an @ in its user or password: percent-encode the password (@ as %40)")
        path, _, query = tail.partition("?")
        given = dict(_parameters(query))
        user, _, password = credentials.partition(":")
        for name, value in {"host": hosts, "dbname": path, "user": user, "password": password}.items():
            if value and name in given:
                raise ValueError(f"has the {'database' if name == 'dbname' else name} twice: write it once")
        database = given.pop("dbname", _decoded(path))
        if not database:
            raise ValueError("names no database: end it with /causeloop, or what the database is called")
        user, password = given.pop("user", _decoded(user)), given.pop("password", _decoded(password))
        read = cls(_hosts(hosts, given), database, user or None, password or None, given)
        read._check()
        return read

    def with_role(self, role: str, password: str) -> "DatabaseUrl":
        """The same database for another role."""
        return replace(self, user=role, password=password)

    def on(self, database: str) -> "DatabaseUrl":
        """Another database of the same server."""
        return replace(self, database=database)

    def text(self) -> str:
        """The URL, which every client of PostgreSQL reads alike."""
        parameters, hosts = dict(self.parameters), ""
        names, ports = (",".join(map(str, column)) for column in zip(*self.hosts, strict=True))
        if self.hosts == default_hosts(self.hosts[0][1]):
            parameters = ({} if self.hosts[0][1] == PORT else {"port": str(self.hosts[0][1])}) | parameters
        elif "/" in names:
            parameters = {"host": names, "port": ports} | parameters
        else:
            hosts = ",".join(_joined(*host) for host in self.hosts)
        user = quote(self.user or "", safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        query = "&".join(f"{name}={quote(value, safe='/,:')}" for name, value in parameters.items())
        path = f"{hosts}/{quote(self.database, safe='')}"
        return f"postgresql://{user}{'@' if user else ''}{path}{'?' if query else ''}{query}"

    @property
    def is_local(self) -> bool:
        """Whether every host is this one: a socket or the loopback."""
        return all(host.startswith("/") or is_loopback(host) for host, _ in self.hosts)

    @property
    def is_verified(self) -> bool:
        """Whether the server has to prove who it is by a certificate."""
        return self.parameters.get("sslmode") in ("verify-full", "verify-ca")

    def arguments(self, name: str) -> dict[str, Any]:
        """What `asyncpg.connect` is called with; `name` is shown in the server's list of sessions.

        ValueError when a file that the URL names cannot be used. The only settings that are sent are the name and
        `options`: a pooler passes the name on, and loses all others. `causeloop migrate` sets the others at the
        role.
        """
        settings = {"application_name": self.parameters.get("application_name", name)}
        if options := self.parameters.get("options"):
            settings["options"] = options
        several = len(self.hosts) > 1 and self.hosts != default_hosts(self.hosts[0][1])
        return {
            "host": [host for host, _ in self.hosts],
            "port": [port for _, port in self.hosts],
            "user": self.user,
            "password": self.password or "",  # None would look into the environment
            "database": self.database,
            "ssl": self._tls(),
            "direct_tls": self.parameters.get("sslnegotiation") == "direct",
            "timeout": int(self.parameters.get("connect_timeout", CONNECT_SECONDS)),
            "server_settings": settings,
            "target_session_attrs": self.parameters.get("target_session_attrs", "read-write" if several else "any"),
        }

    def _check(self) -> None:
        given = self.parameters
        mode, authority = given.get("sslmode", "prefer"), given.get("sslrootcert")
        if mode == "verify-ca" and authority in (None, "system"):
            raise ValueError(
                "has sslmode=verify-ca, which any certificate of a public authority would pass: write "
                "sslmode=verify-full, or name your own authority's file in sslrootcert"
            )
        if authority == "system" and mode != "verify-full":
            raise ValueError("has sslrootcert=system without sslmode=verify-full: add it, or nothing is verified")
        if ("sslcert" in given) != ("sslkey" in given):
            raise ValueError("has one of sslcert and sslkey: a client's certificate needs both")
        if given.get("sslnegotiation") == "direct" and mode not in ("require", "verify-ca", "verify-full"):
            raise ValueError("has sslnegotiation=direct, which needs sslmode=verify-full: add it")
        seconds = given.get("connect_timeout", str(CONNECT_SECONDS))
        if not seconds.isascii() or not seconds.isdigit() or not 1 <= int(seconds) <= 60:
            raise ValueError("has a connect_timeout that is no number of seconds from 1 to 60")

    def _tls(self) -> ssl.SSLContext | str | bool:
        """How the server is reached; with a certificate's proof or `require` never without TLS."""
        mode, authority = self.parameters.get("sslmode", "prefer"), self.parameters.get("sslrootcert")
        if mode == "disable" or all(host.startswith("/") for host, _ in self.hosts):
            return False
        if mode in ("allow", "prefer"):
            return mode
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = _TLS_VERSIONS[self.parameters.get("ssl_min_protocol_version", "TLSv1.2")]
        if latest := self.parameters.get("ssl_max_protocol_version"):
            context.maximum_version = _TLS_VERSIONS[latest]
        context.check_hostname = mode == "verify-full"
        if authority not in (None, "system"):
            _load("sslrootcert", authority, lambda file: context.load_verify_locations(cafile=file))
        elif mode == "verify-full":
            context.load_default_certs()
        else:
            context.verify_mode = ssl.CERT_NONE  # sslmode=require, as libpq has it
        if (certificate := self.parameters.get("sslcert")) is not None:
            key, password = self.parameters["sslkey"], self.parameters.get("sslpassword", "")
            _load("sslcert", certificate, lambda file: context.load_cert_chain(file, key, lambda: password))
        if self.parameters.get("sslnegotiation") == "direct":
            context.set_alpn_protocols(["postgresql"])
        return context


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this host's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _load(parameter: str, file: str | None, load: Any) -> None:
    try:
        load(str(Path(file or "").expanduser()))
    except (OSError, ValueError) as error:
        why = (
            "cannot be read" if isinstance(error, FileNotFoundError | PermissionError) else "is no PEM file of its kind"
        )
        raise ValueError(f"names a file in {parameter} that {why}: {file}") from None


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    seen = set()
    for pair in filter(None, query.split("&")):
        name, separator, value = pair.partition("=")
        name, value = _decoded(name), _decoded(value)
        if not separator:
            raise ValueError("has a parameter without a value: write name=value")
        if name in seen:
            raise ValueError(f"has the parameter {name} twice: write it once")
        if not f"{name}{value}".isprintable():
            raise ValueError("has control characters in its parameters")
        seen.add(name)
        choices = _CHOICES.get(name)
        if name not in _FREE and choices is None:
            raise ValueError(f"has the parameter {name[:40]}, which does not work here: {_advice(name)}")
        if choices is not None and value.lower() not in (choice.lower() for choice in choices):
            raise ValueError(f"has {name}={value[:40]}, and only {', '.join(choices)} work here: {_advice(name)}")
        if choices is not None:
            value = next(choice for choice in choices if choice.lower() == value.lower())
        if value:
            yield name, value


def _advice(name: str) -> str:
    family = next((start for start in _FAMILIES if name.startswith(start)), name)
    return _ADVICE.get(family, "leave it out")


def _decoded(text: str) -> str:
    """Percent-encoded text, under libpq's rules: what is not encoded well is refused, not passed on as it is."""
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded or re.search("%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(
            "has a % that does not begin an encoded character: percent-encode the password and what else has special "
            "characters (% as %25)"
        )
    return decoded


def _hosts(authority: str, given: dict[str, str]) -> tuple[tuple[str, int], ...]:
    """Each host with its port, from the URL's authority or from its parameters `host` and `port`."""
    if "host" not in given and authority:
        pairs = [_split(_decoded(part)) for part in authority.split(",")]
        names, ports = [host for host, _ in pairs], [port for _, port in pairs]
        if "port" in given:
            if any(ports):
                raise ValueError("has the port twice: write it once")
            ports = given.pop("port").split(",")
    else:
        names = given.pop("host", "").split(",")
        ports = given.pop("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    for name in names:
        if not name.startswith("/") and not _may_be_host(name):
            raise ValueError("has a host that is no name and no address")
    if len(ports) != len(names) or (len(names) > 1 and not all(names)):
        raise ValueError("has another number of ports than of hosts")
    numbers = [_port(port) for port in ports]
    return tuple(zip(names, numbers, strict=True)) if names != [""] else default_hosts(numbers[0])


def _may_be_host(name: str) -> bool:
    """Whether a look-up of the name fails in no other way than by finding nothing; an empty one is judged elsewhere."""
    try:
        return name.encode("idna") is not None and not re.search(r"[\s\\@?#]", name)
    except UnicodeError:
        return False


def default_hosts(port: int) -> tuple[tuple[str, int], ...]:
    """Where a server is looked for when a URL names no host: on this one."""
    return tuple((folder, port) for folder in SOCKET_FOLDERS)


def _joined(host: str, port: int) -> str:
    name = (f"[{host}]" if ":" in host else host).replace("%", "%25")
    return name if port == PORT else f"{name}:{port}"


def _split(part: str) -> tuple[str, str]:
    """Host and port of one part of the authority."""
    if part.startswith("["):
        host, bracket, port = part[1:].partition("]")
        if not bracket or not host or (port and not port.startswith(":")):
            raise ValueError("has an IPv6 address that is none: write it as [::1]:5432")
        return host, port[1:]
    host, _, port = part.partition(":")
    return host, port


def _port(port: str) -> int:
    if not port:
        return PORT
    if not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        raise ValueError(
            "has a port that is no number from 1 to 65535; if it is part of the password, write that one's special "
            "characters as percent and number (/ as %2F, @ as %40)"
        )
    return int(port)
