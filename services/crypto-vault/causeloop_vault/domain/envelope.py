"""The vault's ciphertext: AES-256-GCM under a message key, committing, bound to its place.

    clv1:<key version>:base64(salt 16 ‖ commitment 32 ‖ nonce 12 ‖ ciphertext and tag)

HKDF-SHA-256 (RFC 5869) of the data key under the random salt gives 64 bytes: the message key and the commitment.
A message key seals one message, so that no key comes near GCM's bound of 2^32 random nonces (NIST SP 800-38D); the
commitment ties the ciphertext to one key, which GCM alone does not. Tenant, purpose, record and key version are
additional data, encoded by the reader from where it read: a ciphertext moved elsewhere does not open.
"""

import base64
import hmac
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FORMAT = "clv1"
ENTROPY_BYTES = 28
"""Fresh random bytes that `seal` needs for every message: salt and nonce."""

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_SALT, _COMMITMENT, _NONCE = 16, 32, 12
_SMALLEST = _SALT + _COMMITMENT + _NONCE + 16


class NotOpened(Exception):
    """The ciphertext is damaged, under another key, or belongs to another place; which, it does not tell."""


def place(tenant: str, purpose: str, record: str, version: int) -> bytes:
    """The additional data of a place: injective, each part with its length before it."""
    parts = (FORMAT, tenant, purpose, record, str(version))
    return b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in parts))


def seal(key: bytes, version: int, plaintext: bytes, at: bytes, entropy: bytes) -> str:
    """The ciphertext of `plaintext` at a place, under version `version` of the key (32 bytes)."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"seal needs {ENTROPY_BYTES} random bytes.")
    salt, nonce = entropy[:_SALT], entropy[_SALT:]
    message_key, commitment = _derive(key, salt)
    sealed = AESGCM(message_key).encrypt(nonce, plaintext, at)
    return f"{FORMAT}:{version}:{base64.b64encode(salt + commitment + nonce + sealed).decode()}"


def version_of(text: str) -> int:
    """Which version of the key to open with: a hint; `open_` proves it."""
    return _parts(text)[0]


def open_(key: bytes, text: str, at: bytes) -> bytes:
    """The plaintext of a ciphertext found at a place; NotOpened if it was not sealed there under this key.

    A ciphertext has one spelling: no other text opens to the same.
    """
    _, body = _parts(text)
    try:
        raw = base64.b64decode(body, validate=True)
    except ValueError as error:  # binascii.Error is one, and so is a letter that is not ASCII
        raise NotOpened("This is not a ciphertext of the vault.") from error
    if base64.b64encode(raw).decode() != body:  # the last letter may have bits that count for nothing
        raise NotOpened("This is not a ciphertext of the vault.")
    if len(raw) < _SMALLEST:
        raise NotOpened("This is not a ciphertext of the vault.")
    salt, rest = raw[:_SALT], raw[_SALT:]
    committed, nonce, sealed = (
        rest[:_COMMITMENT],
        rest[_COMMITMENT : _COMMITMENT + _NONCE],
        rest[_COMMITMENT + _NONCE :],
    )
    message_key, commitment = _derive(key, salt)
    if not hmac.compare_digest(commitment, committed):
        raise NotOpened("The ciphertext does not open.")
    try:
        return AESGCM(message_key).decrypt(nonce, sealed, at)
    except InvalidTag as error:
        raise NotOpened("The ciphertext does not open.") from error


def _parts(text: str) -> tuple[int, str]:
    """Key version and body; NotOpened when the text does not have the form."""
    kind, _, rest = text.partition(":")
    version, _, body = rest.partition(":")
    if kind != FORMAT or _VERSION.fullmatch(version) is None:
        raise NotOpened("This is not a ciphertext of the vault.")
    return int(version), body


def _derive(key: bytes, salt: bytes) -> tuple[bytes, bytes]:
    material = HKDF(algorithm=SHA256(), length=64, salt=salt, info=b"clv1/message").derive(key)
    return material[:32], material[32:]
