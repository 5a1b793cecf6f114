"""Named keys, and what they encrypt."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from causeloop_common.contracts.base import (
    SEALED_CHARS,
    Command,
    Event,
    KeyId,
    Message,
    Sealed,
    Timestamp,
    Version,
)
from causeloop_common.contracts.lists import List, Page
from causeloop_common.permissions import Permission

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of a key's name, and of a name in a context."""
KEY_NAME_CHARS = 128

KeyName = Annotated[
    str,
    StringConstraints(max_length=KEY_NAME_CHARS, pattern=NAME_PATTERN),
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

PLAINTEXT_CHARS = SEALED_CHARS
CIPHERTEXT_CHARS = 65_655
"""The length of a ciphertext of the longest plaintext, 65 536 characters of base64."""
CONTEXT_NAMES = 16
CONTEXT_NAME_CHARS = 64
CONTEXT_VALUE_CHARS = 256

_CONTEXT = {"table": "orders", "row": "17"}

Context = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=CONTEXT_NAME_CHARS, pattern=NAME_PATTERN)],
        Annotated[str, Field(max_length=CONTEXT_VALUE_CHARS)],
    ],
    Field(
        max_length=CONTEXT_NAMES,
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
        default=None,
        fail_fast=True,
        min_length=1,
        max_length=ITEMS,
        description="Plaintexts with their contexts, instead of one.",
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
        default=None,
        fail_fast=True,
        min_length=1,
        max_length=ITEMS,
        description="Ciphertexts with their contexts, instead of one.",
    )


class KeyCreated(Event, target="key_id"):
    """A named key was made."""

    key_id: KeyId
    version: Version


class DataDecrypted(Event, target="key_id"):
    """Ciphertexts of a named key were decrypted by one request."""

    key_id: KeyId
    count: int = Field(description="How many ciphertexts were decrypted.")
