"""Named keys: the place of their ciphertexts, and the form of their plaintext.

A ciphertext of a named key is a `clv1` envelope at the place (tenant, `key/<key id>`, context, key version). The
context becomes one text, the same for the same names and values in any order: sorted compact JSON, which on ASCII
names and text values is RFC 8785. No context is `{}`.
"""

import binascii
from collections.abc import Mapping

import orjson

MATERIAL_BYTES = 32


def purpose(key_id: str) -> str:
    """The purpose of a key's ciphertexts: no other key's."""
    return f"key/{key_id}"


def record(context: Mapping[str, str] | None) -> str:
    """The record of a context: injective."""
    return orjson.dumps(context, option=orjson.OPT_SORT_KEYS).decode() if context else "{}"


def read_plaintext(text: str) -> bytes:
    """The bytes of a plaintext in base64 (RFC 4648 4, padded); ValueError when it is none."""
    if len(text) % 4:  # which the strict mode lets pass in places
        raise ValueError("The text is not padded.")
    return binascii.a2b_base64(text, strict_mode=True)


def write_plaintext(plaintext: bytes) -> str:
    """The text that `read_plaintext` reads."""
    return binascii.b2a_base64(plaintext, newline=False).decode()
