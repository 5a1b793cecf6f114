"""Keys: HKDF against RFC 5869, sealing, and who holds which key."""

import base64
import hashlib
import hmac
import json
import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from causeloop_common.contracts import topology
from causeloop_common.keys import KeyRing, Sealer, derive

SECRET = b"a secret of the installation, long enough"

OKM_2 = (
    "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da"
    "3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
)
RFC5869 = [  # appendix A: IKM, salt, info, OKM
    (
        b"\x0b" * 22,
        bytes(range(0x0D)),
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        OKM_2,
    ),
    (
        b"\x0b" * 22,
        b"",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2, to the letter."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    block, out = b"", b""
    for n in range(1, math.ceil(length / 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([n]), "sha256")
        out += block
    return out[:length]


class TestDerive:
    @pytest.mark.parametrize(("secret", "salt", "info", "expected"), RFC5869)
    def test_the_reference_above_is_rfc_5869(self, secret: bytes, salt: bytes, info: bytes, expected: str) -> None:
        assert hkdf(secret, salt, info, len(expected) // 2).hex() == expected

    def test_gives_the_key_of_the_rfcs_third_case(self) -> None:
        secret, salt, _, expected = RFC5869[2]

        assert derive(secret, "", salt=salt, length=42).hex() == expected
        assert derive(secret, "", length=42).hex() == expected  # no salt is a salt of zeros

    @given(st.binary(min_size=1, max_size=64), st.text(max_size=40), st.binary(max_size=32), st.integers(1, 100))
    def test_is_hkdf_for_every_name_and_salt(self, secret: bytes, info: str, salt: bytes, length: int) -> None:
        assert derive(secret, info, salt=salt, length=length) == hkdf(secret, salt, info.encode(), length)

    def test_names_part_keys(self) -> None:
        assert derive(SECRET, "svc/v1/gateway/vault") != derive(SECRET, "svc/v1/vault/gateway")


class TestSealer:
    def test_a_peer_opens_what_was_sealed_for_it(self) -> None:
        key = derive(SECRET, "pair")

        assert Sealer(key).open(Sealer(key).seal(b"attack at dawn", "a:b"), "a:b") == b"attack at dawn"

    def test_the_text_says_nothing_and_never_repeats(self) -> None:
        sealer = Sealer(derive(SECRET, "pair"))
        texts = {sealer.seal(b"attack at dawn", "a:b") for _ in range(100)}

        assert len(texts) == 100
        assert all(b"dawn" not in text for text in texts)

    def test_another_label_is_refused(self) -> None:
        sealer = Sealer(derive(SECRET, "pair"))

        with pytest.raises(ValueError, match="is not sealed for this receiver and message"):
            sealer.open(sealer.seal(b"attack at dawn", "cmd.vault.put_secret:ws_1"), "cmd.vault.put_secret:ws_2")

    def test_another_pair_is_refused(self) -> None:
        sealed = Sealer(derive(SECRET, "svc/v1/gateway/vault")).seal(b"attack at dawn", "a:b")

        with pytest.raises(ValueError, match="is not sealed for this receiver and message"):
            Sealer(derive(SECRET, "svc/v1/gateway/auth")).open(sealed, "a:b")

    def test_a_changed_byte_anywhere_is_refused(self) -> None:
        sealer = Sealer(derive(SECRET, "pair"))
        raw = sealer.seal(b"attack at dawn", "a:b")

        for at in range(len(raw)):
            changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            with pytest.raises(ValueError, match="is not sealed for this receiver and message"):
                sealer.open(changed, "a:b")

    @pytest.mark.parametrize(
        "text", [b"", b"AAAA", b"attack at dawn", "é".encode(), b"A", b"=" * 8, bytes(28), bytes(99)]
    )
    def test_what_was_never_sealed_is_refused(self, text: bytes) -> None:
        with pytest.raises(ValueError, match="is not sealed for this receiver and message"):
            Sealer(derive(SECRET, "pair")).open(text, "a:b")

    def test_a_body_with_something_between_or_missing_is_refused(self) -> None:
        sealer = Sealer(derive(SECRET, "pair"))
        sealed = sealer.seal(b"attack at dawn", "a:b")

        for at in range(len(sealed)):
            for body in (sealed[:at] + b"\n!" + sealed[at:], sealed[:at], sealed[:at] + sealed[at + 1 :]):
                with pytest.raises(ValueError, match="is not sealed for this receiver and message"):
                    sealer.open(body, "a:b")

    def test_keys_of_unknown_salts_are_not_kept_without_end(self) -> None:
        key = derive(SECRET, "pair")
        receiver = Sealer(key)
        for _ in range(100):
            assert receiver.open(Sealer(key).seal(b"x", "a:b"), "a:b") == b"x"

        assert receiver._theirs.cache_info().currsize == 64


def _packed(data: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode()


class TestKeyRing:
    def test_a_service_holds_the_keys_of_its_own_pairs_only(self) -> None:
        pairs = topology.pairs()
        for service in topology.SERVICES:
            keys = KeyRing.derive(SECRET, service, pairs)
            assert {pair for pair in pairs if keys.holds(*pair)} == {pair for pair in pairs if service in pair}

    def test_audit_cannot_make_a_token_of_auth(self) -> None:
        keys = KeyRing.derive(SECRET, "audit", topology.pairs())

        with pytest.raises(KeyError):
            keys.pair("auth", "vault")

    def test_both_of_a_pair_hold_the_same_key_named_after_it(self) -> None:
        gateway = KeyRing.derive(SECRET, "gateway", topology.pairs())
        vault = KeyRing.derive(SECRET, "vault", topology.pairs())

        expected = hkdf(SECRET, b"", b"svc/v1/gateway/vault", 32)
        assert gateway.pair("gateway", "vault") == vault.pair("gateway", "vault") == expected

    def test_a_key_of_its_own_is_nobody_elses(self) -> None:
        gateway = KeyRing.derive(SECRET, "gateway", topology.pairs())
        auth = KeyRing.derive(SECRET, "auth", topology.pairs())

        assert len({gateway.own("a"), gateway.own("b"), auth.own("a"), auth.own("b")}) == 4

    def test_loads_what_was_dumped(self) -> None:
        made = KeyRing.derive(SECRET, "gateway", topology.pairs())
        loaded = KeyRing.load("gateway", made.dump())

        assert loaded.pair("gateway", "vault") == made.pair("gateway", "vault")
        assert loaded.own("cursors/v1") == made.own("cursors/v1")

    def test_a_dump_holds_neither_the_root_secret_nor_other_pairs(self) -> None:
        shown = base64.urlsafe_b64decode(KeyRing.derive(SECRET, "audit", topology.pairs()).dump())

        assert SECRET not in shown
        assert set(json.loads(shown)["pairs"]) == {"audit>vault", "gateway>audit"}

    def test_the_keys_of_another_service_are_refused(self) -> None:
        dump = KeyRing.derive(SECRET, "auth", topology.pairs()).dump()

        with pytest.raises(ValueError, match="holds the keys of 'auth', not of 'audit'"):
            KeyRing.load("audit", dump)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "no base64 !",
            "é",
            _packed([]),
            _packed("text"),
            _packed({"service": "audit", "pairs": {}}),
            _packed({"service": "audit", "pairs": [], "own": "AAAA"}),
            _packed({"service": "audit", "pairs": {"gateway>audit": 7}, "own": "AAAA"}),
            _packed({"service": "audit", "pairs": {"gateway>audit": "??"}, "own": "AAAA"}),
            _packed({"service": "audit", "pairs": {"gateway>audit": ""}, "own": base64.b64encode(bytes(32)).decode()}),
            _packed({"service": "audit", "pairs": {}, "own": "AAAA"}),
        ],
    )
    def test_what_is_no_dump_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not the output of `causeloop keys`"):
            KeyRing.load("audit", text)

    def test_hkdf_of_the_root_gives_distinct_keys(self) -> None:
        keys = KeyRing.derive(SECRET, "gateway", topology.pairs())
        made = [keys.pair("gateway", audience) for audience in topology.OWNERS]

        assert len(set(made)) == len(made)
        assert all(len(key) == hashlib.sha256().digest_size for key in made)
