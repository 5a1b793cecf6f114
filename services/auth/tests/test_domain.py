"""The rules of auth: secret handles, access tokens, the rotation of refresh tokens."""

import base64
import hashlib
import json
import os
import re
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from causeloop_auth.domain import access, handles, rotation
from causeloop_auth.domain.access import AccessClaims
from causeloop_auth.domain.handles import Handle
from causeloop_auth.domain.rotation import GRACE, Family, Verdict
from causeloop_common import ids
from causeloop_common.contracts.bearer import claimed
from causeloop_dev.testing import person

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
SECRET = bytes(range(32))


def checked(body: str) -> str:
    """A body with the checksum that fits it."""
    return f"{body}_{zlib.crc32(body.encode()):08x}"


class TestHandles:
    @pytest.mark.parametrize(("kind", "prefix"), [("pat", "tok"), ("rt", "ses")])
    @pytest.mark.parametrize("tenant", [ids.new("ws"), person()], ids=["workspace", "realm"])
    def test_a_handle_says_what_it_was_made_of(self, kind: str, prefix: str, tenant: str) -> None:
        entity = ids.new(prefix)
        text = handles.make(kind, tenant, entity, SECRET)

        assert text.startswith(f"clp_{kind}_{tenant}_{entity.rpartition('_')[2]}")
        assert handles.parse(text, kind) == Handle(
            kind, tenant, entity.rpartition("_")[2], SECRET, hashlib.sha256(text.encode()).digest()
        )

    def test_of_an_owner_a_handle_is_read_alike(self) -> None:
        """The owner stands in it for others; auth finds it by its digest."""
        tenant, token, owner = ids.new("ws"), ids.new("tok"), person()
        text = handles.make("pat", tenant, token, SECRET, owner=owner)
        assert claimed(text) == (tenant, owner)
        assert handles.parse(text, "pat") == Handle(
            "pat", tenant, token.rpartition("_")[2], SECRET, hashlib.sha256(text.encode()).digest()
        )

    def test_a_handle_is_one_word_of_lower_case_so_that_a_double_click_takes_it_whole(self) -> None:
        assert re.fullmatch(r"[a-z0-9_]+", handles.make("pat", ids.new("ws"), ids.new("tok"), os.urandom(32)))

    def test_every_changed_character_is_seen_by_the_checksum(self) -> None:
        text = handles.make("pat", ids.new("ws"), ids.new("tok"), SECRET)
        for at, letter in enumerate(text):
            other = "a" if letter != "a" else "b"
            assert handles.parse(f"{text[:at]}{other}{text[at + 1 :]}", "pat") is None, at

    def test_one_kind_is_not_read_as_another(self) -> None:
        assert handles.parse(handles.make("rt", person(), ids.new("ses"), SECRET), "pat") is None
        assert handles.parse(handles.make("pat", ids.new("ws"), ids.new("tok"), SECRET), "rt") is None

    def test_a_realm_is_not_read_as_a_workspace_nor_the_other_way_round(self) -> None:
        for tenant in (ids.new("ws"), person()):
            prefix, _, suffix = tenant.rpartition("_")
            confused = f"{'usr' if prefix == 'ws' else 'ws'}_{suffix}"
            text = handles.make("pat", tenant, ids.new("tok"), SECRET)
            body = text.rpartition("_")[0].replace(tenant, confused)
            assert handles.parse(checked(text.rpartition("_")[0]), "pat") is not None
            assert handles.parse(checked(body), "pat") is None

    @pytest.mark.parametrize(
        "text",
        ["", "clp_pat", "clp_pat_ws_x_y_z", "clp_sa_" + "a" * 100, "\n", "clp_pat_\u00df", "é" * 200, "a" * 100_000],
    )
    def test_what_is_no_handle_is_none(self, text: str) -> None:
        assert handles.parse(text, "pat") is None

    def test_nothing_may_stand_before_or_after_a_handle(self) -> None:
        text = handles.make("pat", ids.new("ws"), ids.new("tok"), SECRET)
        for around in (f" {text}", f"{text} ", f"{text}\n", f"x{text}", text.upper()):
            assert handles.parse(around, "pat") is None

    @pytest.mark.parametrize("size", [0, 16, 31, 33])
    def test_a_secret_of_another_size_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="A handle needs 32 random bytes"):
            handles.make("pat", ids.new("ws"), ids.new("tok"), bytes(size))

    def test_the_digest_is_of_the_whole_text(self) -> None:
        one, other = (handles.make("pat", tenant, "tok_x", SECRET) for tenant in ("ws_a", "ws_b"))
        assert handles.digest(one) != handles.digest(other)


