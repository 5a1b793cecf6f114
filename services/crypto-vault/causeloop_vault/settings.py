"""Settings of the vault."""

from pydantic import Field, SecretStr, field_validator

from causeloop_common.settings import Settings, read_key


class VaultSettings(Settings):
    """The common settings and the master keys."""

    master_keys: SecretStr = Field(
        alias="CAUSELOOP_MASTER_KEY",
        description="32 bytes in base64; a comma-separated list where the first seals and all open",
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

    def keys(self) -> list[bytes]:
        """The master keys, the sealing one first."""
        return [read_key(text.strip()) for text in self.master_keys.get_secret_value().split(",")]
