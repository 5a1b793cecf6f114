"""Settings of every service, read from the environment once, at the composition root.

Each field has its variable and a description; the configuration reference is made from here. Secrets are
`SecretStr`. A production process refuses unsafe values, each with a sentence that names what to set.
"""

import base64
import binascii
import ipaddress
import re
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

import nkeys
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from causeloop_common.contracts import topology
from causeloop_common.database_url import DatabaseUrl, is_loopback
from causeloop_common.keys import KeyRing, derive

DEVELOPMENT_SECRET = "causeloop-development-secret-never-use-it-in-production"  # noqa: S105  refused there
SHORTEST_SECRET = 32
_HEADER = re.compile(r"[A-Za-z0-9-]+: [\x20-\x7e]+")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]
_PRIVATE: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "64:ff9b::/96")
)
"""The networks that an operator may open to the tenants' destinations in production; this host is in none of them."""


_PLAIN = {"missing": "it is not set"}
"""The fault in other words than pydantic's."""


_WITHOUT_SUBJECT = ("is ", "has ", "names ")
"""The beginnings of faults that other sentences name the subject of."""


class SettingsError(Exception):
    """The environment is not usable; the text names, variable by variable, what to set."""


def read_list(text: Any) -> Any:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()] if isinstance(text, str) else text


