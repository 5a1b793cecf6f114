"""Auth's settings: whose sessions are accepted, and what production refuses."""

import pytest

from causeloop_auth.settings import AuthSettings
from causeloop_common.settings import SettingsError

DEVELOPMENT = {
    "CLERK_JWKS_URL": "http://127.0.0.1:4001/.well-known/jwks.json",
    "CLERK_AUTHORIZED_PARTIES": "http://localhost:3000, https://app.example.com,",
}
PRODUCTION = {
    "CAUSELOOP_ENV": "production",
    "CAUSELOOP_AUTH": "clerk",
    "CLERK_JWKS_URL": "https://clerk.example.com/.well-known/jwks.json",
    "CLERK_AUTHORIZED_PARTIES": "https://app.example.com",
    "JWT_SECRET": "a-secret-of-the-installation-long-enough",
    "NATS_URL": "tls://nats.example.com",
    "NATS_NKEY_SEED_AUTH": "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY",
    "DATABASE_URL": "postgresql://db.example.com/causeloop?sslmode=verify-full",
}


class TestDevelopment:
    def test_signs_in_with_the_mock_issuer(self) -> None:
        settings = AuthSettings.load("auth", DEVELOPMENT)

        assert (settings.auth, settings.access_token_seconds) == ("mock", 900)
        assert settings.authorized_parties == ("http://localhost:3000", "https://app.example.com")

    @pytest.mark.parametrize("variable", ["CLERK_JWKS_URL", "CLERK_AUTHORIZED_PARTIES"])
    def test_needs_an_identity_provider(self, variable: str) -> None:
        with pytest.raises(SettingsError, match=f"{variable}: it is not set"):
            AuthSettings.load("auth", {**DEVELOPMENT, variable: ""})

    @pytest.mark.parametrize(
        ("variable", "value", "says"),
        [
            ("CLERK_JWKS_URL", "https://clerk.example.com/keys", "CLERK_JWKS_URL: it has another form"),
            ("CLERK_JWKS_URL", "ftp://clerk.example.com/.well-known/jwks.json", "CLERK_JWKS_URL: it has another form"),
            ("CAUSELOOP_AUTH", "none", "CAUSELOOP_AUTH: .*'mock' or 'clerk'"),
            ("ACCESS_TOKEN_SECONDS", "59", "ACCESS_TOKEN_SECONDS: .*greater than or equal to 60"),
            ("ACCESS_TOKEN_SECONDS", "3601", "ACCESS_TOKEN_SECONDS: .*less than or equal to 3600"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused_by_its_variable(self, variable: str, value: str, says: str) -> None:
        with pytest.raises(SettingsError, match=says):
            AuthSettings.load("auth", {**DEVELOPMENT, variable: value})


class TestProduction:
    def test_takes_safe_values(self) -> None:
        assert AuthSettings.load("auth", PRODUCTION).auth == "clerk"

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"CAUSELOOP_AUTH": "mock"}, "CAUSELOOP_AUTH=mock lets anybody sign in as anybody: set it to clerk"),
            ({"CAUSELOOP_AUTH": ""}, "CAUSELOOP_AUTH=mock lets anybody sign in as anybody"),
            (
                {"CLERK_JWKS_URL": "http://clerk.example.com/.well-known/jwks.json"},
                "CLERK_JWKS_URL is fetched without TLS: use its https:// address",
            ),
            ({"JWT_SECRET": ""}, "JWT_SECRET is missing"),
        ],
    )
    def test_refuses_each_unsafe_value_with_what_to_set(self, changed: dict[str, str], says: str) -> None:
        with pytest.raises(SettingsError, match=says):
            AuthSettings.load("auth", {**PRODUCTION, **changed})
