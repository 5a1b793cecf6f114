"""The tree against the published vectors of RFC 6962 and 9162, against its definition, and against bent proofs."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    Run,
    Span,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "assets" / "tlog" / "vectors.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
ROOTS = [base64.b64decode(root) for root in VECTORS["roots"]]


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 2.1, to the letter."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def audit_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 2.1.1, to the letter."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), mth(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 2.1.2, to the letter."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def numbered(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


class Stored:
    """A log as it is stored: the leaves' hashes and the completed nodes, and proofs from nothing else."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        frontier = Frontier()
        self.rows: dict[tuple[int, int], bytes] = {}
        for leaf in leaves:
            self.rows[0, frontier.append(leaf_hash(leaf))] = leaf_hash(leaf)
        self.rows |= {(node.level, node.index): node.hash for node in frontier.completed}
        self.size, self.root = frontier.size, frontier.root()

    def prove(self, spans: Sequence[Span]) -> list[bytes]:
        return merkle.proof(spans, (self._packed(run) for span in spans for run in merkle.runs(span)))

    def _packed(self, run: Run) -> bytes:
        return b"".join(self.rows[run.level, run.first + n] for n in range(run.count))


class TestPublishedVectors:
    def test_roots(self) -> None:
        frontier = Frontier()
        for index, leaf in enumerate(LEAVES):
            assert frontier.append(leaf_hash(leaf)) == index
            assert frontier.root() == ROOTS[index]

    def test_the_root_of_nothing(self) -> None:
        assert Frontier().root() == EMPTY_ROOT
        assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    @pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda v: f"{v['index']} of {v['size']}")
    def test_inclusion(self, vector: dict[str, Any]) -> None:
        index, size = vector["index"], vector["size"]
        path = [base64.b64decode(sibling) for sibling in vector["path"]]
        assert Stored(LEAVES[:size]).prove(merkle.inclusion_spans(index, size)) == path
        verify_inclusion(index, size, leaf_hash(LEAVES[index]), path, ROOTS[size - 1])

    @pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda v: f"{v['old']} to {v['new']}")
    def test_consistency(self, vector: dict[str, Any]) -> None:
        old, new = vector["old"], vector["new"]
        path = [base64.b64decode(sibling) for sibling in vector["path"]]
        assert Stored(LEAVES[:new]).prove(merkle.consistency_spans(old, new)) == path
        verify_consistency(old, ROOTS[old - 1], new, ROOTS[new - 1], path)

    def test_the_worked_example_of_seven_leaves(self) -> None:
        """RFC 9162 2.1.5, in its own letters."""
        d = [leaf_hash(leaf) for leaf in numbered(7)]
        a, b, c, dd, e, f, j = d
        g, h, i = node_hash(a, b), node_hash(c, dd), node_hash(e, f)
        k, el = node_hash(g, h), node_hash(i, j)
        log = Stored(numbered(7))
        assert log.root == node_hash(k, el)
        assert log.prove(merkle.inclusion_spans(0, 7)) == [b, h, el]
        assert log.prove(merkle.inclusion_spans(3, 7)) == [c, g, el]
        assert log.prove(merkle.inclusion_spans(4, 7)) == [f, j, k]
        assert log.prove(merkle.inclusion_spans(6, 7)) == [i, k]
        assert log.prove(merkle.consistency_spans(3, 7)) == [c, dd, g, el]
        assert log.prove(merkle.consistency_spans(4, 7)) == [el]
        assert log.prove(merkle.consistency_spans(6, 7)) == [i, j, k]


