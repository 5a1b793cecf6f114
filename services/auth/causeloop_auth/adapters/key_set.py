"""A published key set (JWKS, RFC 7517): the RSA keys in it that can verify, and the entries that cannot, with why.

Two different keys under one `kid` are both passed over: which of them is meant would be a matter of their order. So is
a key whose private half the set shows, under whatever `kid`.
"""

import base64
import binascii
from typing import Any, NamedTuple

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_SMALLEST_BITS = 2048  # RFC 7518, 3.3
_LONGEST_TEXT = 2048
"""Of a modulus in base64url: 12 288 bits. Larger ones are slow to verify with, and nobody's."""
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
"""The members of an RSA key of which one alone gives the private half away (RFC 7518 6.3.2)."""


class KeySet(NamedTuple):
    """The keys by `kid`, and why other entries are passed over, by `kid` or place."""

    keys: dict[str, RSAPublicKey]
    passed_over: dict[str, str]


def read(document: bytes) -> KeySet:
    """The keys of a document; one bad entry costs no other. ValueError when the document is no key set."""
    try:
        entries = orjson.loads(document)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError("is no JSON object with 'keys'") from error
    if not isinstance(entries, list):
        raise ValueError("has 'keys' that are no list")
    found = KeySet({}, {})
    ambiguous = set()
    shown = {_modulus(entry) for entry in entries if isinstance(entry, dict) and not _PRIVATE.isdisjoint(entry)}
    for place, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            found.passed_over[f"number {place}"] = "is no object"
            continue
        kid = entry.get("kid")
        if entry.get("kty") != "RSA" or kid is None:
            continue  # of another kind, or never named by a token: it concerns us as little as no entry
        if not isinstance(kid, str):
            found.passed_over[f"number {place}"] = "has a 'kid' that is no text"
            continue
        try:
            if not _PRIVATE.isdisjoint(entry):
                raise ValueError("shows its private half, so that every reader of the set can sign with it")
            if _modulus(entry) in shown:
                raise ValueError("has its private half in another entry, where every reader of the set finds it")
            key = _key(entry)
        except ValueError as error:
            found.passed_over[repr(kid[:64])] = str(error)
            continue
        if found.keys.setdefault(kid, key).public_numbers() != key.public_numbers():
            ambiguous.add(kid)
    for kid in ambiguous:
        del found.keys[kid]
        found.passed_over[repr(kid[:64])] = "is the 'kid' of another key, too"
    return found


def _key(entry: dict[str, Any]) -> RSAPublicKey:
    """The public key of an entry; ValueError with the reason when it cannot verify."""
    if entry.get("use", "sig") != "sig" or entry.get("alg", "RS256") != "RS256":
        raise ValueError("is not for signatures with RS256")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("is not for verifying")
    parts = {name: entry.get(name) for name in ("n", "e")}
    if not all(isinstance(part, str) and len(part) <= _LONGEST_TEXT for part in parts.values()):
        raise ValueError("has no 'n' or no 'e', or one that is too long")
    try:
        key = jwt.PyJWK({"kty": "RSA", **parts}, algorithm="RS256").key
    except (jwt.PyJWTError, ValueError) as error:
        raise ValueError("is no RSA key") from error
    if not isinstance(key, RSAPublicKey) or key.key_size < _SMALLEST_BITS:
        raise ValueError(f"has fewer than {_SMALLEST_BITS} bits")
    if key.public_numbers().n % 2 == 0:
        raise ValueError("is no RSA key")
    return key


def _modulus(entry: dict[str, Any]) -> int | None:
    """The modulus of an entry, however it is written; None where there is none."""
    text = entry.get("n")
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        return None
    try:
        return int.from_bytes(base64.urlsafe_b64decode(f"{text}===")) or None
    except (binascii.Error, ValueError):
        return None
