"""Settings of auth."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from causeloop_common.settings import Origins, Settings, is_place


class AuthSettings(Settings):
    """The common settings and the identity provider's."""

    auth: Literal["mock", "clerk"] = Field(
        default="mock",
        alias="CAUSELOOP_AUTH",
        examples=["clerk"],
        description="mock runs a development issuer of our own",
    )
    jwks_url: str = Field(
        alias="CLERK_JWKS_URL",
        examples=["https://idp.example.com/.well-known/jwks.json"],
        pattern=r"^https?://[A-Za-z0-9.\[\]:_-]+(?:/[A-Za-z0-9._~-]+)*/\.well-known/jwks\.json$",
        description="the identity provider's published keys",
    )
    audience: str | None = Field(
        default=None,
        max_length=256,
        pattern=r"^\S+$",
        alias="CLERK_AUDIENCE",
        examples=["causeloop"],
        description="the `aud` that tokens have; unset: one that has any is refused",
    )
    authorized_parties: Origins = Field(
        min_length=1,
        alias="CLERK_AUTHORIZED_PARTIES",
        examples=["https://app.example.com"],
        description="comma-separated origins whose sessions are accepted (`azp`)",
    )
    access_token_seconds: int = Field(
        default=900,
        ge=60,
        le=3600,
        alias="ACCESS_TOKEN_SECONDS",
        examples=["900"],
        description="life of an access token",
    )

    @field_validator("jwks_url")
    @classmethod
    def _has_a_place(cls, url: str) -> str:
        if not is_place(urlsplit(url)):
            raise ValueError("names no host that there can be")
        return url

    def unsafe(self) -> list[str]:
        """The common ones, the mock issuer, and keys over plain HTTP."""
        problems = super().unsafe()
        if self.auth == "mock":
            problems.append("CAUSELOOP_AUTH=mock lets anybody sign in as anybody: set it to clerk.")
        if urlsplit(self.jwks_url).scheme != "https":
            problems.append("CLERK_JWKS_URL is fetched without TLS: use its https:// address.")
        return problems
