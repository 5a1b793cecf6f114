"""Identifiers: the TypeID specification's vectors, and what distinguishes a tenant."""

import hashlib
import time
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from causeloop_common import ids

VECTORS = [  # typeid spec 0.3, valid.yml
    ("00000000-0000-0000-0000-000000000000", "00000000000000000000000000"),
    ("00000000-0000-0000-0000-000000000001", "00000000000000000000000001"),
    ("00000000-0000-0000-0000-00000000000a", "0000000000000000000000000a"),
    ("00000000-0000-0000-0000-000000000010", "0000000000000000000000000g"),
    ("00000000-0000-0000-0000-000000000020", "00000000000000000000000010"),
    ("ffffffff-ffff-ffff-ffff-ffffffffffff", "7zzzzzzzzzzzzzzzzzzzzzzzzz"),
    ("0110c853-1d09-52d8-d73e-1194e95b5f19", "0123456789abcdefghjkmnpqrs"),
    ("01890a5d-ac96-774b-bcce-b302099a8057", "01h455vb4pex5vsknk084sn02q"),
]


class TestTypeId:
    @pytest.mark.parametrize(("value", "suffix"), VECTORS)
    def test_text_and_uuid_are_those_of_the_specification(self, value: str, suffix: str) -> None:
        assert ids.encode("prefix", UUID(value)) == f"prefix_{suffix}"
        assert ids.decode(f"prefix_{suffix}", "prefix") == UUID(value)

    @given(st.uuids())
    def test_every_uuid_comes_back(self, value: UUID) -> None:
        assert ids.decode(ids.encode("sec", value), "sec") == value

    @given(st.uuids(), st.uuids())
    def test_texts_order_as_their_uuids(self, one: UUID, other: UUID) -> None:
        assert (ids.encode("sec", one) < ids.encode("sec", other)) == (one < other)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "_",
            "sec",
            "sec_",
            "01h455vb4pex5vsknk084sn02q",
            "_01h455vb4pex5vsknk084sn02q",
            "tok_01h455vb4pex5vsknk084sn02q",
            "SEC_01h455vb4pex5vsknk084sn02q",
            "sec_01H455VB4PEX5VSKNK084SN02Q",
            "sec_01h455vb4pex5vsknk084sn02",
            "sec_01h455vb4pex5vsknk084sn02q0",
            "sec_81h455vb4pex5vsknk084sn02q",  # more than 128 bits
            "sec_01h455vb4pex5vsknk084sn02l",  # letters that Crockford leaves out
            "sec_01h455vb4pex5vsknk084sn02u",
            "sec_01h455vb4pex5vsknk084sn02q\n",
            " sec_01h455vb4pex5vsknk084sn02q",
            "sec_01h455vb4pex5vsknk084sn02\u0660",  # a digit, but not ASCII
            "x.sec_01h455vb4pex5vsknk084sn02q",
        ],
    )
    def test_what_is_not_an_id_of_the_kind_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is not an id of the form sec_…"):
            ids.decode(text, "sec")

    def test_a_refusal_names_every_kind_that_would_do_and_repeats_little(self) -> None:
        with pytest.raises(ValueError, match=r"^'x{64}' is not an id of the form ws_… or usr_…\.$"):
            ids.decode("x" * 10_000, "ws", "usr")

    @given(st.text(max_size=40))
    def test_any_text_is_an_id_or_refused(self, text: str) -> None:
        try:
            value = ids.decode(f"sec_{text}", "sec")
        except ValueError:
            return
        assert ids.encode("sec", value) == f"sec_{text}"


class TestUuid7:
    def test_carries_version_variant_and_the_time(self) -> None:
        before = time.time_ns() // 1_000_000
        made = ids.uuid7()
        after = time.time_ns() // 1_000_000

        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert before <= made.int >> 80 <= after

    def test_no_two_are_equal(self) -> None:
        assert len({ids.uuid7() for _ in range(10_000)}) == 10_000


class TestTenants:
    @given(st.binary(min_size=16, max_size=64), st.booleans())
    def test_a_derived_uuid_is_of_version_8_and_says_whether_it_is_a_realm(self, digest: bytes, realm: bool) -> None:
        made = ids.uuid8(digest, realm=realm)

        assert made.version == 8
        assert made.variant == "specified in RFC 4122"
        assert ids.tenant_id(made).startswith("usr_" if realm else "ws_")

    @given(st.binary(min_size=16, max_size=16), st.booleans())
    def test_a_derived_uuid_keeps_all_other_bits_of_the_digest(self, digest: bytes, realm: bool) -> None:
        kept = ~((0xF << 76) | (0x7 << 61))

        assert ids.uuid8(digest, realm=realm).int & kept == int.from_bytes(digest, "big") & kept

    def test_the_same_subject_of_the_same_issuer_is_the_same_person(self) -> None:
        assert ids.realm("https://issuer.test", "user_1") == ids.realm("https://issuer.test", "user_1")
        assert ids.realm("https://issuer.test", "user_1") != ids.realm("https://issuer.test", "user_2")
        assert ids.realm("https://issuer.test", "user_1") != ids.realm("https://other.test", "user_1")

    def test_a_persons_id_is_frozen(self) -> None:
        digest = hashlib.sha256(b"https://issuer.test\0user_1").digest()

        assert ids.realm("https://issuer.test", "user_1") == ids.encode("usr", ids.uuid8(digest, realm=True))
        assert ids.realm("https://issuer.test", "user_1") == "usr_3e4b10v3kfhwhbgdx443k1hzf5"

    def test_no_id_is_both_a_workspace_and_a_realm(self) -> None:
        person, workspace = ids.realm("https://issuer.test", "user_1"), ids.new("ws")

        assert ids.tenant_id(ids.tenant_uuid(person)) == person
        assert ids.tenant_id(ids.tenant_uuid(workspace)) == workspace
        for forged in (person.replace("usr_", "ws_"), workspace.replace("ws_", "usr_")):
            with pytest.raises(ValueError, match=f"'{forged}' is not the id of a tenant"):
                ids.tenant_uuid(forged)

    def test_a_workspace_that_a_key_makes_is_the_same_for_every_retry(self) -> None:
        assert ids.workspace(b"k" * 32) == ids.workspace(b"k" * 32) != ids.workspace(b"l" * 32)

    def test_the_installation_has_a_realm_of_its_own(self) -> None:
        assert ids.tenant_id(ids.tenant_uuid(ids.INSTALLATION)) == ids.INSTALLATION

    @pytest.mark.parametrize("prefix", ["sec", "tok", "evt"])
    def test_no_other_thing_is_a_tenant(self, prefix: str) -> None:
        with pytest.raises(ValueError, match="is not an id of the form ws_… or usr_…"):
            ids.tenant_uuid(ids.new(prefix))

    def test_an_id_can_follow_from_content(self) -> None:
        assert ids.derived("evt", b"one") == ids.derived("evt", b"one") != ids.derived("evt", b"two")
        assert ids.decode(ids.derived("evt", b"one"), "evt").version == 8