class TestIssuedSecrets:
    tenant, entity, nonce = person(), ids.new("ses"), bytes(range(16))

    def handle(self, secret: bytes, tenant: str | None = None, entity: str | None = None) -> Handle:
        found = handles.parse(handles.make("rt", tenant or self.tenant, entity or self.entity, secret), "rt")
        assert found is not None
        return found

    def test_what_was_issued_is_recognised_by_the_holder_of_the_key_alone(self) -> None:
        handle = self.handle(handles.issued_secret(KEY, self.tenant, self.entity, self.nonce))
        assert handles.was_issued(KEY, handle)
        assert not handles.was_issued(OTHER_KEY, handle)

    def test_a_random_secret_was_never_issued(self) -> None:
        assert not any(handles.was_issued(KEY, self.handle(os.urandom(32))) for _ in range(100))

    def test_every_changed_byte_is_seen(self) -> None:
        secret = handles.issued_secret(KEY, self.tenant, self.entity, self.nonce)
        for at in range(32):
            changed = bytes(byte ^ (at == place) for place, byte in enumerate(secret))
            assert not handles.was_issued(KEY, self.handle(changed))

    def test_it_was_issued_for_one_session_of_one_person(self) -> None:
        secret = handles.issued_secret(KEY, self.tenant, self.entity, self.nonce)
        assert not handles.was_issued(KEY, self.handle(secret, tenant=person()))
        assert not handles.was_issued(KEY, self.handle(secret, entity=ids.new("ses")))

    @pytest.mark.parametrize("size", [0, 15, 17, 32])
    def test_a_nonce_of_another_size_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="An issued secret needs 16 random bytes"):
            handles.issued_secret(KEY, self.tenant, self.entity, bytes(size))


class TestAccessTokens:
    person, session, tenant = person(), ids.new("ses"), ids.new("ws")

    def make(self, **changed: Any) -> str:
        now = int(NOW.timestamp())
        good = {
            "iss": "causeloop/auth", "sub": self.person, "sid": self.session, "ten": self.tenant,
            "iat": now, "exp": now + 60,
        }  # fmt: skip
        claims = {name: value for name, value in {**good, **changed}.items() if value is not None}
        return jwt.encode(claims, KEY, algorithm="HS256", headers={"typ": "at+jwt"})

    def test_say_who_in_which_session_where_and_until_when(self) -> None:
        token = access.make(KEY, self.person, self.session, self.tenant, now=NOW, seconds=60)
        assert access.read(KEY, token, now=NOW) == AccessClaims(
            self.person, self.session, self.tenant, NOW + timedelta(seconds=60)
        )
        assert access.read(KEY, self.make(), now=NOW) is not None  # what the others below begin with
        assert claimed(token) == (self.tenant, self.person)  # what the gateway reads of it, without the key

    def test_are_good_until_the_second_they_expire_and_no_longer(self) -> None:
        token = access.make(KEY, self.person, self.session, self.tenant, now=NOW, seconds=60)
        assert access.read(KEY, token, now=NOW + timedelta(seconds=59.999999)) is not None
        assert access.read(KEY, token, now=NOW + timedelta(seconds=60)) is None

    def test_of_another_key_are_none(self) -> None:
        token = access.make(OTHER_KEY, self.person, self.session, self.tenant, now=NOW, seconds=60)
        assert access.read(KEY, token, now=NOW) is None

    def test_with_a_changed_claim_are_none(self) -> None:
        head, body, signature = access.make(KEY, self.person, self.session, self.tenant, now=NOW, seconds=60).split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        claims["ten"] = ids.new("ws")
        forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
        assert access.read(KEY, f"{head}.{forged}.{signature}", now=NOW) is None

    @pytest.mark.parametrize("typ", [None, "JWT", "svc+jwt", "at+JWT", ""])
    def test_of_another_type_are_none(self, typ: str | None) -> None:
        claims = jwt.decode(self.make(), options={"verify_signature": False})
        token = jwt.encode(claims, KEY, algorithm="HS256", headers={"typ": typ} if typ is not None else None)
        assert access.read(KEY, token, now=NOW) is None

    @pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
    @pytest.mark.filterwarnings("ignore:The HMAC key is:jwt.InsecureKeyLengthWarning")
    def test_of_another_algorithm_are_none(self, algorithm: str) -> None:
        claims = jwt.decode(self.make(), options={"verify_signature": False})
        key: Any = None if algorithm == "none" else KEY
        token = jwt.encode(claims, key, algorithm=algorithm, headers={"typ": "at+jwt"})
        assert access.read(KEY, token, now=NOW) is None

    @pytest.mark.parametrize(
        "changed",
        [
            *({name: None} for name in ("iss", "sub", "sid", "ten", "iat", "exp")),
            {"iss": "causeloop/gateway"},
            pytest.param({"sub": ids.new("ws")}, id="sub of a workspace"),
            {"sub": 7},
            pytest.param({"sid": ids.new("tok")}, id="sid of a token"),
            pytest.param({"ten": "usr_" + ids.new("ws").rpartition("_")[2]}, id="ten of an id that is no realm"),
            {"ten": "nowhere"},
            {"exp": "soon"},
            {"exp": 10**30},
        ],
        ids=str,
    )
    def test_with_a_claim_missing_or_wrong_are_none(self, changed: dict[str, Any]) -> None:
        assert access.read(KEY, self.make(**changed), now=NOW) is None

    @pytest.mark.parametrize(
        "text",
        [
            "", "a.b.c", "....", "eyJhbGciOiJIUzI1NiJ9", "\u00e9.\u00e9.\u00e9", "[].[].[]",
            base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.e30",
        ],
        ids=lambda text: f"{len(text)} {text[:4]}",
    )  # fmt: skip
    def test_that_are_no_token_are_none(self, text: str) -> None:
        """E11: whatever JSON a token is made of."""
        assert access.read(KEY, text, now=NOW) is None


