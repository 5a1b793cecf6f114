"""What the vault answers and announces: secrets, named keys, sealing for other services, signed checkpoints."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from causeloop_common.contracts.base import (
    Command,
    Event,
    Hash,
    Hidden,
    KeyId,
    Message,
    Page,
    Sealed,
    SecretId,
    Timestamp,
)
from causeloop_common.permissions import Internal, Permission
from causeloop_log.tlog.checkpoint import LARGEST_SIZE
from causeloop_log.tlog.merkle import LONGEST_PROOF

RETIRED: frozenset[str] = frozenset({"GetLogKey"})

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


class GetSecret(Command[SecretView], permission=Permission.SECRETS_READ, keyed=False):
    """What is known of a secret without its value."""

    path: SecretPath


class SecretPage(Page):
    """Secrets, by path."""

    data: list[SecretView]


class ListSecrets(Command[SecretPage], permission=Permission.SECRETS_READ, keyed=False):
    """The workspace's secrets, without their values."""

    limit: int = Field(default=25, ge=1, le=100)
    position: str | None = Field(default=None, max_length=512)


class RevealedSecret(Message):
    """A secret with its value."""

    id: SecretId
    path: str
    version: int
    value: Sealed


class RevealSecret(Command[RevealedSecret], permission=Permission.SECRETS_REVEAL, keyed=False):
    """Reveal a secret's value; recorded before the answer."""

    path: SecretPath
    version: int | None = Field(default=None, ge=1, le=2**31 - 1, description="Absent: the newest.")


KeyName = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
KeyType = Literal["aes256-gcm"]


class KeyView(Message):
    """A named key without its material. `version` is the newest, counted from 1."""

    id: KeyId
    name: str
    type: KeyType
    version: int
    created_at: Timestamp


class CreateKey(Command[KeyView], permission=Permission.KEYS_WRITE):
    """Make a named key; its material never leaves the vault."""

    name: KeyName
    type: KeyType


class KeyPage(Page):
    """Named keys, by name."""

    data: list[KeyView]


class ListKeys(Command[KeyPage], permission=Permission.KEYS_READ, keyed=False):
    """The workspace's named keys."""

    limit: int = Field(default=25, ge=1, le=100)
    position: str | None = Field(default=None, max_length=512)


ITEMS = 1000
"""How many a request encrypts or decrypts at most."""

PLAINTEXT_CHARS = 65_536
CIPHERTEXT_CHARS = 65_655
"""Of a plaintext of that length."""

Context = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")],
        Annotated[str, Field(max_length=256)],
    ],
    Field(
        max_length=16,
        description="What the ciphertext belongs to, such as table and row. It is not stored, not secret, and "
        "decrypts with the same names and values only, in any order.",
    ),
]
Ciphertext = Annotated[str, Field(max_length=CIPHERTEXT_CHARS)]


class ItemError(Message):
    """Why one item of a request could not be done; the others were."""

    code: str
    detail: str


class PlainItem(Message):
    """A plaintext, and the context to bind it to."""

    plaintext: str = Field(max_length=PLAINTEXT_CHARS, repr=False, description="In base64: at most 48 KiB.")
    context: Context = Field(default_factory=dict)


class CipherItem(Message):
    """A ciphertext, and the context it was bound to."""

    ciphertext: Ciphertext
    context: Context = Field(default_factory=dict)


class EncryptedItem(Message):
    """The ciphertext of an item, or why there is none."""

    ciphertext: str | None = None
    error: ItemError | None = None


class DecryptedItem(Message):
    """The plaintext of an item in base64, or why there is none."""

    plaintext: str | None = Field(default=None, repr=False)
    error: ItemError | None = None


class Encrypted(Message):
    """`ciphertext` of one plaintext, or `results` of the items, in their order."""

    omits_nulls: ClassVar[bool] = True

    ciphertext: str | None = None
    results: list[EncryptedItem] | None = None


class Decrypted(Message):
    """`plaintext` of one ciphertext in base64, or `results` of the items, in their order."""

    wholly_sealed: ClassVar[bool] = True
    omits_nulls: ClassVar[bool] = True

    plaintext: Sealed | None = None
    results: Annotated[list[DecryptedItem], Hidden] | None = None


class Encrypt(Command[Encrypted], permission=Permission.KEYS_USE, keyed=False):
    """Encrypt one `plaintext`, or `items`, under a named key, each bound to its context."""

    wholly_sealed: ClassVar[bool] = True

    name: KeyName
    plaintext: Sealed | None = Field(default=None, description="In base64: at most 48 KiB.")
    context: Context | None = None
    items: Annotated[list[PlainItem], Hidden, Field(min_length=1, max_length=ITEMS)] | None = None


class Decrypt(Command[Decrypted], permission=Permission.KEYS_USE, keyed=False):
    """Decrypt one `ciphertext`, or `items`, under a named key; recorded before the answer."""

    wholly_sealed: ClassVar[bool] = True

    name: KeyName
    ciphertext: Ciphertext | None = None
    context: Context | None = None
    items: list[CipherItem] | None = Field(default=None, min_length=1, max_length=ITEMS)


class SealedData(Message):
    """Ciphertext in the vault's format, for the asking service to store."""

    ciphertext: str


class Seal(Command[SealedData], permission=Internal.SEAL, issuers=frozenset({"auth"}), keyed=False):
    """Seal data under the tenant's key for the asking service. Each issuer has purposes of its own."""

    purpose: Literal["session"]
    record_id: str = Field(min_length=1, max_length=128)
    plaintext: Sealed


class SignedCheckpoint(Message):
    """A checkpoint of the tenant's log as a signed note (C2SP tlog-checkpoint)."""

    checkpoint: str


class SignCheckpoint(
    Command[SignedCheckpoint], permission=Internal.SIGN_CHECKPOINT, issuers=frozenset({"audit"}), keyed=False
):
    """Sign the head of the tenant's log, if the log only grew since the last one that was signed.

    `proof` leads from `old_size` to `size` (RFC 9162 2.1.4). Where `old_size` is not the size last signed, the refusal
    is `conflict` and its field `old_size` has the right one, as with a C2SP tlog-witness.
    """

    old_size: int = Field(ge=0, le=LARGEST_SIZE)
    size: int = Field(ge=0, le=LARGEST_SIZE)
    root: Hash
    proof: list[Hash] = Field(max_length=LONGEST_PROOF)


class AuditKey(Message):
    """What verifies the checkpoints of the tenant's log: pin it, and nobody can show you another log."""

    origin: str = Field(description="The log's name, the first line of its checkpoints.")
    key: str = Field(description="The verifier key, `name+id+base64`, as tools for signed notes read it.")
    algorithm: Literal["ed25519"] = "ed25519"
    created_at: Timestamp


class GetAuditKey(Command[AuditKey], permission=Permission.AUDIT_READ, keyed=False):
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


class KeyCreated(Event, target="key_id"):
    """A named key was made."""

    key_id: KeyId
    version: int


class DataDecrypted(Event, target="key_id"):
    """So many ciphertexts of a named key were decrypted, by one request."""

    key_id: KeyId
    count: int
