"""Version 2 of the entry format, for every value that it can hold."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings, strategies as st

from causeloop_log import entry
from causeloop_log.entry import Entry, NotCanonical, Sealed, v2
from causeloop_log.tlog import merkle
from causeloop_log.tlog.checkpoint import LARGEST_SIZE, Checkpoint
from causeloop_log.tlog.merkle import leaf_hash
from causeloop_log.tlog.proof import LogProof

VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
IDS = st.text(VISIBLE, min_size=1, max_size=12) | st.text(VISIBLE, min_size=256, max_size=256)
WORDS = st.from_regex("[a-z][a-z0-9_]{0,63}", fullmatch=True)
SEALED = st.builds(Sealed, IDS, st.text(VISIBLE, min_size=1, max_size=40))
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
KEYS = st.text(VISIBLE, min_size=1, max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
ENTRIES = st.builds(
    Entry,
    version=st.just(2), id=IDS, source=WORDS, tenant=IDS, time=MOMENTS.map(v2.time_of), action=IDS,
    outcome=st.sampled_from(["success", "denied", "failure"]), actor=IDS,
    actor_kind=st.sampled_from(["person", "service_account", "service"]), on_behalf_of=st.none() | IDS,
    credential=st.none() | IDS, target=IDS, target_kind=WORDS, request=st.none() | IDS,
    address=st.none() | SEALED, user_agent=st.none() | SEALED, data=st.dictionaries(KEYS, VALUES, max_size=5),
    salt=st.binary(min_size=16, max_size=16).map(bytes.hex),
).filter(lambda made: made.on_behalf_of != made.actor)  # fmt: skip

AN_ENTRY = Entry(
    version=2, id="evt_1", source="vault", tenant="ws_1", time="2026-01-02T03:04:05.678901Z",
    action="vault.secret_revealed", outcome="denied", actor="svc_1", actor_kind="service_account",
    on_behalf_of="usr_1", credential="tok_1", target="sec_1", target_kind="secret", request="req_1",
    address=Sealed("usr_1", "clv1:1:AAAA"), user_agent=None, data={"note": "é", "n": [1, None, True]},
    salt="00112233445566778899aabbccddeeff",
)  # fmt: skip


class TestForm:
    @given(ENTRIES)
    def test_every_entry_is_read_as_it_was_written(self, made: Entry) -> None:
        leaf = v2.leaf(made)
        assert entry.read(leaf) == made
        assert v2.leaf(entry.read(leaf)) == leaf

    @given(ENTRIES)
    def test_is_sorted_compact_json_and_so_rfc_8785(self, made: Entry) -> None:
        leaf = v2.leaf(made)
        # With ASCII keys and integers up to 2^53 there is nothing else in RFC 8785: 3.2.2, 3.2.3.
        assert leaf.decode() == json.dumps(json.loads(leaf), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @given(ENTRIES, st.data())
    @settings(deadline=None)
    def test_a_changed_byte_is_refused_or_is_another_entry_with_another_hash(
        self, made: Entry, data: st.DataObject
    ) -> None:
        leaf = v2.leaf(made)
        at = data.draw(st.integers(0, len(leaf) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != leaf[at]))
        bent = leaf[:at] + bytes([byte]) + leaf[at + 1 :]
        assert leaf_hash(bent) != leaf_hash(leaf)
        with suppress(NotCanonical):
            assert entry.read(bent) != made

    def test_every_flipped_bit_is_refused_or_is_another_entry(self) -> None:
        leaf = v2.leaf(AN_ENTRY)
        for at in range(len(leaf)):
            for bit in range(8):
                bent = leaf[:at] + bytes([leaf[at] ^ 1 << bit]) + leaf[at + 1 :]
                with suppress(NotCanonical):
                    assert entry.read(bent) != AN_ENTRY

    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    def test_any_other_text_is_refused(self, text: bytes) -> None:
        with pytest.raises(NotCanonical):
            entry.read(text)

    @pytest.mark.parametrize("name", [name for name in Entry._fields if name != "version"])
    def test_every_field_counts(self, name: str) -> None:
        others: dict[str, Any] = {
            "time": "2026-01-02T03:04:05.678902Z", "outcome": "success", "actor_kind": "service",
            "address": None, "user_agent": Sealed("usr_1", "clv1:1:AAAA"), "data": {}, "salt": "0" * 32,
        }  # fmt: skip
        other = AN_ENTRY._replace(**{name: others.get(name, "other")})
        assert v2.leaf(other) != v2.leaf(AN_ENTRY)


class TestWriting:
    @pytest.mark.parametrize(
        ("fields", "rule"),
        [
            ({"data": {"x": "x" * v2.LARGEST}}, 1),
            ({"data": {"x": "\ud800"}}, 2),
            ({"version": 1}, 3),
            ({"action": "a" * 3500}, 4),
            ({"action": "vault.\u200bsecret"}, 4),
            ({"id": 1}, 4),
            ({"actor": None}, 4),
            ({"target_kind": "Secret"}, 5),
            ({"outcome": None}, 5),
            ({"time": "2026-01-02T03:04:05Z"}, 6),
            ({"time": "2026-02-30T03:04:05.000000Z"}, 6),
            ({"salt": "00"}, 7),
            ({"on_behalf_of": "svc_1"}, 8),
            ({"address": Sealed("usr_1", "192.0.2.1 ")}, 9),
            ({"user_agent": Sealed("", "clv1:1:AAAA")}, 9),
            ({"data": []}, 10),
            ({"data": {"a": {"b c": 1}}}, 12),
            ({"data": {1: 1}}, 12),
            ({"data": {"a": "\x00"}}, 13),
            ({"data": {"a": 1.0}}, 14),
            ({"data": {"a": (1, 2)}}, 14),
            ({"data": {"a": datetime(2026, 1, 2, tzinfo=UTC)}}, 14),
            ({"data": {"a": -(2**53) - 1}}, 14),
        ],
    )
    def test_refuses_an_entry_that_a_reader_would_refuse(self, fields: dict[str, Any], rule: int) -> None:
        with pytest.raises(NotCanonical, match=f"^breaks rule {rule} of version 2|^contains text") as refused:
            v2.leaf(AN_ENTRY._replace(**fields))
        assert refused.value.rule == rule

    def test_names_rule_and_field(self) -> None:
        with pytest.raises(NotCanonical, match=r"^breaks rule 4 of version 2, an id or action is .*: action$"):
            v2.leaf(AN_ENTRY._replace(action=""))

    def test_writes_a_moment_of_any_zone_in_utc(self) -> None:
        moment = datetime(2026, 1, 2, 1, 0, tzinfo=timezone(timedelta(hours=2)))
        assert v2.time_of(moment) == "2026-01-01T23:00:00.000000Z"
        with pytest.raises(ValueError, match="without a time zone"):
            v2.time_of(datetime(2026, 1, 2))  # noqa: DTZ001


class TestEntry:
    def test_is_shown_in_one_line(self) -> None:
        assert AN_ENTRY.summary == "vault.secret_revealed by svc_1 for usr_1 on secret sec_1, denied"
        done = AN_ENTRY._replace(outcome="success", on_behalf_of=None)
        assert done.summary == "vault.secret_revealed by svc_1 on secret sec_1"

    def test_ids_of_two_services_do_not_collide(self) -> None:
        assert AN_ENTRY.identity != AN_ENTRY._replace(source="gateway").identity

    def test_the_largest_has_a_proof_below_64_kib(self) -> None:
        """The proof has the longest path, and a checkpoint with the longest size and an origin of 300 characters."""
        smallest = v2.leaf(AN_ENTRY._replace(data={"x": ""}))
        leaf = v2.leaf(AN_ENTRY._replace(data={"x": "x" * (v2.LARGEST - len(smallest))}))
        assert len(leaf) == v2.LARGEST
        origin, root = "o" * 300, merkle.leaf_hash(leaf)
        signed = Checkpoint(origin, LARGEST_SIZE, root).sign(Ed25519PrivateKey.generate())
        proof = LogProof(LARGEST_SIZE - 1, [root] * merkle.LONGEST_PROOF, signed, leaf)
        assert len(str(proof).encode()) < 64 * 1024
