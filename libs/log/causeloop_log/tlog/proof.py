"""The proof of one entry in one file, for every verifier of the format (C2SP tlog-proof, extension `.tlog-proof`).

    c2sp.org/tlog-proof@v1
    extra <base64>            the entry itself, so that no other file is needed
    index <decimal>
    <base64>                  the inclusion proof, from the leaf's sibling to the root's child
                              an empty line
    <signed checkpoint>

The entry is not trusted because it is in the file: its hash is proven.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.note import VerifierKey, decoded

FORMAT = "c2sp.org/tlog-proof@v1"
START = "c2sp.org/tlog-proof@"
"""How the file begins in every version of the format."""
SUFFIX = ".tlog-proof"
LARGEST = 512 * 1024

_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class LogProof:
    """An entry's index, its inclusion proof and the checkpoint it leads to. `leaf` is None when the file has none."""

    index: int
    path: Sequence[bytes]
    checkpoint: str
    leaf: bytes | None = None

    def __str__(self) -> str:
        extra = [] if self.leaf is None else [f"extra {base64.b64encode(self.leaf).decode()}"]
        path = (base64.b64encode(sibling).decode() for sibling in self.path)
        return "\n".join((FORMAT, *extra, f"index {self.index}", *path, "", self.checkpoint))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The proof in a file; NotVerified when the file has another form. Nothing is proven before `verified`."""
        if len(text) > LARGEST:
            raise NotVerified(f"the proof is larger than {LARGEST} bytes")
        head, separator, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if not separator or lines.pop(0) != FORMAT or not lines:
            raise NotVerified(f"the file is not of the form {FORMAT}")
        extra = lines.pop(0).removeprefix("extra ") if lines[0].startswith("extra ") else None
        found = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if found is None:
            raise NotVerified("the proof has no line with the entry's index")
        path = [decoded(line) for line in lines]
        if len(path) > merkle.LONGEST_PROOF or any(len(sibling) != merkle.HASH_BYTES for sibling in path):
            raise NotVerified("the inclusion proof has too many lines, or one that is no SHA-256 hash")
        return cls(int(found[1]), path, checkpoint, None if extra is None else decoded(extra))

    def verified(self, key: VerifierKey, hashed_leaf: bytes) -> Checkpoint:
        """The checkpoint whose log has this leaf hash at the proof's index; NotVerified when it has not."""
        checkpoint = Checkpoint.verified(self.checkpoint, key)
        merkle.verify_inclusion(self.index, checkpoint.size, hashed_leaf, self.path, checkpoint.root)
        return checkpoint
