"""The refusals of settings, of every service: each names the setting, the fault and an example."""

import os
from base64 import b64encode, urlsafe_b64encode
from importlib import import_module
from json import dumps

import pytest

from causeloop_common.contracts.topology import SERVICES
from causeloop_common.settings import Settings, SettingsError, own_name

KINDS = {
    service: next(
        kind
        for kind in vars(import_module(f"causeloop_{service}.settings")).values()
        if isinstance(kind, type) and issubclass(kind, Settings) and kind is not Settings
    )
    for service in SERVICES
}
FIELDS = [
    (service, name) for service, kind in KINDS.items() for name, field in kind.model_fields.items() if field.alias
]
FREE = {"jwt_secret", "audience"}
"""Any text will do."""


def refusal(service: str, environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        KINDS[service].load(service, environ)
    return str(refused.value).splitlines()


class TestEverySetting:
    @pytest.mark.parametrize(("service", "name"), FIELDS)
    def test_that_cannot_be_used_is_refused_by_name_with_the_fault_and_an_example(
        self, service: str, name: str
    ) -> None:
        """F9: a refusal is a sentence that helps, whichever setting it is."""
        field = KINDS[service].model_fields[name]
        assert field.examples, f"give {field.alias} an example"
        variable = own_name(str(field.alias), service)
        if name in FREE:
            return
        if name == "service_keys":
            settings = Settings.model_validate({"service": service, "CAUSELOOP_KEYS_{SERVICE}": " \x00"})
            with pytest.raises(SettingsError, match=f"^{variable} "):
                settings.keyring()
            return
        if name in ("outbound_ca_file", "origins"):
            return
        [line] = [one for one in refusal(service, {variable: " \x00/no such value"}) if one.startswith(f"{variable}: ")]
        fault, _, example = line.removeprefix(f"{variable}: ").partition(". Example: ")
        assert fault
        assert example
        assert "\x00" not in example

    @pytest.mark.parametrize(
        ("service", "variable", "value", "says"),
        [
            (
                "auth",
                "CLERK_JWKS_URL",
                "",
                "CLERK_JWKS_URL: it is not set. Example: https://idp.example.com/.well-known",
            ),
            (
                "auth",
                "NATS_NKEY_SEED_AUTH",
                "SUxx",
                "NATS_NKEY_SEED_AUTH: it is not the seed of a user's nkey. Example: SU",
            ),
            (
                "vault",
                "LOG_LEVEL",
                "LOUD",
                "LOG_LEVEL: it has to be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'. Example: INFO",
            ),
            (
                "audit",
                "NATS_CA_FILE",
                "/nowhere.pem",
                "NATS_CA_FILE: /nowhere.pem cannot be used: No such file or direct",
            ),
            (
                "audit",
                "NATS_CA_FILE",
                "/etc/hosts",
                "NATS_CA_FILE: /etc/hosts has no certificate in PEM form. Example: /",
            ),
            (
                "tenancy",
                "NATS_URL",
                "http://127.0.0.1:4222",
                "NATS_URL: it is no address of a NATS server, nats:// or t",
            ),
            ("tenancy", "NATS_URL", "nats://[::1", "NATS_URL: it is no address of a NATS server"),
            ("tenancy", "NATS_URL", "nats://a:4222,nats://b:4222", "NATS_URL: it has several addresses, and one is t"),
            ("vault", "CAUSELOOP_MASTER_KEY", "A" * 43 + "=", "is a few bytes repeated, which anybody can guess"),
            (
                "auth",
                "OUTBOUND_PROXY",
                "a.test",
                "OUTBOUND_PROXY: it is no address of an HTTP proxy. Example: http://p",
            ),
            ("auth", "DATABASE_URL", "postgresql://a", "DATABASE_URL: it names no database: end it with /causeloop"),
            ("auth", "DATABASE_URL", "a.test", "DATABASE_URL: it is no address of a database: it begins with"),
            ("gateway", "CORS_ORIGINS", "*", "CORS_ORIGINS: '*' is no origin: scheme, host in small letters and port"),
            ("gateway", "CORS_ORIGINS", "https://a.test/", "CORS_ORIGINS: 'https://a.test/' is no origin"),
            ("gateway", "CORS_ORIGINS", "https://a.test/path", "CORS_ORIGINS: 'https://a.test/path' is no origin"),
            ("gateway", "HOST", "a b", "HOST: it is no address or name of this host. Example: 127.0.0.1"),
            ("auth", "CLERK_AUTHORIZED_PARTIES", "a.test", "CLERK_AUTHORIZED_PARTIES: 'a.test' is no origin: scheme,"),
        ],
    )
    def test_that_newcomers_got_wrong_has_a_sentence(self, service: str, variable: str, value: str, says: str) -> None:
        """F9: nothing useless is accepted."""
        assert any(says in line for line in refusal(service, {variable: value}))

    @pytest.mark.parametrize(
        ("service", "variable", "value", "says"),
        [
            (
                "gateway",
                "CORS_ORIGINS",
                "https://a.test:443",
                "'https://a.test:443' names the port that browsers leave",
            ),
            ("gateway", "CORS_ORIGINS", "http://a.test:80", "'http://a.test:80' names the port that browsers leave"),
            ("gateway", "CORS_ORIGINS", "https://a.test:0", "'https://a.test:0' is no origin"),
            ("gateway", "CORS_ORIGINS", "https://a.test:99999", "CORS_ORIGINS: "),
            ("gateway", "CORS_ORIGINS", "https://...", "'https://...' is no origin"),
            ("gateway", "CORS_ORIGINS", "https://A.test", "'https://A.test' is no origin"),
            ("gateway", "CORS_ORIGINS", "https://[::0001]", "'https://[::0001]' is no origin"),
            ("gateway", "STRICT_TRANSPORT_SECURITY", "yes", "STRICT_TRANSPORT_SECURITY: "),
            ("auth", "CLERK_AUTHORIZED_PARTIES", ",", "CLERK_AUTHORIZED_PARTIES: "),
            ("auth", "CLERK_JWKS_URL", "https://u:hunter2@a.test/.well-known/jwks.json", "CLERK_JWKS_URL: "),
            ("auth", "CLERK_JWKS_URL", "https://a.test//.well-known/jwks.json", "CLERK_JWKS_URL: "),
            ("auth", "CLERK_JWKS_URL", "https://a.test/#/.well-known/jwks.json", "CLERK_JWKS_URL: "),
            ("auth", "CLERK_JWKS_URL", "https://a test/.well-known/jwks.json", "CLERK_JWKS_URL: "),
            ("auth", "CLERK_JWKS_URL", "https://a.test:99999/.well-known/jwks.json", "CLERK_JWKS_URL: "),
            ("auth", "NATS_URL", "nats://u:hunter2@a.test:4222", "NATS_URL: it has a user or password in it"),
            ("auth", "NATS_URL", "nats://a.test:4222/x", "NATS_URL: it is no address of a NATS server"),
            ("auth", "NATS_URL", "nats://a b:4222", "NATS_URL: it is no address of a NATS server"),
            ("auth", "OUTBOUND_PROXY", "http://a.test:0", "OUTBOUND_PROXY: it is no address of an HTTP proxy"),
            ("auth", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://a.test:99999", "OTEL_EXPORTER_OTLP_ENDPOINT: "),
            ("auth", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", "OTEL_EXPORTER_OTLP_ENDPOINT: it is no http:// or"),
            ("gateway", "CORS_ORIGINS", "https://u@a.test", "'https://u@a.test' is no origin"),
            ("gateway", "CORS_ORIGINS", "https://[::1", "'https://[::1' is no origin"),
            ("gateway", "CORS_ORIGINS", "https://a.test:x", "'https://a.test:x' is no origin"),
            (
                "gateway",
                "STRICT_TRANSPORT_SECURITY",
                "off",
                ": it has another form than the example. Example: max-age=",
            ),
            ("gateway", "PORT", "many", "PORT: it is no whole number. Example: 4000"),
            ("gateway", "RATE_LIMIT_FACTOR", "1,5", "RATE_LIMIT_FACTOR: it is no number. Example: 1"),
            ("gateway", "JWT_SECRET", os.fsdecode(b"\xff") * 40, "JWT_SECRET: it has bytes in it that are no UTF-8"),
            ("auth", "CLERK_AUDIENCE", " ", "CLERK_AUDIENCE: it has another form than the example"),
            ("auth", "NATS_URL", "nats://a.test#x", "NATS_URL: it is no address of a NATS server"),
            (
                "auth",
                "OUTBOUND_PROXY_EXCEPT",
                "http://a.test",
                "'http://a.test' is neither a host nor a domain such as",
            ),
            ("auth", "OUTBOUND_PROXY_EXCEPT", "*", "'*' is neither a host nor a domain such as .example.com"),
            ("auth", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://a.test/v1/traces", "ends in a path that is added to it"),
            ("vault", "CAUSELOOP_ORIGIN", "a..b", "CAUSELOOP_ORIGIN: "),
            ("vault", "CAUSELOOP_MASTER_KEY", b64encode(b"\0\1" * 16).decode(), "is a few bytes repeated"),
            ("vault", "CAUSELOOP_MASTER_KEY", b64encode(bytes(range(32))).decode(), "is a few bytes repeated"),
            ("vault", "CAUSELOOP_MASTER_KEY", b64encode(b"change-me-change-it-before-start").decode(), "is a text"),
        ],
    )
    def test_that_is_useless_is_not_accepted(self, service: str, variable: str, value: str, says: str) -> None:
        """F9: what matches no browser, leads nowhere or can be guessed is refused, and its secret not shown."""
        lines = refusal(service, {variable: value})
        assert any(says in line for line in lines)
        assert not any("hunter2" in line for line in lines)

    @pytest.mark.parametrize(
        "origin",
        ["https://a.test", "http://localhost:3000", "https://a.test:8443", "http://[::1]:3000", "http://10.0.0.1"],
    )
    def test_that_browsers_send_is_accepted(self, origin: str) -> None:
        settings = KINDS["gateway"].load("gateway", {"CORS_ORIGINS": origin})
        assert getattr(settings, "cors_origins") == (origin,)  # noqa: B009  of one of the kinds

    @pytest.mark.parametrize("secret", [" " * 40, "a" * 40, "change-me" * 5, "0123456789" * 4, "ab" * 20])
    def test_that_is_a_root_secret_which_can_be_guessed_is_refused_in_production(self, secret: str) -> None:
        """F9: however long, something short again and again is no secret."""
        lines = refusal("tenancy", {"CAUSELOOP_ENV": "production", "JWT_SECRET": secret})
        assert any("JWT_SECRET is missing, shorter than 32 characters, guessable" in line for line in lines)

    def test_that_are_keys_which_can_be_guessed_are_refused(self) -> None:
        """F9: keys of zeros, as a template has them."""
        zeros = b64encode(bytes(32)).decode()
        held = urlsafe_b64encode(
            dumps({"service": "tenancy", "pairs": {"gateway>tenancy": zeros}, "own": zeros}).encode()
        )
        settings = KINDS["tenancy"].load("tenancy", {"CAUSELOOP_KEYS_TENANCY": held.decode()})
        with pytest.raises(SettingsError, match=r"^CAUSELOOP_KEYS_TENANCY is not the output of `causeloop keys`"):
            settings.keyring()
