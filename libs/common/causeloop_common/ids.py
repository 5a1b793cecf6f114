"""Identifiers: TypeIDs, a prefix and a UUID in Crockford base32 (`ws_01h455vb4pex5vsknk084sn02q`).

In Python, in messages and in URLs an id is its text; in PostgreSQL it is the bare `uuid`. UUIDv7 orders by
time; UUIDv8 is derived, so that the same input always finds the same thing.

Source: https://github.com/jetify-com/typeid (spec 0.3), RFC 9562.
"""

import hashlib
import os
import re
import time
from functools import lru_cache
from typing import Literal
from uuid import UUID

# Every request and every event gets an id and has some read, and Python's base64 takes several times as long.
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_DIGITS = bytes.maketrans(_CROCKFORD.encode(), b"0123456789abcdefghijklmnopqrstuv")  # those that `int` knows in base 32
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]
_SHIFTS = range(120, -1, -10)
_V7_MASK = ~(0xF << 76 | 0x3 << 62)
_V7_BITS = 7 << 76 | 2 << 62
_REALM_BIT = 1 << 61

NIL, MAX = UUID(int=0), UUID(int=2**128 - 1)
_REMEMBERED = 4096
"""Ids that are read without work, of each kind of reading. One costs about 300 bytes, and reading it anew two
microseconds: of many tenants' ids only the busy ones are worth it."""
SUFFIX = r"[0-7][0-9a-hjkmnp-tv-z]{25}"
_SUFFIX = re.compile(SUFFIX)
_SERVICE = re.compile(r"svc_[a-z]{2,32}")
TENANT = re.compile(rf"(?:ws|usr)_{SUFFIX}")


def uuid7() -> UUID:
    """A new UUIDv7: milliseconds since the epoch, then 74 random bits."""
    return UUID(int=_uuid7())


def _uuid7() -> int:
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return value & _V7_MASK | _V7_BITS


def uuid8(digest: bytes, *, realm: bool) -> UUID:
    """The UUIDv8 that carries the first bits of `digest` (at least 16 bytes).

    The bit after the variant distinguishes a realm from a workspace, so that one UUID can never be read as both.
    """
    value = int.from_bytes(digest[:16], "big")
    value = value & ~(0xF << 76) | (8 << 76)
    value = value & ~(0x7 << 61) | (2 << 62)
    return UUID(int=value | _REALM_BIT if realm else value)


def encode(prefix: str, value: UUID) -> str:
    """The TypeID text of a UUID (of Python's or asyncpg's class)."""
    return _encode(prefix, value.int)


def _encode(prefix: str, value: int) -> str:
    pairs = [_PAIRS[value >> shift & 1023] for shift in _SHIFTS]
    return f"{prefix}_{''.join(pairs)}"


@lru_cache(maxsize=_REMEMBERED)
def decode(text: str, *prefixes: str) -> UUID:
    """The UUID in a TypeID; ValueError when the text is not one of the given kinds."""
    return UUID(int=_decode(text, *prefixes))


def _decode(text: str, *prefixes: str) -> int:
    prefix, _, suffix = text.rpartition("_")
    if prefix not in prefixes or _SUFFIX.fullmatch(suffix) is None:
        raise ValueError(f"'{text[:64]}' is not an id of the form {' or '.join(p + '_…' for p in prefixes)}.")
    return int(suffix.encode().translate(_DIGITS), 32)


def new(prefix: str) -> str:
    """A new TypeID over a UUIDv7."""
    return _encode(prefix, _uuid7())


@lru_cache(maxsize=_REMEMBERED)
def tenant_uuid(tenant: str) -> UUID:
    """The value of `workspace_id` for a tenant: a workspace (`ws_…`) or a person's realm (`usr_…`)."""
    return UUID(int=_tenant(tenant))


def tenant_id(value: UUID) -> str:
    """The tenant behind a `workspace_id`."""
    return encode("usr" if _is_realm(value.int) else "ws", value)


def _tenant(tenant: str) -> int:
    value = _decode(tenant, "ws", "usr")
    if _is_realm(value) != tenant.startswith("usr_"):
        raise ValueError(f"'{tenant}' is not the id of a tenant.")
    return value


def _is_realm(value: int) -> bool:
    return value >> 76 & 0xF == 8 and bool(value & _REALM_BIT)


def realm(issuer: str, subject: str) -> str:
    """The person, and so their realm, behind a subject of an identity provider; the same for ever."""
    digest = hashlib.sha256(issuer.encode() + b"\0" + subject.encode()).digest()
    return encode("usr", uuid8(digest, realm=True))


def workspace(digest: bytes) -> str:
    """The workspace that a request with an Idempotency-Key makes; the same for every retry."""
    return encode("ws", uuid8(digest, realm=False))


PrincipalKind = Literal["person", "service_account", "service"]


@lru_cache(maxsize=_REMEMBERED)
def principal_kind(principal: str) -> PrincipalKind:
    """The kind of a principal: a person (`usr_…`), a service account (`sva_…`) or a service (`svc_` and its name).

    ValueError when the text is none of them.
    """
    if principal.startswith("svc_") and _SERVICE.fullmatch(principal):
        return "service"
    if principal.startswith("sva_"):
        _decode(principal, "sva")
        return "service_account"
    if not principal.startswith("usr_"):
        raise ValueError(f"'{principal[:64]}' is not the id of a principal.")
    _tenant(principal)
    return "person"


INSTALLATION = encode("usr", uuid8(hashlib.sha256(b"causeloop/installation/v1").digest(), realm=True))
"""The installation's own realm: operator acts, the master key's canary, failed sign-ins of unknown people."""


def derived(prefix: str, content: bytes) -> str:
    """An id that follows from content: the same content, the same id."""
    return encode(prefix, uuid8(hashlib.sha256(content).digest(), realm=False))
