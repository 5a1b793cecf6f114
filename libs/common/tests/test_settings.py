"""Settings: what production refuses, and what is never printed."""

import base64
import json

import pytest

from causeloop_common.contracts import topology
from causeloop_common.keys import KeyRing, derive
from causeloop_common.settings import (
    DEVELOPMENT_SECRET,
    Settings,
    SettingsError,
    read_headers,
    read_key,
    role_password,
    with_role,
)

SECRET = "a-secret-of-the-installation-long-enough"
SAFE = {
    "CAUSELOOP_ENV": "production",
    "JWT_SECRET": SECRET,
    "NATS_URL": "tls://nats.example.com:4222",
    "NATS_NKEY_SEED_AUTH": "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY",
    "DATABASE_URL": "postgresql://migrator:password@db.example.com/causeloop?sslmode=verify-full",
}
CANARIES = (SECRET, SAFE["NATS_NKEY_SEED_AUTH"], "password")


class TestLoad:
    def test_reads_each_variable_the_services_own_by_its_name(self) -> None:
        settings = Settings.load("auth", {**SAFE, "DATABASE_WORKERS": "12", "DATABASE_URL_VAULT": "not for auth"})

        assert settings.service == "auth"
        assert settings.database_workers == 12
        assert settings.own_database_url is None
        assert settings.nats_nkey_seed is not None
        assert settings.nats_nkey_seed.get_secret_value() == SAFE["NATS_NKEY_SEED_AUTH"]

    @pytest.mark.parametrize(
        "variable", ["DATABASE_WORKERS", "NATS_URL", "NATS_CA_FILE", "LOG_LEVEL", "DATABASE_URL_AUTH", "CAUSELOOP_ENV"]
    )
    def test_empty_means_unset(self, variable: str) -> None:
        assert Settings.load("auth", {variable: ""}) == Settings.load("auth", {})

    @pytest.mark.parametrize(
        ("variable", "value", "says"),
        [
            ("CAUSELOOP_ENV", "staging", "CAUSELOOP_ENV: .*'development' or 'production'"),
            ("DATABASE_WORKERS", "0", "DATABASE_WORKERS: .*greater than or equal to 1"),
            ("DATABASE_WORKERS", "many", "DATABASE_WORKERS: it is no whole number"),
            ("CAUSELOOP_OPS_PORT", "65536", "CAUSELOOP_OPS_PORT: .*less than or equal to 65535"),
            ("LOG_LEVEL", "LOUD", "LOG_LEVEL: .*'DEBUG'"),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "collector:4317",
                "OTEL_EXPORTER_OTLP_ENDPOINT: .*is no http:// or https://",
            ),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector", "is no http:// or https:// address"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https:///v1", "is no http:// or https:// address"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:p@collector", "has a password in it: use OTEL_EXPORTER_OTLP_H"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "no pair", "OTEL_EXPORTER_OTLP_HEADERS: .*is not a list of name=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x=a%0d%0ay: b", "is not a list of name=value"),
            ("OUTBOUND_HTTP", "yes", "OUTBOUND_HTTP: .*'loopback', 'operators' or 'all'"),
            (
                "OUTBOUND_PROXY",
                "proxy.example.com:3128",
                r"OUTBOUND_PROXY: it is no address of an HTTP proxy\. Example: http",
            ),
            ("OUTBOUND_PROXY", "socks5://proxy.example.com", "OUTBOUND_PROXY: .*is no address of an HTTP proxy"),
            ("OUTBOUND_PROXY", "http://", "OUTBOUND_PROXY: .*is no address of an HTTP proxy"),
            ("OUTBOUND_TENANT_PROXY", "http://proxy/path", "OUTBOUND_TENANT_PROXY: .*is no address of an HTTP proxy"),
            ("OUTBOUND_TENANT_PROXY", "http://proxy:port", "OUTBOUND_TENANT_PROXY: .*has a port that is none"),
            (
                "OUTBOUND_TENANT_RANGES",
                "10.0.0.0/8,ten",
                "OUTBOUND_TENANT_RANGES: .*ten is no range such as 10.20.0.0/16",
            ),
            ("OUTBOUND_TENANT_RANGES", "10.0.0.1/8", "10.0.0.1/8 is no range"),
            ("OUTBOUND_TENANT_PORTS", "443,https", "OUTBOUND_TENANT_PORTS: it is no whole number"),
            ("OUTBOUND_TENANT_PORTS", "65536", "OUTBOUND_TENANT_PORTS: .*less than or equal to 65535"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.1", "OTEL_TRACES_SAMPLER_ARG: .*less than or equal to 1"),
            ("OTEL_TRACES_SAMPLER_ARG", "nan", "OTEL_TRACES_SAMPLER_ARG: "),
        ],
    )
    def test_a_value_that_cannot_be_is_refused_by_its_variable(self, variable: str, value: str, says: str) -> None:
        with pytest.raises(SettingsError, match=says):
            Settings.load("auth", {variable: value})

    def test_everything_wrong_is_reported_at_once(self) -> None:
        with pytest.raises(SettingsError, match=r"(?s)DATABASE_WORKERS: .*\nLOG_LEVEL: "):
            Settings.load("auth", {"DATABASE_WORKERS": "0", "LOG_LEVEL": "LOUD"})

    def test_development_needs_nothing(self) -> None:
        assert Settings.load("auth", {}).secret() == DEVELOPMENT_SECRET.encode()


