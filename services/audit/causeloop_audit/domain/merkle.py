"""The Merkle tree of RFC 6962 2.1 (RFC 9162 2.1), as a frontier that grows leaf by leaf.

A tree of n leaves is determined by the roots of the perfect subtrees that n's binary digits name, largest first:
its *peaks*. They are all that appending needs.
"""

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The peaks of a tree of `size` leaves; `append` adds a leaf, `root` is the tree's hash."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(f"A tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}.")
        self.size = size
        self.peaks = list(peaks)

    @classmethod
    def unpack(cls, size: int, packed: bytes) -> "Frontier":
        """The frontier that `pack` wrote."""
        return cls(size, [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)])

    def pack(self) -> bytes:
        """The peaks, one after the other."""
        return b"".join(self.peaks)

    def append(self, hashed_leaf: bytes) -> int:
        """Add a leaf by its hash; its index."""
        index, node, merging = self.size, hashed_leaf, self.size
        while merging & 1:
            node = node_hash(self.peaks.pop(), node)
            merging >>= 1
        self.peaks.append(node)
        self.size += 1
        return index

    def root(self) -> bytes:
        """The tree's hash; of no leaves, the hash of nothing."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root
