"""Settings of the gateway."""

from pydantic import Field

from causeloop_common.database_url import is_loopback
from causeloop_common.settings import Host, ListeningPort, Origins, Settings


class GatewaySettings(Settings):
    """The common settings and the public side."""

    port: ListeningPort = Field(default=4000, alias="PORT", examples=["4000"], description="where clients call")
    host: Host = Field(
        default="127.0.0.1", alias="HOST", examples=["127.0.0.1"], description="the address it listens on; :: for all"
    )
    cors_origins: Origins = Field(
        default=(),
        alias="CORS_ORIGINS",
        examples=["https://app.example.com"],
        description="comma-separated origins whose browsers may call; none by default",
    )
    stop_seconds: int | None = Field(
        default=None,
        ge=0,
        le=300,
        alias="STOP_DELAY_SECONDS",
        examples=["5"],
        description="seconds it serves on after SIGTERM, with /ready at 503; unset: 5, in development 0",
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        le=8,
        alias="TRUSTED_PROXIES",
        examples=["1"],
        description="proxies in front, counted from the right",
    )

    transport_security: str = Field(
        default="max-age=63072000",
        max_length=200,
        pattern=r"^(?:max-age=[0-9]{1,10}(?:; ?[A-Za-z]+)*)?$",
        alias="STRICT_TRANSPORT_SECURITY",
        examples=["max-age=63072000"],
        description="the header of this name where a trusted proxy names https in X-Forwarded-Proto; empty for none",
    )
    rate_limit_factor: float = Field(
        default=1.0,
        gt=0,
        le=100_000,
        alias="RATE_LIMIT_FACTOR",
        examples=["1"],
        description="multiplies the requests that every rate limit allows, at each gateway process",
    )
    remembered_seconds: int = Field(
        default=30,
        ge=1,
        le=30,
        alias="REMEMBERED_SECONDS",
        examples=["30"],
        description="how long it remembers who a token stands for, should no event end that earlier",
    )

    def exposed(self) -> list[str]:
        """The common ones, and an address at which others call."""
        problems = super().exposed()
        if self.has_guessable_keys and not is_loopback(self.host):
            problems.append(
                "HOST lets others call, who could guess the keys of the tokens: set JWT_SECRET to the installation's "
                "secret, such as the output of `openssl rand -base64 48`."
            )
        return problems

    @property
    def stop_delay(self) -> int:
        """How long it serves on after SIGTERM, in seconds: a balancer has seen its `/ready` twice by then."""
        if self.stop_seconds is not None:
            return self.stop_seconds
        return 5 if self.environment == "production" else 0