class TestDevelopment:
    """Keys that everybody can derive stay on this host, whatever CAUSELOOP_ENV is."""

    ELSEWHERE = "nats://nats.example.com:4222"

    @pytest.mark.parametrize(
        "secret", ["", "short", DEVELOPMENT_SECRET, f"{DEVELOPMENT_SECRET}\n", f'"{DEVELOPMENT_SECRET}"']
    )
    def test_does_not_reach_a_bus_on_another_host(self, secret: str) -> None:
        """D2: who reaches that bus could make every service's tokens."""
        environ = {"NATS_URL": self.ELSEWHERE, "JWT_SECRET": secret}
        for service in topology.SERVICES:
            with pytest.raises(SettingsError, match="NATS_URL leads to another host, where others could guess"):
                Settings.load(service, environ)

    def test_does_with_keys_of_its_own(self) -> None:
        keys = KeyRing.derive(SECRET.encode(), "auth", topology.pairs()).dump()
        Settings.load("auth", {"NATS_URL": self.ELSEWHERE, "JWT_SECRET": SECRET})
        Settings.load("auth", {"NATS_URL": self.ELSEWHERE, "CAUSELOOP_KEYS_AUTH": keys})

    @pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "nats://localhost", "nats://[::1]:4222"])
    def test_needs_no_secret_on_this_host(self, url: str) -> None:
        Settings.load("auth", {"NATS_URL": url})


