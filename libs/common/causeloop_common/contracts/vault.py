"""The vault's contract: secrets, named keys, sealing for other services, signed checkpoints."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from causeloop_common.contracts import audit, auth, gateway, jobs, tenancy
from causeloop_common.contracts.base import (
    Command,
    Event,
    Hash,
    Job,
    KeyId,
    Message,
    Nothing,
    Sealed,
    SecretId,
    Timestamp,
    example_id,
)
from causeloop_common.contracts.jobs import JobView
from causeloop_common.contracts.lists import List, Page
from causeloop_common.contracts.purpose import Purpose, purposes
from causeloop_common.permissions import Internal, Permission
from causeloop_log.tlog.checkpoint import LARGEST_SIZE
from causeloop_log.tlog.merkle import LONGEST_PROOF

RETIRED: frozenset[str] = frozenset({"GetLogKey"})

SecretPath = Annotated[
    str,
    StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*$"),
    Field(description="The secret's path in the workspace; `/` separates its parts.", examples=["db/password"]),
]
Version = Annotated[int, Field(description="The version's number, from 1.", examples=[1])]


class SecretView(Message):
    """A secret without its value."""

    id: SecretId
    path: str = Field(description="Its path in the workspace.", examples=["db/password"])
    version: int = Field(description="The number of its newest version, from 1.", examples=[1])
    created_at: Timestamp = Field(description="The time of its first version.")
    updated_at: Timestamp = Field(description="The time of its newest version.")


class PutSecret(Command[SecretView], permission=Permission.SECRETS_WRITE):
    """Write a new version of a secret.

    The first one creates the secret. With `version` it is written only if that is the newest version at that moment.
    """

    path: SecretPath
    value: Sealed = Field(description="The value, a text of at most 64 Ki characters.", examples=["correct horse"])
    version: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 2,
        description="The newest version that the caller knows; 0: there is no such secret yet. Absent: write anyway.",
    )


class GetSecret(Command[SecretView], permission=Permission.SECRETS_READ, keyed=False):
    """Show a secret without its value.

    The audit log does not record it: only `reveal_secret` shows the value.
    """

    path: SecretPath


class SecretPage(Page):
    """Secrets, by path."""

    data: list[SecretView] = Field(description="The secrets of this page.")


class ListSecrets(
    List[SecretPage], table="secrets", orders={"path": "path"}, permission=Permission.SECRETS_READ, keyed=False
):
    """List the workspace's secrets.

    By path, without their values.
    """


class RevealedSecret(Message):
    """A secret with its value."""

    id: SecretId
    path: str = Field(description="Its path in the workspace.", examples=["db/password"])
    version: Version
    value: Sealed = Field(description="The value of this version.", examples=["correct horse"])


class RevealSecret(Command[RevealedSecret], permission=Permission.SECRETS_REVEAL, keyed=False):
    """Reveal a secret's value.

    The audit log records it before the answer leaves.
    """

    path: SecretPath
    version: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="The version to reveal. Absent: the newest."
    )


KeyName = Annotated[
    str,
    StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    Field(description="The key's name in the workspace.", examples=["orders"]),
]
KeyType = Annotated[Literal["aes256-gcm"], Field(description="The key's algorithm.")]


class KeyView(Message):
    """A named key without its material."""

    id: KeyId
    name: str = Field(description="Its name in the workspace.", examples=["orders"])
    type: KeyType
    version: int = Field(description="The number of its newest version, from 1.", examples=[1])
    created_at: Timestamp = Field(description="The time of its creation.")


class CreateKey(Command[KeyView], permission=Permission.KEYS_WRITE):
    """Create a named key.

    It encrypts and decrypts for the workspace's applications. Its material never leaves the vault.
    """

    name: KeyName
    type: KeyType


class KeyPage(Page):
    """Named keys, by name."""

    data: list[KeyView] = Field(description="The keys of this page.")


class ListKeys(List[KeyPage], table="keys", orders={"name": "name"}, permission=Permission.KEYS_READ, keyed=False):
    """List the workspace's named keys.

    By name, without their material.
    """


ITEMS = 1000
"""The most that one request encrypts or decrypts."""

CIPHERTEXT_CHARS = 65_655
"""The length of a ciphertext of the longest plaintext, 65 536 characters of base64."""

_CONTEXT = {"table": "orders", "row": "17"}
Context = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")],
        Annotated[str, Field(max_length=256)],
    ],
    Field(
        max_length=16,
        description="Names and values that the ciphertext belongs to, such as table and row. They are neither secret "
        "nor stored; the ciphertext decrypts only with the same ones, in any order.",
        examples=[_CONTEXT],
    ),
]
_CIPHERTEXT = "clv1:1:mF0cZ5qX…"  # for examples
Ciphertext = Annotated[
    str,
    Field(
        max_length=CIPHERTEXT_CHARS, description="A ciphertext that `encrypt` gave, `clv1:…`.", examples=[_CIPHERTEXT]
    ),
]


class ItemError(Message):
    """The reason why one item of a request could not be done; the others were."""

    code: str = Field(description="The code of a problem, such as `validation_error`.", examples=["validation_error"])
    detail: str = Field(description="A sentence for people.", examples=["The plaintext is not base64."])


class PlainItem(Message):
    """A plaintext, and the context to bind it to."""

    plaintext: Sealed = Field(description="In base64: at most 48 KiB.", examples=["SGVsbG8h"])
    context: Context = Field(default_factory=dict)


class CipherItem(Message):
    """A ciphertext, and the context that it was bound to."""

    ciphertext: Ciphertext
    context: Context = Field(default_factory=dict)


def _or_left_out(description: str, examples: list[str] | None = None) -> Any:
    """A field that an answer leaves out when it has no value."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description, examples=examples)


