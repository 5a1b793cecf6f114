"""The tree against the published vectors of RFC 6962, and the frozen form of an entry."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from causeloop_audit.domain import entry
from causeloop_audit.domain.entry import EntryFields, NotCanonical
from causeloop_audit.domain.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash

ASSETS = Path(__file__).parent / "assets"

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""The eight leaves of Certificate Transparency's reference tests."""

ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Their roots for sizes 1 to 8."""

FIELDS = EntryFields(
    id="evt_01h455vb4pex5vsknk084sn02q",
    tenant="ws_01h455vb4pex5vsknk084sn02r",
    action="vault.secret_written",
    actor="usr_2sp9rtw6xwg79stgcjk0bz9cbf",
    credential="ses_01h455vb4pex5vsknk084sn02s",
    target="sec_01h455vb4pex5vsknk084sn02t",
    occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    request_id="req_01h455vb4pex5vsknk084sn02v",
    data={"version": 3, "secret_id": "sec_01h455vb4pex5vsknk084sn02t", "note": 'é\n"\\/\u2028'},
)
SALT = bytes(range(16))


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 2.1, to the letter."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + recursive_root(leaves[:split]) + recursive_root(leaves[split:])).digest()


class TestFrontier:
    def test_of_nothing_has_the_hash_of_nothing(self) -> None:
        assert Frontier().root() == EMPTY_ROOT
        assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    def test_grows_through_the_published_roots(self) -> None:
        frontier = Frontier()
        for index, leaf in enumerate(LEAVES):
            assert frontier.append(leaf_hash(leaf)) == index
            assert frontier.root().hex() == ROOTS[index]

    @given(st.lists(st.binary(max_size=8), max_size=70))
    def test_is_the_recursive_definition(self, leaves: list[bytes]) -> None:
        frontier = Frontier()
        for leaf in leaves:
            frontier.append(leaf_hash(leaf))
        assert frontier.root() == recursive_root(leaves)

    @given(st.integers(0, 200))
    def test_goes_on_from_what_was_packed(self, size: int) -> None:
        whole = Frontier()
        for number in range(size):
            whole.append(leaf_hash(str(number).encode()))
        again = Frontier.unpack(whole.size, whole.pack())
        again.append(leaf_hash(b"next"))
        whole.append(leaf_hash(b"next"))
        assert again.root() == whole.root()

    def test_refuses_peaks_that_do_not_belong_to_its_size(self) -> None:
        with pytest.raises(ValueError, match="has 2 peaks, not 1"):
            Frontier(3, [bytes(32)])

    def test_a_leaf_and_a_node_never_hash_alike(self) -> None:
        left, right = leaf_hash(b"a"), leaf_hash(b"b")
        assert leaf_hash(left + right) != node_hash(left, right)


class TestLeaf:
    def test_is_frozen(self) -> None:
        assert entry.leaf(FIELDS, SALT) == (ASSETS / "entry-v1.json").read_bytes().rstrip(b"\n")

    def test_another_salt_is_another_leaf(self) -> None:
        assert entry.leaf(FIELDS, SALT) != entry.leaf(FIELDS, bytes(16))

    def test_needs_its_128_bits_of_salt(self) -> None:
        with pytest.raises(ValueError, match="needs 16 random bytes"):
            entry.leaf(FIELDS, b"short")

    def test_flipping_any_byte_changes_its_hash(self) -> None:
        leaf = entry.leaf(FIELDS, SALT)
        hashes = {leaf_hash(leaf[:at] + bytes([leaf[at] ^ 1]) + leaf[at + 1 :]) for at in range(len(leaf))}
        assert len(hashes) == len(leaf)
        assert leaf_hash(leaf) not in hashes


class TestReadData:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (b"", "is not JSON"),
            (b"{", "is not JSON"),
            (b'{"a": NaN}', "is not JSON"),
            (b'{"a": "\xff"}', "is not JSON"),
            (b'{"a": "\\ud800"}', "is not JSON"),
            (b"[]", "is not an object"),
            (b'"text"', "is not an object"),
            (b'{"a": 1.5}', "type float"),
            (b'{"a": 1e3}', "type float"),
            (b'{"a": 9007199254740993}', "beyond 2"),
            (b'{"a": [-9007199254740993]}', "beyond 2"),
            ('{"ä": 1}'.encode(), "not ASCII"),
            (b'{"a": {"\\u0000": 1}}', "not ASCII"),
            (b'{"a": "\\u0000"}', "NUL"),
            (b'{"a":' * 20 + b"1" + b"}" * 20, "nested too deep"),
        ],
    )
    def test_refuses_what_has_no_canonical_form(self, text: bytes, why: str) -> None:
        with pytest.raises(NotCanonical, match=why):
            entry.read_data(text)

    @pytest.mark.parametrize("value", [2**53, -(2**53), True, None, "", "é", [], {}, [{"a": [1, "b", None]}]])
    def test_takes_what_has_one(self, value: Any) -> None:
        assert entry.read_data(orjson.dumps({"a": value})) == {"a": value}

    def test_an_unreadable_event_is_remembered_by_its_digest(self) -> None:
        assert entry.digest_of(b"abc") == {
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "size": 3,
        }