class TestProduction:
    def test_takes_safe_values(self) -> None:
        assert Settings.load("auth", SAFE).environment == "production"

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"JWT_SECRET": ""}, "JWT_SECRET is missing, .* set it to the output of"),
            ({"JWT_SECRET": "x" * 31}, "JWT_SECRET is .*shorter than 32 characters"),
            ({"JWT_SECRET": DEVELOPMENT_SECRET}, "JWT_SECRET is .*the development one.*CAUSELOOP_KEYS_AUTH"),
            ({"NATS_NKEY_SEED_AUTH": ""}, "Set NATS_NKEY_SEED_AUTH to the service's nkey seed"),
            ({"NATS_URL": "nats://nats.example.com"}, "NATS_URL leaves this host without TLS: use a tls:// address"),
            ({"NATS_URL": "nats://10.0.0.7:4222"}, "NATS_URL leaves this host without TLS"),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example.com:4318"},
                "OTEL_EXPORTER_OTLP_ENDPOINT leaves this host without TLS: use an https:// address",
            ),
            (
                {"OUTBOUND_HTTP": "all"},
                "OUTBOUND_HTTP=all sends tenants' data without TLS: set it to loopback or operators",
            ),
            (
                {"OUTBOUND_TENANT_RANGES": "10.0.0.0/8,127.0.0.0/8"},
                "OUTBOUND_TENANT_RANGES opens 127.0.0.0/8, which is no private network: name ranges within 10.0.0.0",
            ),
            ({"OUTBOUND_TENANT_RANGES": "0.0.0.0/0"}, "OUTBOUND_TENANT_RANGES opens 0.0.0.0/0"),
            ({"OUTBOUND_TENANT_RANGES": "169.254.0.0/16"}, "OUTBOUND_TENANT_RANGES opens 169.254.0.0/16"),
            ({"OUTBOUND_TENANT_RANGES": "::/0"}, "OUTBOUND_TENANT_RANGES opens ::/0"),
            (
                {"OUTBOUND_PROXY": "http://u:password@proxy.example.com:3128"},
                "OUTBOUND_PROXY sends its credentials without TLS: use the proxy's https:// address",
            ),
            (
                {"OUTBOUND_TENANT_PROXY": "http://u:password@proxy.example.com:3128"},
                "OUTBOUND_TENANT_PROXY sends its credentials without TLS",
            ),
            (
                {"DATABASE_URL": "postgresql://u:password@db/x"},
                "DATABASE_URL leaves this host without TLS: add sslmode",
            ),
            ({"DATABASE_URL": "postgresql://u:password@db/x?sslmode=require"}, "DATABASE_URL leaves this host"),
            ({"DATABASE_URL": "postgresql://u:password@/x?host=db.example.com"}, "DATABASE_URL leaves this host"),
            ({"DATABASE_URL": "postgresql://u:password@127.0.0.1,db/x"}, "DATABASE_URL leaves this host"),
            (
                {"DATABASE_URL": "postgresql://u:password@db/x?host=/run/postgresql"},
                "DATABASE_URL: it has the host twice",
            ),
            ({"DATABASE_URL": "postgresql://u:password@db/x?host=127.0.0.1"}, "DATABASE_URL: it has the host twice"),
            ({"DATABASE_URL_AUTH": "postgresql://u:password@db/x"}, "DATABASE_URL_AUTH leaves this host without TLS"),
            ({"DATABASE_URL_AUTH_RELAY": "postgresql://u:password@db/x"}, "DATABASE_URL_AUTH_RELAY leaves this host"),
        ],
    )
    def test_refuses_each_unsafe_value_with_what_to_set(self, changed: dict[str, str], says: str) -> None:
        with pytest.raises(SettingsError, match=says) as refused:
            Settings.load("auth", {**SAFE, **changed})

        for canary in CANARIES:
            assert canary not in str(refused.value)

    def test_tells_everything_unsafe_at_once(self) -> None:
        with pytest.raises(SettingsError, match=r"JWT_SECRET is missing.*NATS_NKEY_SEED_AUTH.*DATABASE_URL leaves"):
            Settings.load("auth", {"CAUSELOOP_ENV": "production", "DATABASE_URL": "postgresql://db/x"})

    @pytest.mark.parametrize(
        "changed",
        [
            {"NATS_URL": "nats://127.0.0.1:4222"},
            {"NATS_URL": "nats://[::1]:4222"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:4318"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.example.com"},
            {"NATS_URL": "nats://localhost:4222"},
            {"DATABASE_URL": "postgresql://u@localhost/x"},
            {"DATABASE_URL": "postgresql://u@/x?host=/run/postgresql"},
            {"DATABASE_URL": "postgresql://u@db.example.com/x?sslmode=verify-ca&sslrootcert=/ca.pem"},
            {"DATABASE_URL": ""},
            {"OUTBOUND_HTTP": "operators"},
            {"OUTBOUND_TENANT_RANGES": "10.20.0.0/16, fd12::/16,64:ff9b::/96"},
            {"OUTBOUND_PROXY": "http://proxy.example.com:3128"},
            {"OUTBOUND_PROXY": "https://u:password@proxy.example.com"},
            {"OUTBOUND_TENANT_PROXY": "http://u:password@127.0.0.1:3128"},
        ],
    )
    def test_takes_what_stays_on_this_host_or_is_verified(self, changed: dict[str, str]) -> None:
        Settings.load("auth", {**SAFE, **changed})

    def test_takes_a_services_own_keys_instead_of_the_root_secret(self) -> None:
        keys = KeyRing.derive(SECRET.encode(), "auth", topology.pairs())

        settings = Settings.load("auth", {**SAFE, "JWT_SECRET": "", "CAUSELOOP_KEYS_AUTH": keys.dump()})

        assert settings.keyring().pair("gateway", "auth") == keys.pair("gateway", "auth")


