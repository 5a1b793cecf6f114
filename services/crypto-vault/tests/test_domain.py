"""The vault's ciphertext: what opens it, and everything that does not."""

import base64
import itertools
import string

import pytest
from hypothesis import given, strategies as st

from causeloop_vault.adapters.local_keys import LocalMasterKeys, fingerprint
from causeloop_vault.domain import envelope, named_keys
from causeloop_vault.domain.envelope import NotOpened

KEY = bytes(range(32))
ENTROPY = bytes(range(100, 128))
AT = envelope.place("ws_a", "secret", "db/password@1", 1)
SEALED = envelope.seal(KEY, 1, b"hunter2", AT, ENTROPY)


class TestSeal:
    def test_opens_at_its_place_under_its_key(self) -> None:
        assert envelope.open_(KEY, SEALED, AT) == b"hunter2"

    def test_is_frozen(self) -> None:
        assert SEALED == (
            "clv1:1:ZGVmZ2hpamtsbW5vcHFyc07/MF5wgQ0Vp4M+Yi5m984hmkEw+TPEjLgIuZyaV2A/dHV2d3h5ent8fX5/"
            "DFO/tyxA0L6hz9v2CfRSfZo57z20Mj4="
        )

    def test_has_the_documented_form(self) -> None:
        kind, version, body = SEALED.split(":")
        raw = base64.b64decode(body)
        assert (kind, version) == ("clv1", "1")
        assert raw[:16] + raw[48:60] == ENTROPY
        assert len(raw) == 16 + 32 + 12 + len(b"hunter2") + 16

    def test_is_the_same_for_the_same_randomness_and_another_for_any_other(self) -> None:
        assert envelope.seal(KEY, 1, b"hunter2", AT, ENTROPY) == SEALED
        assert envelope.seal(KEY, 1, b"hunter2", AT, bytes(28)) != SEALED

    def test_needs_its_randomness(self) -> None:
        with pytest.raises(ValueError, match="Sealing 1 messages needs 28 random bytes"):
            envelope.seal(KEY, 1, b"", AT, b"short")

    @given(st.binary(max_size=200), st.binary(min_size=28, max_size=28))
    def test_whatever_was_sealed_opens(self, plaintext: bytes, entropy: bytes) -> None:
        assert envelope.open_(KEY, envelope.seal(KEY, 7, plaintext, AT, entropy), AT) == plaintext


class TestSealAll:
    PLACES = tuple(envelope.place("ws_a", "key/key_a", f'{{"row":"{number}"}}', 1) for number in range(3))
    ENTROPY = bytes(range(16 + 3 * 12))

    def test_of_one_is_seal(self) -> None:
        assert envelope.seal_all(KEY, 1, [(b"hunter2", AT)], ENTROPY) == [SEALED]

    def test_each_has_a_nonce_of_its_own_and_opens_alone_at_its_place(self) -> None:
        sealed = envelope.seal_all(KEY, 1, [(b"same", at) for at in self.PLACES], self.ENTROPY)
        raw = [base64.b64decode(text.rpartition(":")[2]) for text in sealed]

        assert {one[:48] for one in raw} == {raw[0][:48]}
        assert [one[48:60] for one in raw] == [bytes(range(16 + n * 12, 28 + n * 12)) for n in range(3)]
        for (here, text), (there, at) in itertools.product(enumerate(sealed), enumerate(self.PLACES)):
            if here == there:
                assert envelope.open_(KEY, text, at) == b"same"
            else:
                with pytest.raises(NotOpened):
                    envelope.open_(KEY, text, at)

    def test_parts_of_two_messages_make_no_third(self) -> None:
        """They have key and commitment in common: nonce and tag still tie each together."""
        one, other = (
            base64.b64decode(text.rpartition(":")[2])
            for text in envelope.seal_all(KEY, 1, [(b"aaaa", AT), (b"bbbb", AT)], self.ENTROPY[:40])
        )
        for mixed in (one[:48] + other[48:60] + one[60:], one[:64] + other[64:], one[:60] + other[60:64] + one[64:]):
            with pytest.raises(NotOpened):
                envelope.open_(KEY, f"clv1:1:{base64.b64encode(mixed).decode()}", AT)

    def test_needs_its_randomness_and_has_a_bound(self) -> None:
        with pytest.raises(ValueError, match="Sealing 3 messages needs 52 random bytes"):
            envelope.seal_all(KEY, 1, [(b"", at) for at in self.PLACES], self.ENTROPY[:-1])
        with pytest.raises(ValueError, match="At most 1000 messages"):
            envelope.seal_all(KEY, 1, [(b"", AT)] * 1001, bytes(envelope.entropy_bytes(1001)))

    def test_of_none_is_none(self) -> None:
        assert envelope.seal_all(KEY, 1, [], bytes(16)) == []


class TestOpener:
    def test_opens_as_open_does_whatever_it_opened_before(self) -> None:
        opener = envelope.Opener(KEY)
        other = envelope.seal(KEY, 1, b"other", AT, bytes(28))
        bodies = [envelope.parts(text)[1] for text in (SEALED, other, SEALED)]
        assert [opener.open(body, AT) for body in bodies] == [b"hunter2", b"other", b"hunter2"]
        with pytest.raises(NotOpened, match="does not open"):  # the same salt, another key
            opener.open(envelope.parts(envelope.seal(bytes(32), 1, b"hunter2", AT, ENTROPY))[1], AT)


