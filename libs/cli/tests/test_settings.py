"""The refusals of settings, of every service: each names the setting, the fault and an example."""

from importlib import import_module

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
        if name in ("outbound_ca_file", "outbound_proxy_except", "origins"):
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
                "LOG_LEVEL: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'. Example: INFO",
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
            ("vault", "CAUSELOOP_MASTER_KEY", "A" * 43 + "=", "is one byte repeated, which anybody can guess"),
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
