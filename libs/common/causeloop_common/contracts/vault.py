"""What the vault answers and announces: secrets, and sealing for other services."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from causeloop_common.contracts.base import (
    Command,
    Event,
    Message,
    Page,
    Sealed,
    SecretId,
    Timestamp,
)
from causeloop_common.permissions import Internal, Permission

RETIRED: frozenset[str] = frozenset()

SecretPath = Annotated[
    str, StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
]


class SecretView(Message):
    """A secret without its value. `version` is the newest, counted from 1."""

    id: SecretId
    path: str
    version: int
    created_at: Timestamp
    updated_at: Timestamp


class PutSecret(Command[SecretView], permission=Permission.SECRETS_WRITE):
    """Write a new version of a secret."""

    path: SecretPath
    value: Sealed
    version: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 2,
        description="Compare and set: write only on top of this version; 0, only if new.",
    )


class GetSecret(Command[SecretView], permission=Permission.SECRETS_READ, pure=True):
    """What is known of a secret without its value."""

    path: SecretPath


class SecretPage(Page):
    """Secrets, by path."""

    data: list[SecretView]


class ListSecrets(Command[SecretPage], permission=Permission.SECRETS_READ, pure=True):
    """The workspace's secrets, without their values."""

    limit: int = Field(default=25, ge=1, le=100)
    position: str | None = Field(default=None, max_length=512)


class RevealedSecret(Message):
    """A secret with its value."""

    id: SecretId
    path: str
    version: int
    value: Sealed


class RevealSecret(Command[RevealedSecret], permission=Permission.SECRETS_REVEAL, pure=True):
    """Reveal a secret's value; recorded before the answer."""

    path: SecretPath
    version: int | None = Field(default=None, ge=1, le=2**31 - 1, description="Absent: the newest.")


class SealedData(Message):
    """Ciphertext in the vault's format, for the asking service to store."""

    ciphertext: str


class Seal(Command[SealedData], permission=Internal.SEAL, issuers=frozenset({"auth"}), pure=True):
    """Seal data under the tenant's key for the asking service. Each issuer has purposes of its own."""

    purpose: Literal["session"]
    record_id: str = Field(min_length=1, max_length=128)
    plaintext: Sealed


class KeyringCreated(Event, target="keyring"):
    """The tenant's first data key was made and wrapped."""

    keyring: str
    version: int


class SecretWritten(Event, target="secret_id"):
    """A version of a secret was written."""

    secret_id: SecretId
    version: int


class SecretRevealed(Event, target="secret_id"):
    """A secret's value was shown."""

    secret_id: SecretId
    version: int
