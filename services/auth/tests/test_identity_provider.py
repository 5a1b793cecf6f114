"""Session tokens of the identity provider, checked against a real issuer over HTTP."""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from causeloop_auth.adapters.identity_provider import IdentityProvider
from causeloop_auth.service import Subject
from causeloop_common.errors import InvalidGrant, Unavailable

if TYPE_CHECKING:
    from conftest import Door

AGAIN = r"Sign in again\.$"


class Time:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def provider(make_provider: Callable[..., IdentityProvider], time: Time) -> AsyncIterator[IdentityProvider]:
    made = make_provider(time)
    yield made
    await made.close()


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
            ({"nbf": 4_000_000_000}, "is not valid for this installation"),
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

    async def test_five_seconds_of_another_clock_are_forgiven_and_no_more(
        self, issuer: "Door", provider: IdentityProvider
    ) -> None:
        now = issuer.claims()["iat"]
        await provider.verify(issuer.sign(exp=now - 3))
        await provider.verify(issuer.sign(nbf=now + 4))
        with pytest.raises(InvalidGrant, match="has expired"):
            await provider.verify(issuer.sign(exp=now - 6))
        with pytest.raises(InvalidGrant, match="is not valid for this installation"):
            await provider.verify(issuer.sign(nbf=now + 9))

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
            for audience in ("another", None):
                with pytest.raises(InvalidGrant, match="is not valid for this installation"):
                    await picky.verify(issuer.sign(aud=audience))
        finally:
            await picky.close()


class TestKeys:
    async def test_are_fetched_once_and_kept_for_an_hour(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        for _ in range(3):
            await provider.verify(issuer.sign())
        time.now += 3599
        await provider.verify(issuer.sign())
        assert issuer.fetches == 1
        time.now += 2
        await provider.verify(issuer.sign())
        assert issuer.fetches == 2

    async def test_many_askers_share_one_fetch(self, issuer: "Door", provider: IdentityProvider) -> None:
        issuer.open.clear()
        asking = [asyncio.create_task(provider.verify(issuer.sign(f"user_{n}"))) for n in range(20)]
        await asyncio.sleep(0)  # all have asked
        issuer.open.set()
        assert len(set(await asyncio.gather(*asking))) == 20
        assert issuer.fetches == 1

    async def test_many_askers_share_one_failure_too(self, issuer: "Door", provider: IdentityProvider) -> None:
        issuer.instead = (500, b"")
        issuer.open.clear()
        asking = [asyncio.create_task(provider.verify(issuer.sign(f"user_{n}"))) for n in range(20)]
        await asyncio.sleep(0)
        issuer.open.set()
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in told)
        assert issuer.fetches == 1

    async def test_an_unknown_one_refetches_at_a_bounded_rate(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        await provider.verify(issuer.sign())
        stranger = jwt.encode(issuer.claims(), issuer.key.private, algorithm="RS256", headers={"kid": "unknown"})
        for _ in range(50):
            with pytest.raises(InvalidGrant, match=f"with a key that the identity provider does not publish. {AGAIN}"):
                await provider.verify(stranger)
        assert issuer.fetches == 1  # the first fetch was a moment ago
        time.now += 10
        for _ in range(50):
            with pytest.raises(InvalidGrant, match="does not publish"):
                await provider.verify(stranger)
        assert issuer.fetches == 2

    async def test_without_a_name_are_not_guessed(self, issuer: "Door", provider: IdentityProvider) -> None:
        with pytest.raises(InvalidGrant, match="does not publish"):
            await provider.verify(jwt.encode(issuer.claims(), issuer.key.private, algorithm="RS256"))

    async def test_may_be_rotated_while_older_tokens_stay_good(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        old = issuer.sign()
        await provider.verify(old)
        issuer.rotate()
        time.now += 10
        await provider.verify(issuer.sign())
        await provider.verify(old)
        assert issuer.fetches == 2

    async def test_that_are_no_longer_published_are_no_longer_good(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        old = issuer.sign()
        await provider.verify(old)
        issuer.rotate()
        del issuer.issuer._keys[1:]
        time.now += 3601
        with pytest.raises(InvalidGrant, match="does not publish"):
            await provider.verify(old)

    async def test_serve_on_while_the_provider_is_down(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        await provider.verify(issuer.sign())
        issuer.instead = (503, b"")
        for _ in range(3):
            time.now += 3601
            await provider.verify(issuer.sign())
            await provider.verify(issuer.sign())
        assert issuer.fetches == 4  # an attempt each time, never one for each token

    async def test_that_were_never_fetched_cannot_be_told_from_an_outage_and_nobody_is_refused_for_it(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        issuer.instead = (503, b"")
        for _ in range(3):  # asked once: whoever comes within the second hears at once what came of it
            with pytest.raises(Unavailable, match=r"The identity provider's keys cannot be fetched\. Try again\."):
                await provider.verify(issuer.sign())
        assert issuer.fetches == 1
        issuer.instead = None
        time.now += 1
        await provider.verify(issuer.sign())

    @pytest.mark.parametrize(
        "document",
        [
            b"<html>",
            b"[]",
            b"{}",
            b'{"keys": 7}',
            b'{"keys": "abc"}',
            b'{"keys": [7]}',
            b'{"keys": [{"kty": "RSA", "kid": "a", "n": "!", "e": "AQAB"}]}',
            b" " * 300_000,
        ],
        ids=lambda document: str(document[:20]),
    )
    async def test_in_a_document_that_is_none_change_nothing(
        self, issuer: "Door", provider: IdentityProvider, time: Time, document: bytes
    ) -> None:
        await provider.verify(issuer.sign())
        issuer.instead = (200, document)
        time.now += 3601
        await provider.verify(issuer.sign())
        assert issuer.fetches == 2

    async def test_of_other_kinds_are_passed_over(self, issuer: "Door", provider: IdentityProvider) -> None:
        keys = [{"kty": "EC", "kid": "ec"}, {"kty": "RSA"}, issuer.key.jwk]
        issuer.instead = (200, json.dumps({"keys": keys}).encode())
        await provider.verify(issuer.sign())

    async def test_are_not_fetched_from_where_the_provider_redirects_to(
        self, issuer: "Door", provider: IdentityProvider
    ) -> None:
        issuer.instead = (302, b"")
        with pytest.raises(Unavailable, match="cannot be fetched"):
            await provider.verify(issuer.sign())