class EncryptedItem(Message):
    """The ciphertext of an item, or the reason why there is none."""

    ciphertext: str | None = _or_left_out("The item's ciphertext.")
    error: ItemError | None = _or_left_out("Instead of a ciphertext.")


class DecryptedItem(Message):
    """The plaintext of an item, or the reason why there is none."""

    plaintext: Sealed | None = _or_left_out("The item's plaintext, in base64.", ["SGVsbG8h"])
    error: ItemError | None = _or_left_out("Instead of a plaintext.")


class Encrypted(Message):
    """The ciphertext, or the results of the items."""

    ciphertext: str | None = _or_left_out("Of the one plaintext; keep it.", [_CIPHERTEXT])
    results: list[EncryptedItem] | None = _or_left_out("Of the items, in their order.")


class Decrypted(Message):
    """The plaintext, or the results of the items."""

    plaintext: Sealed | None = _or_left_out("Of the one ciphertext, in base64.", ["SGVsbG8h"])
    results: list[DecryptedItem] | None = _or_left_out("Of the items, in their order.")


class Encrypt(Command[Encrypted], permission=Permission.KEYS_USE, keyed=False):
    """Encrypt under a named key.

    Send one `plaintext` with its `context`, or up to 1000 `items` with theirs; of those, some may fail while the others
    are done. The ciphertext is not stored: keep it.
    """

    name: KeyName
    plaintext: Sealed | None = Field(
        default=None, description="One plaintext, in base64: at most 48 KiB.", examples=["SGVsbG8h"]
    )
    context: Context | None = Field(
        default=None, description="The names and values to bind the ciphertext to.", examples=[_CONTEXT]
    )
    items: list[PlainItem] | None = Field(
        default=None, min_length=1, max_length=ITEMS, description="Plaintexts with their contexts, instead of one."
    )


class Decrypt(Command[Decrypted], permission=Permission.KEYS_USE, keyed=False):
    """Decrypt under a named key.

    Take `ciphertext` from the answer of `encrypt`, and send the same `context`. Send one, or up to 1000 `items`; of
    those, some may fail while the others are done. The audit log records it before the answer leaves.
    """

    is_sealed: ClassVar[bool] = True  # so that nobody on the bus can ask for another plaintext

    name: KeyName
    ciphertext: Ciphertext | None = Field(
        default=None, description="One ciphertext that `encrypt` gave.", examples=[_CIPHERTEXT]
    )
    context: Context | None = Field(
        default=None, description="The context that was given to `encrypt`.", examples=[_CONTEXT]
    )
    items: list[CipherItem] | None = Field(
        default=None, min_length=1, max_length=ITEMS, description="Ciphertexts with their contexts, instead of one."
    )


