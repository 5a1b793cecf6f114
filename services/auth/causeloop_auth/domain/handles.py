"""Secret handles: `clp_<type>_<tenant>_<secret>_<checksum>`.

The tenant stands in clear, so that even a look-up by hash runs under row security. So does the owner of a personal
access token, ahead of its id, so that their permissions can be asked for while auth looks it up
(`contracts/bearer.py`). The secret is 256 random bits, of which only the SHA-256 is stored: a slow hash is for
passwords, which people choose. By the checksum (CRC-32) anybody, a secret scanner included, can distinguish a handle
from a look-alike without asking us.
"""

import base64
import hashlib
import hmac
import re
import zlib
from typing import NamedTuple

from causeloop_common import ids

SECRET_BYTES = 32
NONCE_BYTES = 16

_HANDLE = re.compile(
    rf"clp_(?P<kind>pat|rt)_(?P<tenant>(?:ws|usr)_{ids.SUFFIX})_"
    rf"(?:{ids.SUFFIX})?(?P<id>{ids.SUFFIX})(?P<secret>[a-z2-7]{{52}})_(?P<check>[0-9a-f]{{8}})"
)


class Handle(NamedTuple):
    """A readable handle. `suffix` is the id's text without its prefix."""

    kind: str
    tenant: str
    suffix: str
    secret: bytes
    digest: bytes


def make(kind: str, tenant: str, entity: str, secret: bytes, *, owner: str = "") -> str:
    """The handle of a kind for a thing of a tenant, and of its owner; `secret` is 32 fresh random bytes."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"A handle needs {SECRET_BYTES} random bytes.")
    suffix = owner.rpartition("_")[2] + entity.rpartition("_")[2]
    body = f"clp_{kind}_{tenant}_{suffix}{base64.b32encode(secret).decode().rstrip('=').lower()}"
    return f"{body}_{_checksum(body)}"


def parse(text: str, kind: str) -> Handle | None:
    """The parts of a handle, or None when the text is not one of the kind."""
    found = _HANDLE.fullmatch(text)
    if found is None or found["kind"] != kind or _checksum(text.rpartition("_")[0]) != found["check"]:
        return None
    try:
        ids.tenant_uuid(found["tenant"])
    except ValueError:
        return None
    secret = base64.b32decode(found["secret"].upper() + "====")
    return Handle(found["kind"], found["tenant"], found["id"], secret, digest(text))


def issued_secret(key: bytes, tenant: str, entity: str, nonce: bytes) -> bytes:
    """A secret that shows, to the holder of `key`, that it was issued: 16 random bytes and their HMAC for this thing.

    So a secret that was issued once and is no longer good differs from one that never was.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"An issued secret needs {NONCE_BYTES} random bytes.")
    suffix = entity.rpartition("_")[2]
    return nonce + hmac.digest(key, f"{tenant}\n{suffix}\n".encode() + nonce, "sha256")[:NONCE_BYTES]


def was_issued(key: bytes, handle: Handle) -> bool:
    """Whether the handle's secret is one that `issued_secret` made for it."""
    expected = issued_secret(key, handle.tenant, handle.suffix, handle.secret[:NONCE_BYTES])
    return hmac.compare_digest(expected, handle.secret)


def digest(text: str) -> bytes:
    """The digest that is stored in place of a handle."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