class TestFrontier:
    @given(st.integers(0, 70))
    def test_is_the_recursive_definition(self, size: int) -> None:
        assert Stored(numbered(size)).root == mth(numbered(size))

    @given(st.integers(0, 200))
    def test_goes_on_from_what_was_packed(self, size: int) -> None:
        whole = Frontier()
        for leaf in numbered(size):
            whole.append(leaf_hash(leaf))
        again = Frontier.unpack(whole.size, whole.pack())
        assert again.append(leaf_hash(b"next")) == whole.append(leaf_hash(b"next"))
        assert again.root() == whole.root()

    def test_refuses_peaks_that_do_not_belong_to_its_size(self) -> None:
        with pytest.raises(ValueError, match="has 2 peaks, not 1"):
            Frontier(3, [bytes(32)])

    def test_a_leaf_and_a_node_never_hash_alike(self) -> None:
        left, right = leaf_hash(b"a"), leaf_hash(b"b")
        assert leaf_hash(left + right) != node_hash(left, right)

    def test_collects_a_node_for_every_256_complete_leaves_and_no_other(self) -> None:
        frontier = Frontier()
        leaves = numbered(3 * 256 + 5)
        for leaf in leaves:
            frontier.append(leaf_hash(leaf))
        assert frontier.completed == [Node(1, n, mth(leaves[n * 256 : n * 256 + 256])) for n in range(3)]

    def test_collects_nodes_of_every_level(self) -> None:
        log = Stored(numbered(65_536))
        assert sorted(key for key in log.rows if key[0]) == [*((1, n) for n in range(256)), (2, 0)]
        assert log.rows[2, 0] == log.root