PurposeName = Annotated[
    str,
    StringConstraints(max_length=64, pattern=r"^[a-z]+(?:_[a-z]+)*$"),
    Field(description="The use of the data, one that the asking service declared; it is bound to the ciphertext."),
]
Record = Annotated[
    str,
    StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$"),
    Field(description="The id of the record that the data belongs to; bound as well.", examples=[example_id("ses")]),
]


class DataKeyVersion(Message):
    """A version of the workspace's data key, without its material."""

    version: Version
    state: Literal["primary", "enabled"] = Field(
        description="The `primary` seals; an `enabled` one opens what it sealed before it was rotated."
    )
    created_at: Timestamp = Field(description="The time of its creation, and so its age.")


class KeyringView(Message):
    """The workspace's keyring."""

    versions: list[DataKeyVersion] = Field(
        description="The versions of the data key, newest first; none before the first secret or key."
    )


class GetKeyring(Command[KeyringView], permission=Permission.KEYS_READ, keyed=False):
    """Show the workspace's keyring.

    The versions of its data key, which seals secrets and named keys, without their material.
    """


class RotateKeyring(Command[JobView], permission=Permission.KEYS_WRITE):
    """Rotate the workspace's keyring.

    Makes a new data key and answers with a job, which seals under it everything that the workspace has in the vault.
    Requests go on meanwhile. Follow the job with `get_job`.
    """


class ReencryptKeyring(Job, permission=Permission.KEYS_WRITE):
    """Seals everything that the workspace has in the vault under its primary data key."""

    version: Version


FullPurpose = Annotated[
    str, Field(description="The service that the value belongs to, and its purpose.", examples=["auth/session"])
]
EventRecord = Annotated[
    str, Field(description="The id of the record that the value belongs to.", examples=[example_id("ses")])
]


class SealedData(Message):
    """Ciphertext for the asking service to store."""

    ciphertext: str = Field(description="Ciphertext in the vault's format, `clv1:…`.")


PURPOSES: tuple[Purpose, ...] = tuple(
    purpose for owner in (gateway, auth, tenancy, audit) for purpose in purposes(owner)
)
"""The purposes for which services have data sealed, each declared in the contract of its issuer."""

_SEALING = frozenset(purpose.issuer for purpose in PURPOSES)


class Seal(Command[SealedData], permission=Internal.SEAL, issuers=_SEALING, keyed=False):
    """Encrypt data under the tenant's key for an event of the asking service, which keeps the ciphertext.

    Everything else that a service has sealed is stored in the vault: `StoreSealedValue`.
    """

    purpose: PurposeName
    record: Record
    plaintext: Sealed = Field(description="The data.")


class StoreSealedValue(Command[Nothing], permission=Internal.STORE_SEALED_VALUE, issuers=_SEALING, keyed=False):
    """Store a value of the asking service in the vault, sealed, instead of the one that the record had.

    The service keeps purpose and record. A retry stores the same once more.
    """

    purpose: PurposeName
    record: Record
    plaintext: Sealed = Field(description="The value.")


class OpenedValue(Message):
    """A value that was stored sealed."""

    plaintext: Sealed = Field(description="The value.")


class OpenSealedValue(Command[OpenedValue], permission=Internal.OPEN_SEALED_VALUE, issuers=_SEALING, keyed=False):
    """Open a value that the asking service stored. The audit log records it before the answer leaves."""

    purpose: PurposeName
    record: Record


class DeleteSealedValue(Command[Nothing], permission=Internal.DELETE_SEALED_VALUE, issuers=_SEALING, keyed=False):
    """Delete a value that the asking service stored, if it is there."""

    purpose: PurposeName
    record: Record