CURRENT, PREVIOUS, OLDER = b"c" * 32, b"p" * 32, b"x" * 32


class TestJudge:
    @pytest.mark.parametrize(
        ("presented", "seconds", "verdict"),
        [
            (CURRENT, 0, Verdict.ROTATE),
            (CURRENT, 29 * 86_400, Verdict.ROTATE),
            (PREVIOUS, 0, Verdict.REPEAT),
            (PREVIOUS, 29.999, Verdict.REPEAT),
            (PREVIOUS, 30, Verdict.REPEAT),
            (PREVIOUS, 30.000001, Verdict.REUSE),
            (PREVIOUS, 3600, Verdict.REUSE),
            (OLDER, 0, Verdict.REUSE),
            (OLDER, 31, Verdict.REUSE),
            (CURRENT, 30 * 86_400 - 0.000001, Verdict.ROTATE),
            (CURRENT, 30 * 86_400, Verdict.GONE),
            (PREVIOUS, 30 * 86_400, Verdict.GONE),
            (OLDER, 30 * 86_400, Verdict.GONE),
        ],
    )
    def test_a_token_by_its_place_in_the_family_and_the_time(
        self, presented: bytes, seconds: float, verdict: Verdict
    ) -> None:
        family = Family((CURRENT,), (PREVIOUS,), NOW, NOW + timedelta(days=30), ended=False)
        assert rotation.judge(family, presented, NOW + timedelta(seconds=seconds)) is verdict

    @pytest.mark.parametrize("presented", [CURRENT, PREVIOUS, OLDER])
    def test_of_an_ended_session_all_are_gone(self, presented: bytes) -> None:
        family = Family((CURRENT,), (PREVIOUS,), NOW, NOW + timedelta(days=30), ended=True)
        assert rotation.judge(family, presented, NOW) is Verdict.GONE

    @pytest.mark.parametrize(("presented", "verdict"), [(CURRENT, Verdict.ROTATE), (OLDER, Verdict.REUSE)])
    def test_a_family_that_never_rotated_has_no_predecessor(self, presented: bytes, verdict: Verdict) -> None:
        family = Family((CURRENT,), (), NOW, NOW + timedelta(days=30), ended=False)
        assert rotation.judge(family, presented, NOW) is verdict

    def test_a_second_successor_lives_beside_the_first(self) -> None:
        """E14: what two tabs got at once may both be used within the grace, again and again."""
        family = Family((CURRENT,), (PREVIOUS,), NOW, NOW + timedelta(days=30), ended=False)
        family = rotation.rotate(family, PREVIOUS, b"tab 2", NOW + timedelta(seconds=1))
        for number in range(3):
            for tab in family.newest:
                assert rotation.judge(family, tab, NOW + timedelta(seconds=number)) is Verdict.ROTATE
                family = rotation.rotate(family, tab, tab + b"+", NOW + timedelta(seconds=number))
        assert set(family.newest) == {CURRENT + b"+++", b"tab 2+++"}
        assert family.rotated_at == NOW  # nobody makes the grace longer

    def test_of_several_successors_the_first_that_is_used_after_the_grace_remains(self) -> None:
        family = Family((CURRENT, b"tab 2"), (PREVIOUS,), NOW, NOW + timedelta(days=30), ended=False)
        later = NOW + timedelta(minutes=15)
        family = rotation.rotate(family, b"tab 2", b"tab 2+", later)
        assert family.newest == (b"tab 2+",)
        assert rotation.judge(family, CURRENT, later + timedelta(seconds=30)) is Verdict.REPEAT
        assert rotation.judge(family, CURRENT, later + timedelta(seconds=31)) is Verdict.REUSE
        assert rotation.judge(family, PREVIOUS, later) is Verdict.REUSE

    def test_of_very_many_successors_the_last_live(self) -> None:
        family = Family((CURRENT,), (PREVIOUS,), NOW, NOW + timedelta(days=30), ended=False)
        for number in range(100):
            family = rotation.rotate(family, PREVIOUS, str(number).encode(), NOW)
        assert len(family.newest) == rotation.MOST_SUCCESSORS
        assert family.newest[0] == b"99"

    def test_the_grace_is_thirty_seconds(self) -> None:
        assert timedelta(seconds=30) == GRACE
