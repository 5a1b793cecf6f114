"""Session tokens of the identity provider, checked against a real issuer over HTTP."""

import base64
import hmac
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from causeloop_auth.adapters.identity_provider import IdentityProvider
from causeloop_auth.service import Subject
from causeloop_common.errors import InvalidGrant
from tests.support.provider import Time

if TYPE_CHECKING:
    from conftest import Door

PARTY = "http://app.causeloop.test"
AGAIN = r"Sign in again\.$"


def confused(issuer: "Door", algorithm: str) -> str:
    """A token signed with the published key as if it were a shared secret; PyJWT itself would not sign so."""
    public = issuer.key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": algorithm, "typ": "JWT", "kid": issuer.key.kid}, issuer.claims())
    )
    signature = base64.urlsafe_b64encode(hmac.digest(public, head + b"." + body, "sha256")).rstrip(b"=")
    return b".".join((head, body, signature)).decode()


class TestVerify:
    async def test_a_session_that_the_issuer_opened_is_its_subject_s(
        self, issuer: "Door", provider: IdentityProvider
    ) -> None:
        async with httpx.AsyncClient(base_url=issuer.url, trust_env=False) as client:
            opened = (await client.post("/v1/sessions", json={"subject": "user_alice"})).json()
        assert await provider.verify(opened["token"]) == Subject(issuer.url, "user_alice")

    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"azp": "http://evil.test"}, "was made for another application"),
            ({"azp": None}, "is not valid for this installation"),
            ({"iss": "http://evil.test"}, "is not valid for this installation"),
            ({"iss": None}, "is not valid for this installation"),
            ({"exp": 1_000_000_000}, "has expired"),
            ({"exp": None}, "is not valid for this installation"),
            ({"nbf": 4_000_000_000}, "begins in the future, by the clock of this installation"),
            ({"nbf": None}, "is not valid for this installation"),
            ({"iat": None}, "is not valid for this installation"),
            ({"sid": None}, "is not valid for this installation"),
            ({"sid": ""}, "is not a session's"),
            ({"sid": 7}, "is not a session's"),
            ({"sid": "s" * 257}, "is not a session's"),
            ({"subject": None}, "is not valid for this installation"),
            ({"subject": ""}, "is not a session's"),
            ({"subject": "s" * 257}, "is not a session's"),
        ],
        ids=str,
    )
    async def test_a_claim_missing_or_wrong_is_refused_with_its_reason(
        self, issuer: "Door", provider: IdentityProvider, changed: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(InvalidGrant, match=rf"^The subject token {why}\. {AGAIN}"):
            await provider.verify(issuer.sign(**changed))

    @pytest.mark.parametrize(
        ("header", "why"),
        [
            ({"typ": "at+jwt"}, "is of another kind"),
            ({"typ": "logout+jwt"}, "is of another kind"),
            ({"typ": "secevent+jwt"}, "is of another kind"),
            ({"typ": ["JWT"]}, "is of another kind"),
            ({"cat": "cl_B7d4PD222AAA"}, "is of another kind"),
            ({"cat": "cl_B7d4PD333AAA"}, "is of another kind"),
            ({"cat": None}, "is of another kind"),
            ({"cat": ["cl_B7d4PD111AAA"]}, "is of another kind"),
        ],
        ids=str,
    )
    async def test_a_token_of_another_kind_is_refused(
        self, issuer: "Door", provider: IdentityProvider, header: dict[str, Any], why: str
    ) -> None:
        """E10: a provider signs templates, machines' and OAuth's tokens with the same keys; none starts a session."""
        token = jwt.encode(
            issuer.claims(), issuer.key.private, algorithm="RS256", headers={"kid": issuer.key.kid, **header}
        )
        with pytest.raises(InvalidGrant, match=f"{why}.* {AGAIN}"):
            await provider.verify(token)

    @pytest.mark.parametrize(
        ("claims", "why"),
        [
            ({"aud": "https://another.test"}, "was made for another audience"),
            ({"aud": ["https://another.test"]}, "was made for another audience"),
            ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, "is of another kind"),
            ({"nonce": "n"}, "is of another kind"),
            ({"at_hash": "h"}, "is of another kind"),
            ({"c_hash": "h"}, "is of another kind"),
            ({"client_id": "c", "scope": "openid"}, "is of another kind"),
            ({"cnf": {"jkt": "k"}}, "is of another kind"),
        ],
        ids=str,
    )
    async def test_a_token_of_another_kind_is_refused_by_its_claims_too(
        self, issuer: "Door", provider: IdentityProvider, claims: dict[str, Any], why: str
    ) -> None:
        """E10: one for another audience, a logout, an identity, an OAuth access, one that is bound to a key."""
        with pytest.raises(InvalidGrant, match=f"{why}.* {AGAIN}"):
            await provider.verify(issuer.sign(**claims))

    @pytest.mark.parametrize(
        "header", [{}, {"cat": "cl_B7d4PD111AAA"}, {"typ": "JWT", "cat": "cl_B7d4PD111AAA"}, {"typ": "jwt"}], ids=str
    )
    async def test_a_session_s_own_kind_is_taken(
        self, issuer: "Door", provider: IdentityProvider, header: dict[str, Any]
    ) -> None:
        headers = {"kid": issuer.key.kid, **header}
        await provider.verify(jwt.encode(issuer.claims(), issuer.key.private, algorithm="RS256", headers=headers))

    @pytest.mark.parametrize(
        ("changed", "why"),
        [
            ({"sts": "pending"}, "is of a session that is not complete"),
            ({"sts": None, "act": {"sub": "user_admin"}}, "acts as another person"),
            ({"act": "user_admin"}, "acts as another person"),
            ({"exp": 4_000_000_000}, "lives longer than 24 hours"),
        ],
        ids=str,
    )
    async def test_a_session_that_is_no_person_s_own_is_refused(
        self, issuer: "Door", provider: IdentityProvider, changed: dict[str, Any], why: str
    ) -> None:
        """E10: a pending session, an impersonation, and one for ten years."""
        with pytest.raises(InvalidGrant, match=f"{why}.* {AGAIN}"):
            await provider.verify(issuer.sign(**changed))
        await provider.verify(issuer.sign(sts="active"))

    @pytest.mark.parametrize(
        "changed",
        [
            {"azp": [PARTY]},
            {"azp": {PARTY: 1}},
            {"azp": 7},
            {"subject": "\ud800"},
            {"sid": "a\udfff"},
            {"subject": ["user_1"]},
            {"subject": {"a": 1}},
            {"exp": float("inf")},
            {"exp": float("nan")},
            {"exp": [1]},
            {"exp": {}},
            {"iat": float("inf")},
            {"iat": [1]},
            {"nbf": {"a": 1}},
            {"nbf": float("-inf")},
            {"iss": ["x"]},
            {"iss": {"a": 1}},
            {"aud": [[1]]},
        ],
        ids=str,
    )
    async def test_a_claim_of_another_type_is_refused(
        self, issuer: "Door", provider: IdentityProvider, changed: dict[str, Any]
    ) -> None:
        """E11: whatever JSON a claim is, the token is refused, and nothing fails."""
        signed = json.dumps({**issuer.claims(), **changed, "sub": changed.get("subject", "user_1")})
        token = jwt.api_jws.encode(
            signed.encode(), issuer.key.private, algorithm="RS256", headers={"kid": issuer.key.kid, "typ": "JWT"}
        )
        with pytest.raises(InvalidGrant, match=AGAIN):
            await provider.verify(token)

    @pytest.mark.parametrize(
        "header",
        [
            '{"alg":"RS256","kid":7}', '{"alg":"RS256","kid":["a"]}', '{"alg":"RS256","kid":"\\ud800"}', "[]", "7",
            "null", '{"alg":["RS256"]}', '{"alg":"RS256","crit":["b64"],"b64":false}', "[" * 5000,
            '{"alg":' + "[" * 2000,
        ],
    )  # fmt: skip
    async def test_a_header_of_another_type_is_refused(self, provider: IdentityProvider, header: str) -> None:
        """E11: so with its header, which nobody signed."""
        head = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()
        with pytest.raises(InvalidGrant, match=AGAIN):
            await provider.verify(f"{head}.e30.e30")

    async def test_five_seconds_of_another_clock_are_forgiven_and_no_more(
        self, issuer: "Door", provider: IdentityProvider
    ) -> None:
        now = issuer.claims()["iat"]
        await provider.verify(issuer.sign(exp=now - 3))
        await provider.verify(issuer.sign(nbf=now + 4))
        with pytest.raises(InvalidGrant, match="has expired"):
            await provider.verify(issuer.sign(exp=now - 6))
        with pytest.raises(InvalidGrant, match="begins in the future"):
            await provider.verify(issuer.sign(nbf=now + 9))

    @pytest.mark.parametrize("claim", ["nbf", "iat"])
    async def test_a_clock_that_is_apart_is_named(
        self, issuer: "Door", provider: IdentityProvider, caplog: pytest.LogCaptureFixture, claim: str
    ) -> None:
        """E34: the provider's clock was some seconds ahead, and each sign-in was refused without a reason."""
        with pytest.raises(InvalidGrant, match="begins in the future, by the clock of this installation"):
            await provider.verify(issuer.sign(**{claim: issuer.claims()["iat"] + 6 + 3}))

        assert [one for one in caplog.messages if "this host's clock or the identity provider's is wrong" in one]

    async def test_only_rs256_is_read_whatever_else_the_key_could_sign(
        self, issuer: "Door", provider: IdentityProvider
    ) -> None:
        kid, unsigned = {"kid": issuer.key.kid}, cast("Any", None)
        for token in (
            jwt.encode(issuer.claims(), unsigned, algorithm="none", headers=kid),
            confused(issuer, "HS256"),
            jwt.encode(issuer.claims(), issuer.key.private, algorithm="RS512", headers=kid),
            jwt.encode(issuer.claims(), issuer.key.private, algorithm="PS256", headers=kid),
        ):
            with pytest.raises(InvalidGrant, match=f"is not signed with RS256. {AGAIN}"):
                await provider.verify(token)
        assert issuer.fetches == 0

    async def test_a_header_that_lies_of_its_algorithm_is_refused(
        self, issuer: "Door", provider: IdentityProvider
    ) -> None:
        with pytest.raises(InvalidGrant, match="is not valid for this installation"):
            await provider.verify(confused(issuer, "RS256"))

    async def test_a_key_that_the_token_brings_along_is_not_used(
        self, issuer: "Door", provider: IdentityProvider
    ) -> None:
        own = type(issuer.key)()
        brought = {"kid": issuer.key.kid, "jwk": own.jwk, "jku": "http://evil.test/jwks.json"}
        with pytest.raises(InvalidGrant, match="is not valid for this installation"):
            await provider.verify(jwt.encode(issuer.claims(), own.private, algorithm="RS256", headers=brought))

    @pytest.mark.parametrize("text", ["", "a", "a.b.c", "clp_pat_x", "\u00e9", "a" * 60_000])
    async def test_what_is_no_token_is_refused(self, provider: IdentityProvider, text: str) -> None:
        with pytest.raises(InvalidGrant, match=f"is not a JWT. {AGAIN}"):
            await provider.verify(text)

    async def test_an_audience_is_checked_where_one_is_expected(
        self, issuer: "Door", make_provider: Callable[..., IdentityProvider], time: Time
    ) -> None:
        picky = make_provider(time, audience="causeloop")
        try:
            await picky.verify(issuer.sign(aud="causeloop"))
            for audience, why in (("another", "was made for another audience"), (None, "is not valid for this inst")):
                with pytest.raises(InvalidGrant, match=why):
                    await picky.verify(issuer.sign(aud=audience))
        finally:
            await picky.close()