class TestContext:
    def test_its_record_is_frozen(self) -> None:
        assert named_keys.record(None) == named_keys.record({}) == "{}"
        assert named_keys.record({"table": 'ord"ers', "row": "é\n"}) == '{"row":"é\\n","table":"ord\\"ers"}'

    @given(st.dictionaries(st.text(string.ascii_letters), st.text()))
    def test_its_record_is_the_same_in_any_order(self, context: dict[str, str]) -> None:
        assert named_keys.record(dict(reversed(context.items()))) == named_keys.record(context)

    @given(*[st.dictionaries(st.text(string.ascii_letters), st.text())] * 2)
    def test_two_records_are_alike_only_when_the_contexts_are(self, one: dict[str, str], other: dict[str, str]) -> None:
        assert (named_keys.record(one) == named_keys.record(other)) == (one == other)

    @given(st.binary(max_size=100))
    def test_plaintext_is_read_as_it_is_written(self, plaintext: bytes) -> None:
        assert named_keys.read_plaintexts([named_keys.write_plaintext(plaintext)]) == [plaintext]


class TestOpen:
    def test_no_flipped_bit_of_the_body_opens(self) -> None:
        head, _, body = SEALED.rpartition(":")
        raw = base64.b64decode(body)
        for at, bit in itertools.product(range(len(raw)), (0, 7)):
            changed = raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]
            with pytest.raises(NotOpened):
                envelope.open_(KEY, f"{head}:{base64.b64encode(changed).decode()}", AT)

    def test_no_other_text_opens_to_a_reader_who_knows_only_the_place(self) -> None:
        def read(text: str) -> bytes:
            return envelope.open_(
                KEY, text, envelope.place("ws_a", "secret", "db/password@1", envelope.version_of(text))
            )

        assert read(SEALED) == b"hunter2"
        body = SEALED.rpartition(":")[2]
        others = {SEALED[:at] + letter + SEALED[at + 1 :] for at in range(len(SEALED)) for letter in string.printable}
        others |= {f"{SEALED}=", f"{SEALED}\n", f" {SEALED}", SEALED.rstrip("=")}
        others |= {f"clv1:01:{body}", f"clv1:0:{body}", f"clv1:1::{body}", f"clv1:1:AAAA:{body}", f"clv1:1:1:{body}"}
        for text in others - {SEALED}:
            with pytest.raises(NotOpened):
                read(text)

    def test_no_other_key_opens(self) -> None:
        with pytest.raises(NotOpened, match="does not open"):
            envelope.open_(bytes(32), SEALED, AT)

    def test_a_ciphertext_opens_at_no_other_place(self) -> None:
        parts = (("ws_a", "ws_b"), ("secret", "auth/session"), ("db@1", "db@2"), (1, 2))
        places = [envelope.place(*chosen) for chosen in itertools.product(*parts)]
        sealed = [envelope.seal(KEY, 1, b"x", at, ENTROPY) for at in places]
        for (here, text), (there, at) in itertools.product(enumerate(sealed), enumerate(places)):
            if here == there:
                assert envelope.open_(KEY, text, at) == b"x"
            else:
                with pytest.raises(NotOpened):
                    envelope.open_(KEY, text, at)

    @given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
    def test_two_places_are_encoded_alike_only_when_they_are_the_same(
        self, one: tuple[str, str, str], other: tuple[str, str, str]
    ) -> None:
        assert (envelope.place(*one, 1) == envelope.place(*other, 1)) == (one == other)

    @pytest.mark.parametrize(
        "text",
        ["", "clv1", "clv1:1", "clv1::", "clv2:1:AAAA", "clv1:x:AAAA", "clv1:-1:AAAA", "clv1:1:%%%", "clv1:1:AAAA",
         "clv1:9999999999:AAAA", "clv1:\u0661:AAAA", "clv1:1:\u00e9"],
    )  # fmt: skip
    def test_refuses_what_is_no_ciphertext(self, text: str) -> None:
        with pytest.raises(NotOpened, match="not a ciphertext of the vault"):
            envelope.open_(KEY, text, AT)


class TestLocalMasterKeys:
    async def test_the_first_key_wraps_and_every_key_unwraps(self) -> None:
        old, new = bytes(32), bytes([1] * 32)
        wrapped, master = await LocalMasterKeys([old]).wrap(KEY, "ws_a", 1)
        both = LocalMasterKeys([new, old])

        assert await both.unwrap(wrapped, master, "ws_a", 1) == KEY
        assert (await both.wrap(KEY, "ws_a", 1))[1] == fingerprint(new)

    async def test_a_wrapped_key_opens_for_no_other_tenant_or_version(self) -> None:
        keys = LocalMasterKeys([bytes(32)])
        wrapped, master = await keys.wrap(KEY, "ws_a", 1)
        for tenant, version in (("ws_b", 1), ("ws_a", 2)):
            with pytest.raises(NotOpened):
                await keys.unwrap(wrapped, master, tenant, version)

    async def test_names_the_master_key_that_is_missing(self) -> None:
        wrapped, master = await LocalMasterKeys([bytes(32)]).wrap(KEY, "ws_a", 1)
        with pytest.raises(NotOpened, match=rf"{master} that wrapped this data key is not configured"):
            await LocalMasterKeys([bytes([1] * 32)]).unwrap(wrapped, master, "ws_a", 1)

    def test_a_fingerprint_says_nothing_of_the_key(self) -> None:
        assert fingerprint(KEY) not in KEY.hex()
        assert len(fingerprint(KEY)) == 16

    def test_needs_a_key(self) -> None:
        with pytest.raises(ValueError, match="At least one master key"):
            LocalMasterKeys([])
