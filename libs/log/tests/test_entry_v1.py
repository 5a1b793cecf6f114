"""The frozen form of an entry of version 1."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from causeloop_log import entry
from causeloop_log.entry import NotCanonical, v1
from causeloop_log.tlog.merkle import leaf_hash

ASSETS = Path(__file__).parent / "assets"

FIELDS = v1.Fields(
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


class TestLeaf:
    def test_is_frozen(self) -> None:
        assert v1.leaf(FIELDS, SALT) == (ASSETS / "entry-v1.json").read_bytes().rstrip(b"\n")

    def test_another_salt_is_another_leaf(self) -> None:
        assert v1.leaf(FIELDS, SALT) != v1.leaf(FIELDS, bytes(16))

    def test_needs_its_128_bits_of_salt(self) -> None:
        with pytest.raises(ValueError, match="needs 16 random bytes"):
            v1.leaf(FIELDS, b"short")

    def test_flipping_any_byte_changes_its_hash(self) -> None:
        leaf = v1.leaf(FIELDS, SALT)
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
    def test_refuses_a_value_without_a_canonical_form(self, text: bytes, why: str) -> None:
        with pytest.raises(NotCanonical, match=why):
            v1.leaf(FIELDS._replace(data=entry.read_data(text)), SALT)

    @pytest.mark.parametrize("value", [2**53, -(2**53), True, None, "", "é", [], {}, [{"a": [1, "b", None]}]])
    def test_accepts_a_value_with_one(self, value: Any) -> None:
        assert entry.read_data(orjson.dumps({"a": value})) == {"a": value}

    def test_the_digest_of_an_unreadable_event_is_its_hash_and_size(self) -> None:
        assert entry.digest_of(b"abc") == {
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "size": 3,
        }
