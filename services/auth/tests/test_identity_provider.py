"""Session tokens of the identity provider, checked against a real issuer over HTTP."""

import asyncio
import base64
import hmac
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from causeloop_auth.adapters.identity_provider import JWKS_PATH, IdentityProvider
from causeloop_auth.service import Subject
from causeloop_common.errors import InvalidGrant, Unavailable
from causeloop_common.outbound import Client, Limits
from causeloop_dev.authority import Authority

if TYPE_CHECKING:
    from conftest import Door

PARTY = "http://app.causeloop.test"
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


async def beside(provider: IdentityProvider) -> None:
    """Wait for the fetch that runs beside, if there is one."""
    if provider._fetching is not None:
        await asyncio.wait([provider._fetching])


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
        await beside(provider)
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
        await provider.verify(old)  # serves at once, and has the keys fetched
        await beside(provider)
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
            await beside(provider)
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
        await beside(provider)
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


QUICK = Limits(total=0.4, idle=0.3, largest=256 * 1024)


def stranger(issuer: "Door", kid: str) -> str:
    """A token whose key nobody publishes."""
    return jwt.encode(issuer.claims(), issuer.key.private, algorithm="RS256", headers={"kid": kid})


class TestSlowProvider:
    @pytest.fixture
    async def quick(
        self, make_provider: Callable[..., IdentityProvider], time: Time
    ) -> AsyncIterator[IdentityProvider]:
        made = make_provider(time, limits=QUICK)
        yield made
        await made.close()

    async def test_delays_nobody_whose_key_is_known_however_old(
        self, issuer: "Door", quick: IdentityProvider, time: Time
    ) -> None:
        await quick.verify(issuer.sign())
        issuer.drips = True
        time.now += 3601
        began = monotonic()
        for _ in range(20):
            await quick.verify(issuer.sign())
        assert monotonic() - began < 0.2
        await beside(quick)
        assert monotonic() - began < 1
        assert issuer.fetches == 2

        issuer.drips = False  # it is well again, and used within the ten seconds
        time.now += 10
        await quick.verify(issuer.sign())
        await beside(quick)
        assert quick._failure is None

    async def test_is_waited_for_by_unknown_keys_alone_and_once(
        self, issuer: "Door", quick: IdentityProvider, time: Time
    ) -> None:
        await quick.verify(issuer.sign())
        time.now += 10
        issuer.open.clear()
        waiting = [asyncio.create_task(quick.verify(stranger(issuer, f"unknown {n}"))) for n in range(30)]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(quick.verify(issuer.sign()), 0.2)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in answers)
        assert issuer.fetches == 2

    async def test_leaves_unknown_whether_a_key_is_good(
        self, issuer: "Door", quick: IdentityProvider, time: Time
    ) -> None:
        """A session is not refused for a key that the provider may have published meanwhile."""
        await quick.verify(issuer.sign())
        issuer.rotate()
        issuer.instead = (503, b"")
        time.now += 10
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot be fetched"):
                await quick.verify(issuer.sign())
        assert issuer.fetches == 2
        issuer.instead = None
        time.now += 10
        await quick.verify(issuer.sign())

    async def test_is_given_up_when_auth_stops(self, issuer: "Door", quick: IdentityProvider) -> None:
        issuer.open.clear()
        waiting = asyncio.create_task(quick.verify(issuer.sign()))
        await asyncio.sleep(0.05)
        await quick.close()
        with pytest.raises(InvalidGrant):
            await waiting


