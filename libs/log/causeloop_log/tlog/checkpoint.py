"""Checkpoints: the size and root that a log had when it was signed (C2SP tlog-checkpoint).

    <origin>              the log: `<installation>/log/<tenant>`, also the name of the key that signs
    <size>                the number of its entries, in decimal
    <root>                the tree's hash, in base64

A genuine checkpoint of another tenant has another origin, so it is refused as a checkpoint of this one.
"""

import base64
import re
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_log.tlog import NotVerified, note
from causeloop_log.tlog.merkle import HASH_BYTES
from causeloop_log.tlog.note import VerifierKey

LARGEST_SIZE = 2**63 - 1

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: `size` entries of the log `origin` have this root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def sign(self, private: Ed25519PrivateKey) -> str:
        """The signed note, under a key named like the log."""
        text = f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"
        return note.sign(text, self.origin, private)

    @classmethod
    def verified(cls, signed: str, key: VerifierKey) -> Self:
        """The checkpoint in a note that the log's key signed; NotVerified when it is not, or is no checkpoint of it."""
        checkpoint = cls._parse(note.verified(signed, key))
        if checkpoint.origin != key.name:
            raise NotVerified(f"the checkpoint is of the log {checkpoint.origin}, not of {key.name}")
        return checkpoint

    @classmethod
    def _parse(cls, text: str) -> Self:
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3 or not all(lines) or _SIZE.fullmatch(lines[1]) is None:
            raise NotVerified("the signed text is not a checkpoint: origin, size, root")
        origin, size, root = lines[0], int(lines[1]), note.decoded(lines[2])
        if size > LARGEST_SIZE or len(root) != HASH_BYTES:
            raise NotVerified("the checkpoint's size or root is out of bounds")
        return cls(origin, size, root)


def origin_of(installation: str, tenant: str) -> str:
    """The origin of a tenant's log, which is its key's name too."""
    return f"{installation}/log/{tenant}"
