"""The identity provider's keys: when they are fetched, how long they serve, and who waits."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import TYPE_CHECKING

import jwt
import pytest

from causeloop_auth.adapters.identity_provider import IdentityProvider
from causeloop_common.errors import InvalidGrant, Unavailable
from causeloop_common.outbound import Limits
from tests.support.provider import Time, beside, stranger

if TYPE_CHECKING:
    from conftest import Door

QUICK = Limits(total=0.4, idle=0.3, largest=256 * 1024)
PARTY = "http://app.causeloop.test"
AGAIN = r"Sign in again\.$"


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
        shown = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in shown)
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

    async def test_that_were_never_fetched_cannot_be_distinguished_from_an_outage_and_nobody_is_refused_for_it(
        self, issuer: "Door", provider: IdentityProvider, time: Time
    ) -> None:
        issuer.instead = (503, b"")
        for _ in range(3):  # asked once: those who come within the second get its outcome at once
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
        """E1: stale keys serve at once, and the fetch beside them has one deadline."""
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
