"""Named keys: the place of their ciphertexts, and the form of their plaintext.

A ciphertext of a named key is a `clv1` envelope at the place (tenant, `key/<key id>`, context, key version). The
context becomes one text, the same for the same names and values in any order: sorted compact JSON, which on ASCII
names and text values is RFC 8785. No context is `{}`.
"""

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

MATERIAL_BYTES = 32


@dataclass(frozen=True, slots=True)
class Items:
    """Plaintexts in base64, or ciphertexts, and the context of each: what one request encrypts or decrypts."""

    texts: Sequence[str] = field(repr=False)
    contexts: Sequence[Mapping[str, str] | None]


def purpose(key_id: str) -> str:
    """The purpose of a key's ciphertexts: no other key's."""
    return f"key/{key_id}"


def record(context: Mapping[str, str] | None) -> str:
    """The record of a context: injective."""
    return orjson.dumps(context, option=orjson.OPT_SORT_KEYS).decode() if context else "{}"


def read_plaintexts(texts: Sequence[str]) -> list[bytes | None]:
    """The bytes of plaintexts in base64 (RFC 4648 4, padded); None for a text that is none."""
    try:
        if not any(size % 4 for size in {*map(len, texts)}):
            return [binascii.a2b_base64(text, strict_mode=True) for text in texts]
    except ValueError:  # binascii.Error is one, and so is a letter that is not ASCII
        pass
    return [_read_plaintext(text) for text in texts]


def _read_plaintext(text: str) -> bytes | None:
    if len(text) % 4:  # which the strict mode lets pass in places
        return None
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None


def write_plaintext(plaintext: bytes) -> str:
    """The text that `read_plaintexts` reads."""
    return binascii.b2a_base64(plaintext, newline=False).decode()
