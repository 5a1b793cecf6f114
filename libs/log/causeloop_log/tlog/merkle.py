"""The Merkle tree of RFC 6962 2.1 (RFC 9162 2.1): grown leaf by leaf, proven from stored hashes.

A tree of n leaves is determined by the roots of the perfect subtrees that n's binary digits name, largest first:
its *peaks*. They are all that appending needs.

For proofs, the roots of perfect subtrees of 256, 256², … leaves are stored besides the leaves' hashes: *nodes* of
level 1, 2, … (level 0 are the leaves). They never change once complete. Any other subtree is computed from a run of at
most 255 stored hashes, so a proof in a log of a million entries reads a few hundred and one in 256 is extra to store.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from causeloop_log.tlog import NotVerified

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
NODE_HEIGHT = 8
"""The height of a subtree whose root is stored one level up: 2^8 leaves or nodes under one node."""
LONGEST_PROOF = 64
"""No proof of a tree of fewer than 2^63 leaves is longer."""


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf's bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A tree's size and root."""

    size: int
    root: bytes


EMPTY = TreeHead(0, EMPTY_ROOT)
"""The head of the tree without leaves, as which every log begins."""


@dataclass(frozen=True, slots=True)
class Node:
    """The root of a complete subtree of 256^level leaves, the `index`-th of its level."""

    level: int
    index: int
    hash: bytes


class Frontier:
    """The peaks of a tree of `size` leaves; `append` adds a leaf, `root` is the tree's hash.

    `completed` collects the nodes that appending has completed, to be stored with the leaves.
    """

    __slots__ = ("completed", "peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(f"A tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}.")
        self.size = size
        self.peaks = list(peaks)
        self.completed: list[Node] = []

    @classmethod
    def unpack(cls, size: int, packed: bytes) -> "Frontier":
        """The frontier that `pack` wrote."""
        return cls(size, _hashes(packed))

    def pack(self) -> bytes:
        """The peaks, one after the other."""
        return b"".join(self.peaks)

    def append(self, hashed_leaf: bytes) -> int:
        """Add a leaf by its hash; its index."""
        index, node, height = self.size, hashed_leaf, 0
        while index >> height & 1:
            node = node_hash(self.peaks.pop(), node)
            height += 1
            if height % NODE_HEIGHT == 0:
                self.completed.append(Node(height // NODE_HEIGHT, index >> height, node))
        self.peaks.append(node)
        self.size += 1
        return index

    def root(self) -> bytes:
        """The tree's hash; of no leaves, the hash of nothing."""
        return _joined(self.peaks) if self.peaks else EMPTY_ROOT


class Span(NamedTuple):
    """The leaves from `first` up to but not including `last`: a subtree whose root a proof needs."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Run:
    """`count` (a power of two) stored hashes of a level from `first` on: the leaves of one perfect subtree."""

    level: int
    first: int
    count: int


def inclusion_spans(index: int, size: int) -> list[Span]:
    """The subtrees whose roots prove the leaf at `index` in a tree of `size`, from the leaf's sibling up.

    RFC 9162 2.1.3.1, PATH(m, D[n]), from the root down and then turned round.
    """
    if not 0 <= index < size:
        raise ValueError(f"There is no leaf {index} in a tree of {size}.")
    spans, first, last = [], 0, size
    while last - first > 1:
        split = first + _largest_power_below(last - first)
        if index < split:
            spans.append(Span(split, last))
            last = split
        else:
            spans.append(Span(first, split))
            first = split
    return spans[::-1]


def consistency_spans(old: int, new: int) -> list[Span]:
    """The subtrees whose roots prove that the tree of `new` leaves begins with the tree of `old`.

    RFC 9162 2.1.4.1, SUBPROOF(m, D[n], b), from the root down and then turned round. An older tree without leaves, or
    of the same size, needs no proof.
    """
    if not 0 <= old <= new:
        raise ValueError(f"A tree of {new} leaves cannot begin with {old}.")
    spans: list[Span] = []
    first, last = 0, new
    while old not in (0, last):
        split = first + _largest_power_below(last - first)
        if old <= split:
            spans.append(Span(split, last))
            last = split
        else:
            spans.append(Span(first, split))
            first = split
    if old and first:  # else the verifier has this root: it is the old tree's
        spans.append(Span(first, last))
    return spans[::-1]


def runs(span: Span) -> list[Run]:
    """The stored hashes that give a span's root: its perfect subtrees, largest first, each as one run."""
    found, at = [], span.first
    while at < span.last:
        height = (span.last - at).bit_length() - 1
        level, rest = divmod(height, NODE_HEIGHT)
        found.append(Run(level, at >> level * NODE_HEIGHT, 1 << rest))
        at += 1 << height
    return found


def proof(spans: Sequence[Span], stored: Iterator[bytes]) -> list[bytes]:
    """The roots of the spans; `stored` has the packed hashes of every run of every span, in their order."""
    return [_joined([_perfect(next(stored), run) for run in runs(span)]) for span in spans]


def verify_inclusion(index: int, size: int, hashed_leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """NotVerified unless `path` proves the leaf at `index` in the tree of `size` with this root (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        raise NotVerified(f"index {index} is not below the tree's size, {size}")
    at, last, node = index, size - 1, hashed_leaf
    for sibling in path:
        if last == 0:
            raise NotVerified("the inclusion proof is longer than the path to the root")
        if at & 1 or at == last:
            node = node_hash(sibling, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise NotVerified("the inclusion proof ends before the root")
    if not hmac.compare_digest(node, root):
        raise NotVerified("the inclusion proof leads to another root")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """NotVerified unless `path` proves that the new tree begins with the old one (RFC 9162 2.1.4.2).

    Every tree begins with the empty one, and with itself: then the proof must be empty.
    """
    if old > new:
        raise NotVerified(f"the tree of {new} leaves is smaller than the one of {old}")
    if old in (0, new):
        if path:
            raise NotVerified("a proof from nothing, or from the same size, must be empty")
        if old == 0 and not hmac.compare_digest(old_root, EMPTY_ROOT):
            raise NotVerified("the root of the empty tree is not the hash of nothing")
        if old == new and not hmac.compare_digest(old_root, new_root):
            raise NotVerified(f"there are two roots for {new} leaves")
        return
    nodes = list(path)
    if old & (old - 1) == 0:  # a perfect tree is a node of the new one: its root is the first of the path
        nodes.insert(0, old_root)
    if not nodes:
        raise NotVerified("the consistency proof is empty")
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    older = newer = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            raise NotVerified("the consistency proof is longer than the path to the root")
        if at & 1 or at == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise NotVerified("the consistency proof ends before the root")
    if not hmac.compare_digest(older, old_root):
        raise NotVerified("the consistency proof leads to another root of the older tree")
    if not hmac.compare_digest(newer, new_root):
        raise NotVerified("the consistency proof leads to another root of the newer tree")


def _largest_power_below(count: int) -> int:
    """The largest power of two smaller than `count` (at least 2)."""
    return 1 << (count - 1).bit_length() - 1


def _perfect(packed: bytes, run: Run) -> bytes:
    """The root of the perfect subtree over the hashes of one run."""
    row = _hashes(packed)
    if len(row) != run.count:
        raise ValueError(f"Of {run.count} stored hashes from {run.first} on level {run.level} there are {len(row)}.")
    while len(row) > 1:
        row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]


def _joined(peaks: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that stand side by side, largest first."""
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def _hashes(packed: bytes) -> list[bytes]:
    return [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)]