class SignedCheckpoint(Message):
    """A checkpoint of the tenant's log."""

    checkpoint: str = Field(description="The signed note (C2SP tlog-checkpoint).")


class SignCheckpoint(
    Command[SignedCheckpoint], permission=Internal.SIGN_CHECKPOINT, issuers=frozenset({"audit"}), keyed=False
):
    """Sign the head of the tenant's log, if the log only grew since the last one that was signed.

    Where `old_size` is not the size last signed, the refusal is `conflict` and its field `old_size` has the right one,
    as with a C2SP tlog-witness.
    """

    old_size: int = Field(ge=0, le=LARGEST_SIZE, description="The size of the head that was signed last.")
    size: int = Field(ge=0, le=LARGEST_SIZE, description="The size of the head to sign.")
    root: Hash = Field(description="The root of the head to sign.")
    proof: list[Hash] = Field(
        max_length=LONGEST_PROOF, description="The consistency proof from `old_size` to `size` (RFC 9162 2.1.4)."
    )


class AuditKey(Message):
    """The public key that verifies the checkpoints of a tenant's log."""

    origin: str = Field(
        description="The log's name, the first line of its checkpoints.",
        examples=[f"causeloop.localhost/{example_id('ws')}"],
    )
    key: str = Field(
        description="The verifier key, `name+id+base64`, as tools for signed notes read it.",
        examples=[f"causeloop.localhost/{example_id('ws')}+3f2a9c1b+AS4G…"],
    )
    algorithm: Literal["ed25519"] = Field(default="ed25519", description="The signature's algorithm.")
    created_at: Timestamp = Field(description="The time of the key's creation.")


class GetAuditKey(Command[AuditKey], permission=Permission.AUDIT_READ, keyed=False):
    """Show the key that verifies the log.

    It verifies the checkpoints of the workspace's log. Keep it: with it nobody can show you another log. Ask for
    `text/plain` to get the verifier key alone.
    """


class SigningKeyCreated(Event, target="public_key"):
    """The installation's signing key for checkpoints was made."""

    public_key: Hash = Field(description="The Ed25519 public key, 32 bytes in hex.")
    origin: str = Field(description="The first part of the logs' names.")


class KeyringCreated(Event, target="keyring"):
    """The tenant's first data key was made and wrapped."""

    keyring: str = Field(description="The tenant, whose keyring it is.")
    version: Version


class KeyringRotated(Event, target="keyring", forgets="tenant"):
    """A new data key was made for the tenant, and seals from then on."""

    keyring: str = Field(description="The tenant, whose keyring it is.")
    version: Version


class KeyringReencrypted(Event, target="keyring"):
    """A part of what the tenant has in the vault was sealed anew under its primary data key."""

    keyring: str = Field(description="The tenant, whose keyring it is.")
    version: Version
    count: int = Field(description="How many values and keys were sealed anew.")


class SecretWritten(Event, target="secret_id"):
    """A version of a secret was written."""

    secret_id: SecretId
    version: Version


class SecretRevealed(Event, target="secret_id"):
    """A secret's value was shown."""

    secret_id: SecretId
    version: Version


class SealedValueStored(Event, target="record"):
    """A value of another service was sealed and stored."""

    purpose: FullPurpose
    record: EventRecord


class SealedValueOpened(Event, target="record"):
    """A stored value was opened for the service that it belongs to."""

    purpose: FullPurpose
    record: EventRecord


class SealedValueDeleted(Event, target="record"):
    """A stored value was deleted."""

    purpose: FullPurpose
    record: EventRecord


class KeyCreated(Event, target="key_id"):
    """A named key was made."""

    key_id: KeyId
    version: Version


class DataDecrypted(Event, target="key_id"):
    """Ciphertexts of a named key were decrypted by one request."""

    key_id: KeyId
    count: int = Field(description="How many ciphertexts were decrypted.")


ListJobs, GetJob, CancelJob = jobs.commands(__name__)
JobCancelled, JobEnded = jobs.events(__name__)
