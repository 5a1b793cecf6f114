"""Keys that services hold against each other: derivation, and sealing on the bus.

One secret of the installation (`JWT_SECRET`) is the root; every key is HKDF-SHA-256 (RFC 5869) of it under a name
of its own. A process can be given only the keys it needs (`KeyRing.dump`), so that the audit service cannot make
a token of auth. Sealing is AES-256-GCM under a key derived from the pair's key and a random salt per process
start, which keeps random nonces far below 2^32 messages per key (NIST SP 800-38D).

    service token, and sealing      svc/v1/<issuer>/<audience>     held by both of the pair
    anything one service keeps      own/v1/<service>/<purpose>     held by that service
"""

import base64
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Self

import nkeys
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_KEY, _SALT, _NONCE = 32, 16, 12
_FEWEST = 8
"""Different bytes that a random key of 32, or a secret in hexadecimal, certainly has."""


def derive(secret: bytes, info: str, *, salt: bytes | None = None, length: int = 32) -> bytes:
    """HKDF-SHA-256 of `secret` under the name `info`."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info.encode()).derive(secret)


def repeats(key: bytes) -> bool:
    """Whether a key or secret is something short again and again, or counts up or down: nobody made it at random."""
    steps = {(after - before) % 256 for before, after in pairwise(key)}
    is_periodic = any(key[period:] == key[:-period] for period in range(1, len(key) // 2 + 1))
    return len(set(key)) < _FEWEST or len(steps) == 1 or is_periodic


def reader_seed(seed: str) -> str:
    """The seed of the nkey with which a service reads its consumers, from the seed of its own nkey."""
    return str(nkeys.encode_seed(derive(seed.encode(), "bus-reader/v1"), nkeys.PREFIX_BYTE_USER).decode())


class Sealer:
    """Seals for one receiver and opens what it sent, under one pair's key.

    Format: salt 16 ‖ nonce 12 ‖ AES-256-GCM ciphertext and tag. `label` is bound as additional data; a body sealed for
    one subject and tenant opens for no other.
    """

    def __init__(self, pair_key: bytes) -> None:
        self._pair_key = pair_key
        self._salt = os.urandom(_SALT)
        self._own = AESGCM(derive(pair_key, "sealed/v1", salt=self._salt))
        # Bounded: a peer restarts seldom, and an unknown salt costs one derivation.
        self._theirs = lru_cache(maxsize=64)(self._key_for)

    def _key_for(self, salt: bytes) -> AESGCM:
        return AESGCM(derive(self._pair_key, "sealed/v1", salt=salt))

    def seal(self, plaintext: bytes, label: str) -> bytes:
        """The sealed form of `plaintext`."""
        nonce = os.urandom(_NONCE)
        return self._salt + nonce + self._own.encrypt(nonce, plaintext, label.encode())

    def open(self, sealed: bytes, label: str) -> bytes:
        """The plaintext; ValueError when it was not sealed under this pair's key for this label."""
        try:
            key = self._theirs(sealed[:_SALT])
            return key.decrypt(sealed[_SALT : _SALT + _NONCE], sealed[_SALT + _NONCE :], label.encode())
        except (InvalidTag, ValueError) as error:
            raise ValueError("is not sealed for this receiver and message") from error


class KeyRing:
    """The keys one service holds: those of the pairs it belongs to, and its own."""

    def __init__(self, service: str, pairs: dict[str, bytes], own: bytes) -> None:
        self.service = service
        self._pairs = pairs
        self._own = own

    @classmethod
    def derive(cls, secret: bytes, service: str, pairs: Iterable[tuple[str, str]]) -> Self:
        """All keys of `service` from the installation's secret; `pairs` are (issuer, audience)."""
        mine = {f"{i}>{a}": derive(secret, f"svc/v1/{i}/{a}") for i, a in pairs if service in (i, a)}
        return cls(service, mine, derive(secret, f"own/v1/{service}"))

    @classmethod
    def load(cls, service: str, text: str) -> Self:
        """The keys that `dump` wrote; ValueError when the text is not such a dump or another service's."""
        try:
            data = json.loads(base64.urlsafe_b64decode(text))
            pairs = {name: base64.b64decode(key, validate=True) for name, key in data["pairs"].items()}
            own = base64.b64decode(data["own"], validate=True)
            holder = data["service"]
            if any(len(key) != _KEY for key in (own, *pairs.values())):
                raise ValueError("a key is too short or too long")
            if any(map(repeats, (own, *pairs.values()))):
                raise ValueError("a key can be guessed")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("is not the output of `causeloop keys`") from error
        if holder != service:
            raise ValueError(f"holds the keys of '{holder}', not of '{service}'")
        return cls(service, pairs, own)

    def dump(self) -> str:
        """One line that holds exactly these keys, for the environment of that service alone."""
        pairs = {name: base64.b64encode(key).decode() for name, key in self._pairs.items()}
        data = {"service": self.service, "pairs": pairs, "own": base64.b64encode(self._own).decode()}
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode()

    def pair(self, issuer: str, audience: str) -> bytes:
        """The key of a pair this service belongs to; KeyError for any other."""
        return self._pairs[f"{issuer}>{audience}"]

    def holds(self, issuer: str, audience: str) -> bool:
        """Whether the pair's key is here."""
        return f"{issuer}>{audience}" in self._pairs

    def own(self, purpose: str) -> bytes:
        """A key that no other service has."""
        return derive(self._own, purpose)
