"""Signed notes: text with Ed25519 signatures, and the keys that verify them (C2SP signed-note, RFC 8032).

    <text, ends with a newline>
                                                        an empty line
    — <key name> base64(key id 4 ‖ signature 64)        one line per signature

A key's id is the start of SHA-256(name ‖ newline ‖ 0x01 ‖ public key). A verifier key is written
`<name>+<id in hex>+base64(0x01 ‖ public key)`, as other people's tools read it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from causeloop_log.tlog import NotVerified

LARGEST = 256 * 1024
"""Bytes of a note: far more than a checkpoint with sixteen witnesses needs, each with a post-quantum signature."""

_ED25519 = b"\x01"
_KEY_ID = 4
_NAME = re.compile(r"[^\s+]+")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_DASH = "— "
_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset(
    (
        0,
        1,
        _PRIME - 1,
        _ORDER_8,
        _PRIME - _ORDER_8,
    )
)
"""The y of the eight points of edwards25519 whose order divides 8: a signature under one holds for any text."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named public key (32 bytes)."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature names its key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_KEY_ID]

    def __post_init__(self) -> None:
        if _is_weak(self.public):
            raise NotVerified("the key is one under which signatures of anybody hold")
        if _NAME.fullmatch(self.name) is None or not self.name.isprintable():
            raise NotVerified("a key's name has a space, a plus or a character that cannot be printed")

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key in its written form; NotVerified when it is not one, or its id is not its own."""
        name, _, rest = text.strip().partition("+")
        key_id, _, body = rest.partition("+")
        raw = decoded(body)
        if len(raw) != 33 or raw[:1] != _ED25519:
            raise NotVerified("the key is not of the form name+id+base64, for Ed25519")
        key = cls(name, raw[1:])
        if key.id.hex() != key_id:
            raise NotVerified("the key's id does not belong to its name and public key")
        return key


def _is_weak(public: bytes) -> bool:
    """Whether a public key is a point of small order, or is written otherwise than in its one form (RFC 8032 5.1.3)."""
    y = int.from_bytes(public, "little") & ~(1 << 255)
    return y >= _PRIME or y in _SMALL_ORDER


def sign(text: str, name: str, private: Ed25519PrivateKey) -> str:
    """The note of a text under a key of this name."""
    if not text.endswith("\n"):
        raise ValueError("A note's text ends with a newline.")
    key = VerifierKey(name, private.public_key().public_bytes_raw())
    signature = base64.b64encode(key.id + private.sign(text.encode())).decode()
    return f"{text}\n{_DASH}{name} {signature}\n"


def verified(note: str, key: VerifierKey) -> str:
    """The text of a note that this key signed; NotVerified for any other note. Signatures of other keys are ignored."""
    text, lines = _parts(note)
    mine = [raw for name, raw in map(_signature, lines) if name == key.name and raw[:_KEY_ID] == key.id]
    if not mine:
        raise NotVerified(f"the note is not signed by the key {key.name} ({key.id.hex()})")
    for raw in mine:
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(raw[_KEY_ID:], text.encode())
        except (InvalidSignature, ValueError) as error:
            raise NotVerified("the note's signature does not fit its text and key") from error
    return text


def _parts(note: str) -> tuple[str, list[str]]:
    """The text with its last newline, and the lines of signatures."""
    try:
        size = len(note.encode())
    except UnicodeEncodeError as error:
        raise NotVerified("the note is not UTF-8 text") from error
    if size > LARGEST:
        raise NotVerified(f"the note is larger than {LARGEST} bytes")
    if _CONTROL.search(note) is not None:
        raise NotVerified("the note contains control characters")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        hint = ": it is JSON, and `Accept: text/plain` gets the text" if note.startswith("{") else ""
        raise NotVerified(f"the note has no signatures after an empty line{hint}")
    return f"{text}\n", signatures.removesuffix("\n").split("\n")


def _signature(line: str) -> tuple[str, bytes]:
    name, _, body = line.removeprefix(_DASH).partition(" ")
    raw = decoded(body)
    if not line.startswith(_DASH) or _NAME.fullmatch(name) is None or len(raw) <= _KEY_ID:
        raise NotVerified("the note has a line after its text that is no signature")
    return name, raw


def decoded(text: str) -> bytes:
    """The bytes of base64 in its one spelling; NotVerified for any other text."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one, and so is a letter that is not ASCII
        raise NotVerified("there is text where base64 belongs") from error
    if base64.b64encode(raw).decode() != text:  # the last letter may have bits that no byte uses
        raise NotVerified("there is base64 in another than its one spelling")
    return raw