class TestSecrets:
    def test_are_never_printed(self) -> None:
        keys = KeyRing.derive(SECRET.encode(), "auth", topology.pairs()).dump()
        settings = Settings.load("auth", {**SAFE, "CAUSELOOP_KEYS_AUTH": keys, "DATABASE_URL_AUTH": "postgresql:///x"})

        for shown in (
            repr(settings),
            str(settings),
            settings.model_dump_json(),
            json.dumps(str(settings.model_dump())),
        ):
            for canary in (*CANARIES, keys, "postgresql://"):
                assert canary not in shown

    def test_every_field_that_holds_one_hides_it(self) -> None:
        hidden = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}

        assert hidden == {
            "jwt_secret", "service_keys", "database_url", "own_database_url", "own_relay_url", "own_jobs_url",
            "nats_nkey_seed", "otlp_headers", "outbound_proxy", "outbound_tenant_proxy",
        }  # fmt: skip

    def test_every_variable_says_what_it_is(self) -> None:
        for name, field in Settings.model_fields.items():
            assert name == "service" or (field.alias and field.description), name


class TestReadHeaders:
    @pytest.mark.parametrize(
        ("text", "headers"),
        [
            ("", {}),
            ("Authorization=Basic%20eDp5", {"authorization": "Basic eDp5"}),
            ("x-key=a=b , x-other=c,", {"x-key": "a=b", "x-other": "c"}),
        ],
    )
    def test_reads_what_opentelemetry_writes(self, text: str, headers: dict[str, str]) -> None:
        assert read_headers(text) == headers


class TestKeyring:
    def test_follows_from_the_root_secret(self) -> None:
        expected = KeyRing.derive(SECRET.encode(), "auth", topology.pairs())

        assert Settings.load("auth", SAFE).keyring().dump() == expected.dump()

    def test_the_keys_of_another_service_are_refused_by_the_variable(self) -> None:
        keys = KeyRing.derive(SECRET.encode(), "vault", topology.pairs())
        settings = Settings.load("auth", {"CAUSELOOP_KEYS_AUTH": keys.dump()})

        with pytest.raises(SettingsError, match="CAUSELOOP_KEYS_AUTH holds the keys of 'vault', not of 'auth'"):
            settings.keyring()


class TestDsn:
    def test_is_the_same_database_for_the_role_with_its_derived_password(self) -> None:
        password = derive(SECRET.encode(), "pg/v1/causeloop_auth").hex()

        assert Settings.load("auth", SAFE).dsn("causeloop_auth") == (
            f"postgresql://causeloop_auth:{password}@db.example.com/causeloop?sslmode=verify-full"
        )

    def test_an_address_of_its_own_goes_before(self) -> None:
        own = {
            "DATABASE_URL_AUTH": "postgresql:///a",
            "DATABASE_URL_AUTH_RELAY": "postgresql:///b",
            "DATABASE_URL_AUTH_JOBS": "postgresql:///c",
        }
        settings = Settings.load("auth", {**SAFE, **own})

        assert settings.dsn("causeloop_auth") == "postgresql:///a"
        assert settings.dsn("causeloop_auth_relay") == "postgresql:///b"
        assert settings.dsn("causeloop_auth_jobs") == "postgresql:///c"

    def test_without_any_the_variables_are_named(self) -> None:
        with pytest.raises(SettingsError, match="Set DATABASE_URL, or DATABASE_URL_AUTH, to a PostgreSQL 16 address"):
            Settings.load("auth", {}).dsn("causeloop_auth")

    def test_each_role_has_a_password_of_its_own(self) -> None:
        roles = ("causeloop_auth", "causeloop_auth_relay", "causeloop_vault")

        assert len({role_password(SECRET.encode(), role) for role in roles}) == 3

    def test_what_a_password_holds_cannot_change_the_address(self) -> None:
        assert with_role("postgresql://u:p@db:5433/x?sslmode=require", "r", "a@b:c/d?e#f") == (
            "postgresql://r:a%40b%3Ac%2Fd%3Fe%23f@db:5433/x?sslmode=require"
        )


class TestReadKey:
    def test_reads_32_bytes_of_base64(self) -> None:
        key = derive(b"a secret", "a key")
        assert read_key(base64.b64encode(key).decode()) == key

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("not base64!", "is not base64"),
            ("é", "is not base64"),
            (base64.b64encode(bytes(31)).decode(), "has 31 bytes where 32 are needed"),
            (base64.b64encode(bytes(33)).decode(), "has 33 bytes where 32 are needed"),
        ],
    )
    def test_anything_else_is_refused_without_showing_it(self, text: str, says: str) -> None:
        with pytest.raises(ValueError, match=says) as refused:
            read_key(text)

        assert text not in str(refused.value)
