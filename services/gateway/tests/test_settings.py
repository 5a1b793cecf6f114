"""The gateway's settings: where it listens, who may call, how many proxies are trusted."""

import pytest

from causeloop_common.settings import SettingsError
from causeloop_gateway.settings import GatewaySettings


class TestGatewaySettings:
    def test_listens_on_the_loopback_and_trusts_nobody_unless_set_to(self) -> None:
        settings = GatewaySettings.load("gateway", {})

        assert (settings.host, settings.port) == ("127.0.0.1", 4000)
        assert settings.cors_origins == ()
        assert settings.trusted_proxies == 0

    def test_origins_are_a_list(self) -> None:
        settings = GatewaySettings.load("gateway", {"CORS_ORIGINS": "https://a.example , https://b.example,"})

        assert settings.cors_origins == ("https://a.example", "https://b.example")

    @pytest.mark.parametrize(
        ("variable", "value"),
        [("PORT", "70000"), ("PORT", "http"), ("TRUSTED_PROXIES", "-1"), ("TRUSTED_PROXIES", "9")],
    )
    def test_a_value_that_cannot_be_is_refused_by_its_variable(self, variable: str, value: str) -> None:
        with pytest.raises(SettingsError, match=f"{variable}: "):
            GatewaySettings.load("gateway", {variable: value})

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "gateway.example.com"])
    def test_lets_nobody_call_under_keys_that_can_be_guessed(self, host: str) -> None:
        """D2: who reaches the port could make an access token of anybody."""
        with pytest.raises(SettingsError, match="HOST lets others call, who could guess the keys of the tokens"):
            GatewaySettings.load("gateway", {"HOST": host})
        GatewaySettings.load("gateway", {"HOST": host, "JWT_SECRET": "a-secret-of-the-installation-long-enough"})

    def test_serves_on_before_it_stops_in_production_alone_unless_set(self) -> None:
        settings = GatewaySettings.load("gateway", {})
        assert settings.stop_delay == 0
        assert settings.model_copy(update={"environment": "production"}).stop_delay == 5
        assert GatewaySettings.load("gateway", {"STOP_DELAY_SECONDS": "0"}).stop_delay == 0
        with pytest.raises(SettingsError, match="STOP_DELAY_SECONDS: "):
            GatewaySettings.load("gateway", {"STOP_DELAY_SECONDS": "301"})