Texts = Annotated[tuple[str, ...], BeforeValidator(read_list)]
"""A comma-separated list."""


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
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("it is no address of a NATS server, nats:// or tls:// with a host")
    return url


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
        if re.fullmatch(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", origin) is None:
            raise ValueError(
                f"'{origin[:100]}' is no origin: scheme, host in small letters and port, without a path or a slash "
                "at its end"
            )
    return origins


Authority = Annotated[str, AfterValidator(read_authority)]
Host = Annotated[str, AfterValidator(read_host)]
Origins = Annotated[tuple[str, ...], BeforeValidator(read_list), AfterValidator(read_origins)]
Seed = Annotated[SecretStr, AfterValidator(read_seed)]


class Settings(BaseModel):
    """The settings of every service. `{SERVICE}` in a variable's name stands for the service's own, such as `AUTH`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    service: str
    environment: Literal["development", "production"] = Field(
        default="development",
        alias="CAUSELOOP_ENV",
        examples=["production"],
        description="production refuses unsafe values",
    )
    jwt_secret: SecretStr | None = Field(
        default=None,
        alias="JWT_SECRET",
        examples=["the output of `openssl rand -base64 48`"],
        description="the installation's root secret, at least 32 characters; needed where CAUSELOOP_KEYS_… is unset",
    )
    service_keys: SecretStr | None = Field(
        default=None,
        alias="CAUSELOOP_KEYS_{SERVICE}",
        examples=["the output of `causeloop keys {service}`"],
        description="only this service's keys, as `causeloop keys <service>` prints them, instead of JWT_SECRET",
    )
    database_url: DatabaseAddress | None = Field(
        default=None,
        alias="DATABASE_URL",
        examples=["postgresql://migrator:…@db.example.com/causeloop?sslmode=verify-full"],
        description="the migrator's database; services use their own roles on it",
    )
    own_database_url: DatabaseAddress | None = Field(
        default=None,
        alias="DATABASE_URL_{SERVICE}",
        examples=["postgresql://causeloop_{service}:…@db.example.com/causeloop?sslmode=verify-full"],
        description="this service's database and role, instead of derived",
    )
    own_relay_url: DatabaseAddress | None = Field(
        default=None,
        alias="DATABASE_URL_{SERVICE}_RELAY",
        examples=["postgresql://causeloop_{service}_relay:…@db.example.com/causeloop?sslmode=verify-full"],
        description="the role of this service's relay",
    )
    own_jobs_url: DatabaseAddress | None = Field(
        default=None,
        alias="DATABASE_URL_{SERVICE}_JOBS",
        examples=["postgresql://causeloop_{service}_jobs:…@db.example.com/causeloop?sslmode=verify-full"],
        description="the role that takes this service's due jobs",
    )
    database_workers: int = Field(
        default=8,
        ge=1,
        le=200,
        alias="DATABASE_WORKERS",
        examples=["8"],
        description="connections, and so commands at work at once",
    )
    nats_url: Annotated[str, AfterValidator(read_nats)] = Field(
        default="nats://127.0.0.1:4222",
        alias="NATS_URL",
        examples=["tls://nats.example.com:4222"],
        description="the bus, NATS 2.14 or later; tls:// for TLS",
    )
    nats_ca_file: Authority | None = Field(
        default=None,
        alias="NATS_CA_FILE",
        examples=["/etc/causeloop/nats-ca.pem"],
        description="certificate authority of the bus, if not a public one",
    )
    nats_nkey_seed: Seed | None = Field(
        default=None,
        alias="NATS_NKEY_SEED_{SERVICE}",
        examples=["SU…, as `causeloop keys --nats seeds` makes them"],
        description="this service's credential on the bus",
    )
    ops_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        alias="CAUSELOOP_OPS_PORT",
        examples=["9090"],
        description="health and metrics; 0 picks a free one",
    )
    ops_host: Host = Field(
        default="127.0.0.1",
        alias="CAUSELOOP_OPS_HOST",
        examples=["127.0.0.1"],
        description="where health and metrics listen",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", alias="LOG_LEVEL", examples=["INFO"], description="what is logged"
    )

    otlp_endpoint: str | None = Field(
        default=None,
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        examples=["https://collector.example.com:4318"],
        description="a collector's address (OTLP over HTTP, /v1/traces and /v1/metrics are added); unset: none",
    )
    otlp_headers: SecretStr | None = Field(
        default=None,
        alias="OTEL_EXPORTER_OTLP_HEADERS",
        examples=["x-api-key=secret"],
        description="headers the collector wants, such as a key: name=value, comma-separated, values URL-encoded",
    )
    otlp_ca_file: Authority | None = Field(
        default=None,
        alias="OTEL_EXPORTER_OTLP_CERTIFICATE",
        examples=["/etc/causeloop/collector-ca.pem"],
        description="certificate authority of the collector, if not a public one",
    )
    trace_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        default="parentbased_traceidratio",
        alias="OTEL_TRACES_SAMPLER",
        examples=["parentbased_traceidratio"],
        description="which traces are kept; parentbased_…: one that came in follows its own sampled bit",
    )
    trace_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        alias="OTEL_TRACES_SAMPLER_ARG",
        examples=["0.1"],
        description="fraction of the traces that is kept with a sampler …traceidratio",
    )
    metrics_exporter: Literal["otlp", "none"] = Field(
        default="otlp",
        alias="OTEL_METRICS_EXPORTER",
        examples=["otlp"],
        description="none where the collector takes traces only; /metrics is served in any case",
    )
    metric_milliseconds: int = Field(
        default=60_000,
        ge=100,
        le=3_600_000,
        alias="OTEL_METRIC_EXPORT_INTERVAL",
        examples=["60000"],
        description="time between two deliveries of metrics to the collector, in milliseconds",
    )

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
    outbound_proxy_except: Texts = Field(
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
    outbound_tenant_ranges: Annotated[tuple[Network, ...], BeforeValidator(read_ranges)] = Field(
        default=(),
        alias="OUTBOUND_TENANT_RANGES",
        examples=["10.20.0.0/16"],
        description="private ranges (CIDR) that tenants' destinations may be in, comma-separated",
    )
    outbound_tenant_ports: Annotated[frozenset[Port], BeforeValidator(read_list)] = Field(
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
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
                raise ValueError("is no address of an HTTP proxy")
            try:
                _ = parts.port
            except ValueError:
                raise ValueError("has a port that is none") from None
        return proxy

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("is no http:// or https:// address")
            if parts.username is not None or parts.password is not None:
                raise ValueError("has a password in it: use OTEL_EXPORTER_OTLP_HEADERS")
        return endpoint

    @field_validator("otlp_headers")
    @classmethod
    def _are_headers(cls, headers: SecretStr | None) -> SecretStr | None:
        if headers is not None:
            read_headers(headers.get_secret_value())
        return headers

    @classmethod
    def load(cls, service: str, environ: Mapping[str, str]) -> Self:
        """The settings of `service`; SettingsError names every variable that is wrong. Empty means unset."""
        names = {field.alias: own_name(field.alias, service) for field in cls.model_fields.values() if field.alias}
        values: dict[str, Any] = {a: environ[name] for a, name in names.items() if environ.get(name)}
        try:
            return cls.model_validate({"service": service, **values})
        except ValidationError as error:
            examples = {f.alias: f.examples[0] for f in cls.model_fields.values() if f.examples}
            lines = []
            for one in error.errors(include_url=False, include_input=False, include_context=False):
                fault = _PLAIN.get(one["type"], one["msg"]).removeprefix("Value error, ").removesuffix(".")
                if not one["loc"]:
                    lines.append(f"{fault}.")
                    continue
                if fault.startswith(_WITHOUT_SUBJECT):
                    fault = f"it {fault}"
                alias = str(one["loc"][0])
                example = str(examples.get(alias, "")).replace("{service}", service)
                lines.append(f"{names.get(alias, alias)}: {fault}. Example: {example}.")
            raise SettingsError("\n".join(dict.fromkeys(lines))) from None

    @model_validator(mode="after")
    def _safe(self) -> Self:
        """Everything unsafe at once, so that an operator needs one look and not five starts."""
        problems = self.unsafe() if self.environment == "production" else []
        if problems:
            raise ValueError(" ".join(problems))
        return self

    def unsafe(self) -> list[str]:
        """The values that production refuses, a sentence each; subclasses add theirs."""
        problems = []
        if self.service_keys is None:
            secret = self.jwt_secret.get_secret_value() if self.jwt_secret else ""
            if is_guessable(secret):
                problems.append(
                    f"JWT_SECRET is missing, shorter than {SHORTEST_SECRET} characters or the development one: set it "
                    "to the output of `openssl rand -base64 48`, or set "
                    f"{own_name('CAUSELOOP_KEYS_{SERVICE}', self.service)}."
                )
        if self.nats_nkey_seed is None:
            problems.append(f"Set {own_name('NATS_NKEY_SEED_{SERVICE}', self.service)} to the service's nkey seed.")
        if urlsplit(self.nats_url).scheme != "tls" and not is_loopback(urlsplit(self.nats_url).hostname or "localhost"):
            problems.append("NATS_URL leaves this host without TLS: use a tls:// address.")
        if self.otlp_endpoint is not None:
            collector = urlsplit(self.otlp_endpoint)
            if collector.scheme != "https" and not is_loopback(collector.hostname or "localhost"):
                problems.append("OTEL_EXPORTER_OTLP_ENDPOINT leaves this host without TLS: use an https:// address.")
        problems += self._unsafe_outbound()
        for name, field in type(self).model_fields.items():
            url = getattr(self, name)
            is_database = field.alias is not None and field.alias.startswith("DATABASE_URL")
            if is_database and url is not None and not _is_private(DatabaseUrl.read(url.get_secret_value())):
                problems.append(leaves_without_tls(own_name(field.alias or "", self.service)))
        return problems

    def _unsafe_outbound(self) -> list[str]:
        problems = [
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

    def secret(self) -> bytes:
        """The installation's root secret."""
        return (self.jwt_secret.get_secret_value() if self.jwt_secret else DEVELOPMENT_SECRET).encode()

    def keyring(self) -> KeyRing:
        """The keys of this service."""
        if self.service_keys is not None:
            try:
                return KeyRing.load(self.service, self.service_keys.get_secret_value())
            except ValueError as error:
                raise SettingsError(f"{own_name('CAUSELOOP_KEYS_{SERVICE}', self.service)} {error}.") from error
        return KeyRing.derive(self.secret(), self.service, topology.pairs())

    def dsn(self, role: str) -> str:
        """The database address for one of this service's roles: its own variable's, else derived from DATABASE_URL."""
        variable = f"DATABASE_URL_{role.removeprefix('causeloop_').upper()}"
        for name, field in type(self).model_fields.items():
            own = getattr(self, name) if own_name(field.alias or "", self.service) == variable else None
            if own is not None:
                return str(own.get_secret_value()).strip()
        if self.database_url is None or (self.service_keys is not None and self.jwt_secret is None):
            raise SettingsError(
                f"Set DATABASE_URL, or {own_name('DATABASE_URL_{SERVICE}', self.service)}, to a PostgreSQL 16 address."
            )
        return role_url(self.database_url.get_secret_value(), role, self.secret())


def own_name(alias: str, service: str) -> str:
    """The variable's name for one service."""
    return alias.replace("{SERVICE}", service.upper())


def role_password(secret: bytes, role: str) -> str:
    """The password of a database role, derived from the installation's secret; `causeloop migrate` sets it."""
    return derive(secret, f"pg/v1/{role}").hex()


def with_role(url: str, role: str, password: str) -> str:
    """The same database address for another role."""
    return DatabaseUrl.read(url).with_role(role, password).text()


def role_url(url: str, role: str, secret: bytes) -> str:
    """The database address of one of our roles, with its derived password. SettingsError if others could guess it."""
    if not DatabaseUrl.read(url).is_local and is_guessable(secret.decode()):
        raise SettingsError(
            "DATABASE_URL leads to another host, where others could guess the passwords of the roles: set JWT_SECRET "
            "to the installation's secret, such as the output of `openssl rand -base64 48`."
        )
    return with_role(url, role, role_password(secret, role))


def is_guessable(secret: str) -> bool:
    """Whether a root secret is the published one of development, or too short."""
    return len(secret) < SHORTEST_SECRET or secret == DEVELOPMENT_SECRET


def migrator_url(environ: Mapping[str, str]) -> DatabaseUrl:
    """The migrator's address, under the rules that services have; SettingsError names what to set."""
    url = environ.get("DATABASE_URL", "")
    if not url.strip():
        raise SettingsError(
            "Set DATABASE_URL to the migrator's address on a PostgreSQL 16 database, such as "
            "postgresql://migrator:…@db.example.com/causeloop?sslmode=verify-full."
        )
    try:
        read = DatabaseUrl.read(url)
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL {error}.") from None
    if environ.get("CAUSELOOP_ENV") == "production" and not _is_private(read):
        raise SettingsError(leaves_without_tls("DATABASE_URL"))
    return read


def leaves_without_tls(variable: str) -> str:
    """The refusal of a database's address that production does not use."""
    return f"{variable} leaves this host without TLS: add sslmode=verify-full to it."


def read_key(text: str) -> bytes:
    """A 32-byte key in base64; ValueError names what is wrong without showing it."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    if len(key) != 32:
        raise ValueError(f"has {len(key)} bytes where 32 are needed (`openssl rand -base64 32`)")
    if len(set(key)) == 1:
        raise ValueError("is one byte repeated, which anybody can guess")
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


def _is_within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def _is_private(url: DatabaseUrl) -> bool:
    """Whether a database's address stays on this host or verifies TLS."""
    return url.is_local or url.is_verified
