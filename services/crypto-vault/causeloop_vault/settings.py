"""Settings of the vault."""

from pydantic import Field, SecretStr, field_validator

from causeloop_common.settings import Settings, read_key

DEVELOPMENT_ORIGIN = "causeloop.localhost"


class VaultSettings(Settings):
    """The common settings and the master keys."""

    master_keys: SecretStr = Field(
        alias="CAUSELOOP_MASTER_KEY",
        examples=["the output of `openssl rand -base64 32`"],
        description="32 bytes in base64; a comma-separated list where the first seals and all open",
    )

    origin: str = Field(
        default=DEVELOPMENT_ORIGIN,
        max_length=128,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~-]+)*$",
        alias="CAUSELOOP_ORIGIN",
        examples=["causeloop.example.com"],
        description="the installation's name in its logs' checkpoints, a host you own; fixed at the first start",
    )

    @field_validator("master_keys")
    @classmethod
    def _readable(cls, value: SecretStr) -> SecretStr:
        for number, text in enumerate(value.get_secret_value().split(","), start=1):
            try:
                read_key(text.strip())
            except ValueError as error:
                raise ValueError(f"Key {number} of CAUSELOOP_MASTER_KEY {error}.") from None
        return value

    def unsafe(self) -> list[str]:
        """The common ones, and the development origin, which does not show whose log it is."""
        problems = super().unsafe()
        if self.origin == DEVELOPMENT_ORIGIN:
            problems.append(
                "CAUSELOOP_ORIGIN is the development one: set it to a host name of yours, such as "
                "causeloop.example.com. It is fixed at the first start."
            )
        return problems

    def keys(self) -> list[bytes]:
        """The master keys, the sealing one first."""
        return [read_key(text.strip()) for text in self.master_keys.get_secret_value().split(",")]