class TestProof:
    @given(st.integers(1, 1200).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
    @settings(max_examples=40, deadline=None)
    def test_of_inclusion_is_the_recursive_definition_and_verifies(self, place: tuple[int, int]) -> None:
        index, size = place
        leaves = numbered(size)
        log = Stored(leaves)
        path = log.prove(merkle.inclusion_spans(index, size))
        assert path == audit_path(index, leaves)
        verify_inclusion(index, size, leaf_hash(leaves[index]), path, log.root)

    @given(st.integers(1, 1200).flatmap(lambda new: st.tuples(st.integers(0, new), st.just(new))))
    @settings(max_examples=40, deadline=None)
    def test_of_consistency_is_the_recursive_definition_and_verifies(self, sizes: tuple[int, int]) -> None:
        old, new = sizes
        leaves = numbered(new)
        path = Stored(leaves).prove(merkle.consistency_spans(old, new))
        assert path == (subproof(old, leaves, True) if old else [])
        verify_consistency(old, mth(leaves[:old]), new, mth(leaves), path)

    def test_reads_a_few_hundred_hashes_of_a_million(self) -> None:
        for index in (0, 1, 654_321, 999_999):
            spans = merkle.inclusion_spans(index, 1_000_000)
            assert sum(run.count for span in spans for run in merkle.runs(span)) < 1100
            assert len(spans) <= 20

    def test_of_what_is_not_there_cannot_be_asked_for(self) -> None:
        with pytest.raises(ValueError, match="no leaf 3 in a tree of 3"):
            merkle.inclusion_spans(3, 3)
        with pytest.raises(ValueError, match="cannot begin with 4"):
            merkle.consistency_spans(4, 3)

    def test_stored_hashes_that_are_missing_are_noticed(self) -> None:
        with pytest.raises(ValueError, match="Of 4 stored hashes from 0 on level 0 there are 3"):
            merkle.proof([Span(0, 4)], iter([bytes(96)]))


def bent(path: Sequence[bytes]) -> list[list[bytes]]:
    """Every way to bend a proof a little: one bit of each byte, one line less, one more, two in another order."""
    path = list(path)
    ways = []
    for line, sibling in enumerate(path):
        for at in range(len(sibling)):
            flipped = sibling[:at] + bytes([sibling[at] ^ 1]) + sibling[at + 1 :]
            ways.append([*path[:line], flipped, *path[line + 1 :]])
        ways.append(path[:line] + path[line + 1 :])
        ways.append([*path[:line], sibling, *path[line:]])
    ways += [[*path, bytes(32)], [bytes(32), *path], path[::-1]]
    return [way for way in ways if way != path]


class TestVerifyInclusion:
    LOG = numbered(11)

    def test_refuses_every_bent_proof(self) -> None:
        root = mth(self.LOG)
        for index in range(11):
            for path in bent(audit_path(index, self.LOG)):
                with pytest.raises(NotVerified, match="the inclusion proof"):
                    verify_inclusion(index, 11, leaf_hash(self.LOG[index]), path, root)

    def test_refuses_another_leaf_index_size_or_root(self) -> None:
        path, root, leaf = audit_path(4, self.LOG), mth(self.LOG), leaf_hash(self.LOG[4])
        verify_inclusion(4, 11, leaf, path, root)
        for index in (*range(4), *range(5, 11)):
            with pytest.raises(NotVerified, match="the inclusion proof"):
                verify_inclusion(index, 11, leaf, path, root)
        for size in (5, 8, 17, 1024):  # a tree of 9 to 16 leaves has the same way up from 4, and another root
            with pytest.raises(NotVerified, match="the inclusion proof"):
                verify_inclusion(4, size, leaf, path, root)
        with pytest.raises(NotVerified, match="leads to another root"):
            verify_inclusion(4, 11, leaf_hash(b"forged"), path, root)
        with pytest.raises(NotVerified, match="leads to another root"):
            verify_inclusion(4, 11, leaf, path, mth(self.LOG[:10]))

    @pytest.mark.parametrize("index", [-1, 11, 2**62])
    def test_refuses_an_index_outside_the_tree(self, index: int) -> None:
        with pytest.raises(NotVerified, match="is not below the tree's size"):
            verify_inclusion(index, 11, leaf_hash(b""), [], mth(self.LOG))

    def test_refuses_an_inner_node_as_a_leaf(self) -> None:
        path, root = audit_path(0, self.LOG), mth(self.LOG)
        inner = leaf_hash(self.LOG[0]) + leaf_hash(self.LOG[1])
        with pytest.raises(NotVerified, match="the inclusion proof"):
            verify_inclusion(0, 11, leaf_hash(inner), path[1:], root)

    def test_of_a_single_leaf_the_empty_proof_is_the_whole_proof(self) -> None:
        verify_inclusion(0, 1, leaf_hash(b"one"), [], leaf_hash(b"one"))
        with pytest.raises(NotVerified, match="leads to another root"):
            verify_inclusion(0, 1, leaf_hash(b"two"), [], leaf_hash(b"one"))


class TestVerifyConsistency:
    LOG = numbered(13)

    def test_refuses_every_bent_proof(self) -> None:
        for old in range(1, 13):
            for path in bent(subproof(old, self.LOG, True)):
                with pytest.raises(NotVerified, match="the consistency proof"):
                    verify_consistency(old, mth(self.LOG[:old]), 13, mth(self.LOG), path)

    def test_refuses_a_fork_at_every_place(self) -> None:
        for old in range(1, 13):
            for place in range(old):
                forked = [*self.LOG[:place], b"forged", *self.LOG[place + 1 :]]
                with pytest.raises(NotVerified, match=r"leads to another root of the (older|newer) tree"):
                    verify_consistency(old, mth(self.LOG[:old]), 13, mth(forked), subproof(old, forked, True))

    def test_refuses_a_smaller_tree(self) -> None:
        with pytest.raises(NotVerified, match="tree of 3 leaves is smaller than the one of 4"):
            verify_consistency(4, mth(self.LOG[:4]), 3, mth(self.LOG[:3]), [])

    def test_refuses_another_root_at_the_same_size(self) -> None:
        with pytest.raises(NotVerified, match="two roots for 4 leaves"):
            verify_consistency(4, mth(self.LOG[:4]), 4, mth(self.LOG[1:5]), [])

    def test_refuses_padding_where_nothing_needs_proof(self) -> None:
        for old in (0, 13):
            with pytest.raises(NotVerified, match="must be empty"):
                verify_consistency(old, mth(self.LOG[:old]), 13, mth(self.LOG), [bytes(32)])

    def test_begins_with_the_empty_tree_and_no_other_nothing(self) -> None:
        verify_consistency(0, EMPTY_ROOT, 13, mth(self.LOG), [])
        with pytest.raises(NotVerified, match="root of the empty tree"):
            verify_consistency(0, bytes(32), 13, mth(self.LOG), [])
