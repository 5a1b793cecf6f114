"""The vault's ciphertext: AES-256-GCM under a message key, committing, bound to its place.

    clv1:<key version>:base64(salt 16 ‖ commitment 32 ‖ nonce 12 ‖ ciphertext and tag)

HKDF-SHA-256 (RFC 5869) of the data key under the random salt gives 64 bytes: the message key and the commitment.
A message key seals the messages of one request, at most 1000, each under a random nonce of its own. Two nonces of a
request are alike with probability 2^-77 and two salts hardly ever, so a key may serve 2^44 such requests before nonces
of equal message keys collide with the probability of 2^-32 that NIST SP 800-38D allows: no key comes near its bound,
and nothing has to be counted. A common salt does reveal that messages were sealed together. The commitment
ties the ciphertext to one key, which GCM alone does not. Tenant, purpose, record and key version are additional data,
encoded by the reader from where it read: a ciphertext moved elsewhere does not open.
"""

import binascii
import hmac
import re
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FORMAT = "clv1"
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_SALT, _COMMITMENT, _NONCE = 16, 32, 12

ENTROPY_BYTES = _SALT + _NONCE
"""Fresh random bytes that `seal` needs for a message: salt and nonce."""
MOST_MESSAGES = 1000
"""How many `seal_all` seals under one message key."""
_TAG = 16
_COMMON_CHARS = (_SALT + _COMMITMENT) * 4 // 3
"""Of a ciphertext's base64, which the messages of one request have in common."""


class NotOpened(Exception):
    """The ciphertext is damaged, under another key, or belongs to another place: the error hides which."""


def place(tenant: str, purpose: str, record: str, version: int) -> bytes:
    """The additional data of a place: injective, each part with its length before it."""
    return Places(tenant, purpose, version).of(record)


class Places:
    """The places of one purpose and key version; their common parts are encoded once."""

    __slots__ = ("_before", "_behind")

    def __init__(self, tenant: str, purpose: str, version: int) -> None:
        self._before = _part(FORMAT) + _part(tenant) + _part(purpose)
        self._behind = _part(str(version))

    def of(self, record: str) -> bytes:
        """The place of a record."""
        return self._before + _part(record) + self._behind


def _part(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, "big") + raw


def seal(key: bytes, version: int, plaintext: bytes, at: bytes, entropy: bytes) -> str:
    """The ciphertext of `plaintext` at a place, under version `version` of the key (32 bytes)."""
    return seal_all(key, version, [(plaintext, at)], entropy)[0]


def entropy_bytes(messages: int) -> int:
    """How many fresh random bytes `seal_all` needs for so many messages: one salt, and a nonce each."""
    return _SALT + messages * _NONCE


def seal_all(key: bytes, version: int, messages: Sequence[tuple[bytes, bytes]], entropy: bytes) -> list[str]:
    """The ciphertexts of the messages of one request, each a plaintext and its place, in order."""
    if len(messages) > MOST_MESSAGES:
        raise ValueError(f"At most {MOST_MESSAGES} messages are sealed at once.")
    if len(entropy) != entropy_bytes(len(messages)):
        raise ValueError(f"Sealing {len(messages)} messages needs {entropy_bytes(len(messages))} random bytes.")
    salt = entropy[:_SALT]
    nonces = [entropy[start : start + _NONCE] for start in range(_SALT, len(entropy), _NONCE)]
    message_key, commitment = _derive(key, salt)
    encrypt, base64 = AESGCM(message_key).encrypt, binascii.b2a_base64
    head = f"{FORMAT}:{version}:{_base64(salt + commitment)}"  # 48 bytes: their base64 goes on with that of the rest
    return [
        head + base64(nonce + encrypt(nonce, plaintext, at), newline=False).decode()
        for nonce, (plaintext, at) in zip(nonces, messages, strict=True)
    ]


def version_of(text: str) -> int:
    """Which version of the key to open with: a hint; `open_` proves it."""
    return parts(text)[0]


def open_(key: bytes, text: str, at: bytes) -> bytes:
    """The plaintext of a ciphertext found at a place; NotOpened if it was not sealed there under this key.

    A ciphertext has one spelling: no other text opens to the same.
    """
    return Opener(key).open(parts(text)[1], at)


class Opener:
    """Opens the ciphertexts of one request, under one key: derives once for those that have a salt in common."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._ciphers: dict[str, AESGCM | None] = {}

    def open(self, body: str, at: bytes) -> bytes:
        """As `open_` does; `body` is the second of a ciphertext's `parts`."""
        sealed = _bytes(body[_COMMON_CHARS:])
        if len(sealed) < _NONCE + _TAG:
            raise NotOpened("This is not a ciphertext of the vault.")
        common = body[:_COMMON_CHARS]
        if common not in self._ciphers:
            self._ciphers[common] = self._cipher(_bytes(common))
        cipher = self._ciphers[common]
        if cipher is None:
            raise NotOpened("The ciphertext does not open.")
        try:
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], at)
        except InvalidTag as error:
            raise NotOpened("The ciphertext does not open.") from error

    def _cipher(self, common: bytes) -> AESGCM | None:
        """The cipher of the messages with this salt and commitment; None when they are not this key's."""
        salt, committed = common[:_SALT], common[_SALT:]
        message_key, commitment = _derive(self._key, salt)
        return AESGCM(message_key) if hmac.compare_digest(commitment, committed) else None


def _bytes(text: str) -> bytes:
    """The bytes of a text in base64; NotOpened unless it is the one spelling of them."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one, and so is a letter that is not ASCII
        raise NotOpened("This is not a ciphertext of the vault.") from error
    if _base64(raw) != text:  # the last letter may have bits that count for nothing
        raise NotOpened("This is not a ciphertext of the vault.")
    return raw


def _base64(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()


def parts(text: str) -> tuple[int, str]:
    """Key version and body; NotOpened when the text does not have the form."""
    kind, _, rest = text.partition(":")
    version, _, body = rest.partition(":")
    if kind != FORMAT or _VERSION.fullmatch(version) is None:
        raise NotOpened("This is not a ciphertext of the vault.")
    return int(version), body


def _derive(key: bytes, salt: bytes) -> tuple[bytes, bytes]:
    material = HKDF(algorithm=SHA256(), length=64, salt=salt, info=b"clv1/message").derive(key)
    return material[:32], material[32:]
