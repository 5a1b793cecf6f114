"""Cursors: sealed by the gateway alone, and good for one place."""

import base64

import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.audit import ListEvents
from causeloop_common.errors import Malformed
from causeloop_common.keys import KeyRing
from causeloop_gateway.cursors import Cursors
from causeloop_gateway.endpoints import Endpoint
from causeloop_gateway.reader import Reader

CURSORS = Cursors(b"k" * 32)
SCOPE = ("ws_1", "usr_1", "cmd.vault.list_secrets", "action=a")
REFUSED = r"^The cursor was not made for this list, filter and workspace\. Start without one\.$"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class TestCursors:
    @pytest.mark.parametrize("position", ["", "a", "path/to/secret", "ß–∶", "x" * 512])
    def test_open_where_they_were_sealed(self, position: str) -> None:
        assert CURSORS.open(CURSORS.seal(position, *SCOPE), *SCOPE) == position

    def test_of_one_position_are_one_text_that_says_nothing_of_it_and_needs_no_quoting(self) -> None:
        cursor = CURSORS.seal("path/to/secret", *SCOPE)
        assert cursor == CURSORS.seal("path/to/secret", *SCOPE)
        assert set(cursor) <= set(ALPHABET)
        assert b"secret" not in base64.urlsafe_b64decode(cursor + "==")

    @pytest.mark.parametrize("at", range(len(SCOPE)))
    def test_of_another_tenant_person_list_or_filter_are_refused(self, at: int) -> None:
        other = tuple("another" if place == at else part for place, part in enumerate(SCOPE))
        with pytest.raises(Malformed, match=REFUSED):
            CURSORS.open(CURSORS.seal("p", *SCOPE), *other)

    def test_whose_scope_is_only_divided_otherwise_are_refused(self) -> None:
        with pytest.raises(Malformed, match=REFUSED):
            CURSORS.open(CURSORS.seal("p", "ab", "c"), "a", "bc")
        with pytest.raises(Malformed, match=REFUSED):
            CURSORS.open(CURSORS.seal("p", "a"), "a", "")

    def test_of_another_key_are_refused(self) -> None:
        with pytest.raises(Malformed, match=REFUSED):
            CURSORS.open(Cursors(b"o" * 32).seal("p", *SCOPE), *SCOPE)

    def test_that_were_changed_anywhere_are_refused(self) -> None:
        cursor = CURSORS.seal("position", *SCOPE)
        changed = {cursor[:-1], cursor[1:], f"{cursor}A", f"{cursor}=", f"{cursor}==", cursor.swapcase()}
        for at, letter in enumerate(cursor):
            changed |= {f"{cursor[:at]}{other}{cursor[at + 1 :]}" for other in ALPHABET if other != letter}
        for text in changed - {cursor}:
            with pytest.raises(Malformed, match=REFUSED):
                CURSORS.open(text, *SCOPE)

    @pytest.mark.parametrize("text", ["", "A", "....", "\u00e9", "\0", "A" * 1025, "A" * 100_000, "+/+/"])
    def test_that_are_none_are_refused(self, text: str) -> None:
        with pytest.raises(Malformed, match=REFUSED):
            CURSORS.open(text, *SCOPE)

    def test_a_filter_with_the_signs_of_a_query_is_not_taken_for_two(self) -> None:
        keys = KeyRing.derive(b"s" * 64, "gateway", topology.pairs())
        reader = Reader(Endpoint("GET", "/audit/events", ListEvents), CURSORS, keys, 0)
        ctx = AuthContext(tenant=ids.new("ws"), principal="svc_gateway", permissions=frozenset())
        two, one = (reader._bind(ctx, given) for given in ({"action": "a", "target": "b"}, {"action": "a&target=b"}))
        with pytest.raises(Malformed, match=REFUSED):
            CURSORS.open(CURSORS.seal("position", *two), *one)
