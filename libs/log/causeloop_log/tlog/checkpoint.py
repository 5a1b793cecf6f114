"""Checkpoints: the size and root that a log had when it was signed (C2SP tlog-checkpoint).

    <origin>              the log: `<installation>/log/<tenant>`, also the name of the key that signs; of a later epoch
                          than the first `<installation>/log/<tenant>/<epoch>`
    <size>                the number of its entries, in decimal
    <root>                the tree's hash, in base64

A genuine checkpoint of another tenant has another origin, so it is refused as a checkpoint of this one. So is one of
another epoch: a log that cannot continue what was signed of it begins a new one, which nobody can take for the old one.
"""

import base64
import re
from dataclasses import dataclass
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_log.tlog import NotVerified, note
from causeloop_log.tlog.merkle import HASH_BYTES
from causeloop_log.tlog.note import VerifierKey

LARGEST_SIZE = 2**63 - 1

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_ORIGIN = re.compile(r"(?:(?P<installation>.*)/)?(?P<tenant>[^/]*[^/0-9][^/]*)(?:/(?P<epoch>[1-9][0-9]{0,8}))?")


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


class Origin(NamedTuple):
    """The parts of an origin: the installation with `/log`, the tenant, and the epoch, 1 where it names none."""

    installation: str
    tenant: str
    epoch: int


def origin_of(installation: str, tenant: str, epoch: int = 1) -> str:
    """The origin of a tenant's log in an epoch, which is its key's name too."""
    return f"{installation}/log/{tenant}" if epoch == 1 else f"{installation}/log/{tenant}/{epoch}"


def read_origin(origin: str) -> Origin:
    """The parts of an origin. One that is of no log of ours is a tenant."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return Origin("", origin, 1)
    return Origin(found["installation"] or "", found["tenant"], int(found["epoch"] or 1))
