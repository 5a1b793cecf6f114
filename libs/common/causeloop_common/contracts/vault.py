"""What the vault answers and announces: secrets, sealing for other services, signatures on checkpoints."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from causeloop_common.contracts.base import (
    Command,
    Event,
    Hash,
    Message,
    Page,
    Sealed,
    SecretId,
    Timestamp,
)
from causeloop_common.permissions import Internal, Permission
from causeloop_common.tlog.checkpoint import LARGEST_SIZE
from causeloop_common.tlog.merkle import LONGEST_PROOF

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


class SignedCheckpoint(Message):
    """A checkpoint of the tenant's log as a signed note (C2SP tlog-checkpoint)."""

    checkpoint: str


class SignCheckpoint(
    Command[SignedCheckpoint], permission=Internal.SIGN_CHECKPOINT, issuers=frozenset({"audit"}), pure=True
):
    """Sign the head of the tenant's log, if the log only grew since the last one that was signed.

    `proof` leads from `old_size` to `size` (RFC 9162 2.1.4). Where `old_size` is not the size last signed, the refusal
    is `conflict` and its field `old_size` has the right one, as with a C2SP tlog-witness.
    """

    old_size: int = Field(ge=0, le=LARGEST_SIZE)
    size: int = Field(ge=0, le=LARGEST_SIZE)
    root: Hash
    proof: list[Hash] = Field(max_length=LONGEST_PROOF)


class LogKey(Message):
    """What verifies the checkpoints of the tenant's log: pin it, and nobody can show you another log."""

    origin: str = Field(description="The log's name, the first line of its checkpoints.")
    key: str = Field(description="The verifier key, `name+id+base64`, as tools for signed notes read it.")
    algorithm: Literal["ed25519"] = "ed25519"
    created_at: Timestamp


class GetLogKey(Command[LogKey], permission=Permission.AUDIT_READ, pure=True):
    """The key that verifies the checkpoints of the workspace's log."""


class SigningKeyCreated(Event, target="public_key"):
    """The installation's signing key for checkpoints was made. `public_key` is Ed25519, 32 bytes in hex."""

    public_key: Hash
    origin: str


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