class TestUnknownKeys:
    async def test_that_a_fetch_did_not_find_cause_no_other_for_half_a_minute(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        await provider.verify(issuer.sign())
        for passed, fetches in ((10, 2), (10, 2), (10, 2), (10, 3)):
            time.now += passed
            with pytest.raises(InvalidGrant, match="does not publish"):
                await provider.verify(stranger(issuer, "unknown"))
            assert issuer.fetches == fetches

    async def test_are_found_as_soon_as_any_fetch_finds_them(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        await provider.verify(issuer.sign())
        old = issuer.key
        issuer.rotate()
        new = issuer.issuer._keys.pop(0)
        token = jwt.encode(issuer.claims(), new.private, algorithm="RS256", headers={"kid": new.kid})
        time.now += 10
        with pytest.raises(InvalidGrant, match="does not publish"):
            await provider.verify(token)
        issuer.issuer._keys.insert(0, new)
        time.now += 10
        with pytest.raises(InvalidGrant, match="does not publish"):
            await provider.verify(stranger(issuer, "another"))
        await provider.verify(token)
        assert issuer.issuer._keys[1] is old


class TestBadEntries:
    @pytest.mark.parametrize(
        ("entry", "line"),
        [
            (None, "number 1 is passed over: it is no object"),
            ("text", "number 1 is passed over: it is no object"),
            ({"kty": "RSA", "kid": 7, "n": "AQAB", "e": "AQAB"}, "number 1 is passed over: it has a 'kid' that is no"),
            ({"kty": "RSA", "kid": "bad", "n": "AQAB"}, "'bad' is passed over: it has no 'n' or no 'e'"),
            ({"kty": "RSA", "kid": "bad", "n": 7, "e": "AQAB"}, "'bad' is passed over: it has no 'n' or no 'e'"),
            ({"kty": "RSA", "kid": "bad", "n": "!", "e": "AQAB"}, "'bad' is passed over: it is no RSA key"),
            ({"kty": "RSA", "kid": "bad", "n": "\u00e9", "e": "AQAB"}, "'bad' is passed over: it is no RSA key"),
            ({"kty": "RSA", "kid": "bad", "n": "AQAB", "e": "AQAB"}, "'bad' is passed over: it "),
            ({"kty": "RSA", "kid": "bad", "n": "A" * 4000, "e": "AQAB"}, "'bad' is passed over: it has no 'n'"),
            ("e is 1", "'bad' is passed over: it is no RSA key"),
            ("1024 bits", "'bad' is passed over: it has fewer than 2048 bits"),
            ("private", "'bad' is passed over: it shows its private half"),
        ],
        ids=str,
    )
    async def test_are_passed_over_and_logged_once_while_the_good_ones_serve(
        self,
        issuer: "Door",
        provider: IdentityProvider,
        time: Time,
        caplog: pytest.LogCaptureFixture,
        entry: Any,
        line: str,
    ) -> None:
        if entry == "e is 1":
            entry = {**issuer.key.jwk, "kid": "bad", "e": "AQ"}
        elif entry == "1024 bits":
            small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  to be refused
            entry = {**RSAAlgorithm.to_jwk(small.public_key(), as_dict=True), "kid": "bad"}
        elif entry == "private":
            entry = {**RSAAlgorithm.to_jwk(issuer.key.private, as_dict=True), "kid": "bad"}
        issuer.instead = (200, json.dumps({"keys": [entry, issuer.key.jwk]}).encode())
        for _ in range(3):
            await provider.verify(issuer.sign())
            with pytest.raises(InvalidGrant, match="does not publish"):
                await provider.verify(stranger(issuer, "bad"))
            time.now += 3601
            await beside(provider)
        assert issuer.fetches > 1
        [logged] = [record.getMessage() for record in caplog.records]
        assert line in logged

    async def test_do_not_take_the_good_ones_away(self, issuer: "Door", provider: IdentityProvider, time: Time) -> None:
        """Not one good key left is a document to be doubted, as any other that cannot be read."""
        await provider.verify(issuer.sign())
        for document in (b'{"keys": []}', b'{"keys": [null]}'):
            issuer.instead = (200, document)
            time.now += 3601
            await provider.verify(issuer.sign())
            await beside(provider)
        await provider.verify(issuer.sign())

    async def test_that_are_deep_are_no_key_set(self, issuer: "Door", provider: IdentityProvider) -> None:
        issuer.instead = (200, b'{"keys": ' + b"[" * 200_000)
        with pytest.raises(Unavailable):
            await provider.verify(issuer.sign())

    async def test_a_bomb_is_not_unpacked(self, issuer: "Door", provider: IdentityProvider) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
        assert len(bomb) < 256 * 1024
        issuer.instead, issuer.headers = (200, bomb), [(b"content-encoding", b"gzip")]
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        try:
            with pytest.raises(Unavailable):
                await provider.verify(issuer.sign())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - before < 5_000_000
        assert "more than the 262144 bytes" in str(provider._failure)


class TestKeep:
    async def test_fetches_at_once_and_every_hour(self, issuer: "Door", provider: IdentityProvider, time: Time) -> None:
        keeping = asyncio.create_task(provider.keep())
        await asyncio.sleep(0)
        await beside(provider)
        keeping.cancel()
        await asyncio.wait([keeping])
        assert (issuer.fetches, provider._due()) == (1, 3600)

    async def test_fetches_sooner_again_while_that_fails(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        issuer.instead = (503, b"")
        await provider._fetched()
        assert provider._due() == 0.5  # there is not one key
        with pytest.raises(Unavailable, match=r"^CLERK_JWKS_URL cannot be fetched\."):
            await provider.check()
        issuer.instead = None
        time.now += 1
        await provider._fetched()
        issuer.instead = (503, b"")
        time.now += 3600
        assert provider._due() == 0
        await provider._fetched()
        assert provider._due() == 10
        await provider.check()  # the keys of before serve

    async def test_a_failure_is_one_line_a_minute_and_so_is_its_end(
        self, issuer: "Door", provider: IdentityProvider, time: Time, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", logger="causeloop_auth")
        issuer.instead = (503, b"")
        for _ in range(100):
            time.now += 1
            await provider._fetched()
        issuer.instead = None
        time.now += 1
        await provider._fetched()
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("causeloop_auth")]
        assert lines == [
            "CLERK_JWKS_URL cannot be fetched. The answer is 503: check the address.",
            "CLERK_JWKS_URL cannot be fetched. The answer is 503: check the address.",
            "the identity provider's keys can be fetched again",
        ]


class TestExamine:
    @pytest.mark.parametrize(
        ("instead", "cause"),
        [
            ((404, b""), "The answer is 404: check the address."),
            ((302, b""), "The answer is 302 and redirects are not followed: check the address."),
            ((200, b"<html>"), "The document at CLERK_JWKS_URL is no JSON object with 'keys': check the address."),
            ((200, b'{"keys": 7}'), "The document at CLERK_JWKS_URL has 'keys' that are no list: check the address."),
            ((200, b'{"keys": []}'), "has no RSA key that can be used among 0 passed over: check the address."),
            ((200, b" " * 300_000), "127.0.0.1 answers with more than the 262144 bytes that are accepted here."),
        ],
    )
    async def test_names_what_is_wrong_with_the_answer(
        self, issuer: "Door", provider: IdentityProvider, instead: tuple[int, bytes], cause: str
    ) -> None:
        issuer.instead = instead
        with pytest.raises(Unavailable) as failed:
            await provider.examine()
        assert failed.value.detail.endswith(cause)
        assert "CLERK_JWKS_URL" in failed.value.detail

    async def test_holds_when_the_keys_come(self, provider: IdentityProvider) -> None:
        await provider.examine()

    async def test_names_the_setting_for_a_private_authority(
        self, issuer: "Door", way_out: Callable[..., Client], tmp_path: Path
    ) -> None:
        authority = Authority(tmp_path)
        context = authority.server("localhost")
        keys = json.dumps({"keys": [issuer.key.jwk]}).encode()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + keys)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
            url = f"https://localhost:{server.sockets[0].getsockname()[1]}{JWKS_PATH}"
            stranger = IdentityProvider(url, way_out(), authorized_parties=[PARTY])
            with pytest.raises(Unavailable) as failed:
                await stranger.examine()
            assert failed.value.detail == (
                "CLERK_JWKS_URL cannot be fetched. The certificate of localhost is not trusted (unable to get local "
                "issuer certificate): if a private authority made it, set OUTBOUND_CA_FILE to the file with that "
                "authority's certificate."
            )
            trusting = way_out(OUTBOUND_CA_FILE=str(authority.ca_file))
            await IdentityProvider(url, trusting, authorized_parties=[PARTY]).examine()
