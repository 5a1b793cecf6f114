"""The canonical form of an entry of version 1, for every value it can hold."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st

from causeloop_log import entry
from causeloop_log.entry import NotCanonical, v1

FIELDS = v1.Fields(
    id="evt_1",
    tenant="ws_1",
    action="vault.secret_written",
    actor="usr_1",
    credential="ses_1",
    target="sec_1",
    occurred_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    request_id="req_1",
    data={"version": 1},
)
SALT = bytes(range(16))

KEYS = st.text(st.characters(max_codepoint=127, exclude_characters="\x00"), max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)


class TestCanonicalForm:
    @given(OBJECTS)
    def test_is_sorted_compact_json_and_so_rfc_8785(self, data: dict[str, Any]) -> None:
        leaf = v1.leaf(FIELDS._replace(data=data), SALT)

        # With ASCII keys and integers up to 2^53 there is nothing else in RFC 8785: 3.2.2, 3.2.3.
        assert json.loads(leaf)["data"] == data
        assert leaf.decode() == json.dumps(json.loads(leaf), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @given(OBJECTS)
    def test_does_not_depend_on_how_the_event_was_written(self, data: dict[str, Any]) -> None:
        spread = json.dumps(dict(reversed(data.items())), indent=2).encode()

        assert v1.leaf(FIELDS._replace(data=entry.read_data(spread)), SALT) == v1.leaf(FIELDS._replace(data=data), SALT)

    @given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
    def test_any_text_is_read_or_refused_as_not_canonical(self, text: bytes) -> None:
        try:
            data = entry.read_data(text)
        except NotCanonical:
            return
        assert entry.read_data(json.dumps(data).encode()) == data

    def test_half_a_surrogate_pair_has_none(self) -> None:
        with pytest.raises(NotCanonical, match="contains text that is not Unicode"):
            v1.leaf(FIELDS._replace(data={"a": "\ud800"}), SALT)

    @pytest.mark.parametrize("name", v1.Fields._fields)
    def test_every_field_counts(self, name: str) -> None:
        other: Any = {"data": {}, "occurred_at": FIELDS.occurred_at.replace(microsecond=0)}.get(name, "other")

        assert v1.leaf(FIELDS._replace(**{name: other}), SALT) != v1.leaf(FIELDS, SALT)
