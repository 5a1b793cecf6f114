"""The settings of every service."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from causeloop_common.contracts import topology
from causeloop_common.database_url import DatabaseUrl
from causeloop_common.keys import KeyRing
from causeloop_common.settings.bus import IN_CLEAR, is_bus_of_this_host, is_protected_bus
from causeloop_common.settings.outbound import OutboundSettings
from causeloop_common.settings.roles import (
    DEVELOPMENT_SECRET,
    SHORTEST_SECRET,
    is_guessable,
    is_protected,
    leaves_without_tls,
    role_url,
)
from causeloop_common.settings.telemetry import TelemetrySettings
from causeloop_common.settings.values import (
    Authority,
    Bus,
    DatabaseAddress,
    Host,
    ListeningPort,
    Seed,
    SettingsError,
    own_name,
)

_PLAIN = {
    "missing": "it is not set",
    "too_short": "it names none",
    "int_parsing": "it is no whole number",
    "int_from_float": "it is no whole number",
    "float_parsing": "it is no number",
    "bool_parsing": "it is neither true nor false",
    "string_pattern_mismatch": "it has another form than the example",
}
"""The fault in other words than pydantic's."""


_WITHOUT_SUBJECT = ("is ", "has ", "names ")
"""The beginnings of faults that other sentences name the subject of."""


class Settings(TelemetrySettings, OutboundSettings):
    """The settings of every service. `{SERVICE}` in a variable's name stands for the service's own, such as `AUTH`."""

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
    nats_url: Bus = Field(
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
    ops_port: ListeningPort = Field(
        default=0,
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
                fault = fault.replace("Input should be", "it has to be")
                if not one["loc"]:
                    lines.append(f"{fault}.")
                    continue
                if fault.startswith(_WITHOUT_SUBJECT):
                    fault = f"it {fault}"
                alias = str(one["loc"][0])
                example = str(examples.get(alias, "")).replace("{service}", service)
                lines.append(f"{names.get(alias, alias)}: {fault}. Example: {example}.")
            raise SettingsError("\n".join(dict.fromkeys(lines))) from None

    @field_validator("jwt_secret")
    @classmethod
    def _is_text(cls, secret: SecretStr | None) -> SecretStr | None:
        try:
            (secret or SecretStr("")).get_secret_value().encode()
        except UnicodeEncodeError:
            raise ValueError("has bytes in it that are no UTF-8") from None
        return secret

    @model_validator(mode="after")
    def _safe(self) -> Self:
        """Everything unsafe at once, so that an operator needs one look and not five starts."""
        problems = self.unsafe() if self.environment == "production" else self.exposed()
        if problems:
            raise ValueError(" ".join(problems))
        return self

    def exposed(self) -> list[str]:
        """The ways to others, a sentence each, on which keys that others can guess would be used; refused always.

        A database's address is one, too: `role_url` refuses it.
        """
        problems = []
        if self.has_guessable_keys and not is_bus_of_this_host(self.nats_url):
            problems.append(
                "NATS_URL leads to another host, where others could guess the services' keys: set JWT_SECRET to the "
                "installation's secret, such as the output of `openssl rand -base64 48`."
            )
        return problems

    @property
    def has_guessable_keys(self) -> bool:
        """Whether others could guess this service's keys."""
        secret = self.jwt_secret.get_secret_value() if self.jwt_secret else ""
        return self.service_keys is None and is_guessable(secret)

    def unsafe(self) -> list[str]:
        """The values that production refuses, a sentence each; subclasses add theirs."""
        problems = []
        if self.has_guessable_keys:
            problems.append(
                f"JWT_SECRET is missing, shorter than {SHORTEST_SECRET} characters, guessable or the development one: "
                "set it to the output of `openssl rand -base64 48`, or set "
                f"{own_name('CAUSELOOP_KEYS_{SERVICE}', self.service)}."
            )
        problems += self._unsafe_bus() + super().unsafe()
        for name, field in type(self).model_fields.items():
            url = getattr(self, name)
            is_database = field.alias is not None and field.alias.startswith("DATABASE_URL")
            if is_database and url is not None and not is_protected(DatabaseUrl.read(url.get_secret_value())):
                problems.append(leaves_without_tls(own_name(field.alias or "", self.service)))
        return problems

    def _unsafe_bus(self) -> list[str]:
        problems = []
        if self.nats_nkey_seed is None:
            problems.append(f"Set {own_name('NATS_NKEY_SEED_{SERVICE}', self.service)} to the service's nkey seed.")
        if not is_protected_bus(self.nats_url):
            problems.append(IN_CLEAR)
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


class RoleSettings(Settings):
    """Enough for the database addresses of a service's roles: its addresses and keys. Nothing else is read."""

    @classmethod
    def load(cls, service: str, environ: Mapping[str, str]) -> Self:
        """As for the service; SettingsError begins with its name."""
        own = ("CAUSELOOP_ENV", "JWT_SECRET", own_name("CAUSELOOP_KEYS_{SERVICE}", service))
        read = {name: text for name, text in environ.items() if name in own or name.startswith("DATABASE_URL")}
        try:
            return super().load(service, read)
        except SettingsError as error:
            raise SettingsError(f"{service}: {error}") from None

    def _unsafe_bus(self) -> list[str]:
        return []
