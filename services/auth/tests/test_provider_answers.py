"""Answers of the identity provider that are not, or not all, good keys."""

import asyncio
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from causeloop_auth.adapters.identity_provider import JWKS_PATH, IdentityProvider
from causeloop_common.errors import InvalidGrant, Unavailable
from causeloop_common.outbound import Client
from causeloop_dev.authority import Authority
from tests.support.provider import Time, beside, stranger

if TYPE_CHECKING:
    from conftest import Door

PARTY = "http://app.causeloop.test"
AGAIN = r"Sign in again\.$"


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
            ("n is even", "'bad' is passed over: it is no RSA key"),
            ("1024 bits", "'bad' is passed over: it has fewer than 2048 bits"),
            ("private", "'bad' is passed over: it shows its private half"),
            ({"use": "enc"}, "'bad' is passed over: it is not for signatures with RS256"),
            ({"use": ["sig"]}, "'bad' is passed over: it is not for signatures with RS256"),
            ({"alg": "RSA-OAEP"}, "'bad' is passed over: it is not for signatures with RS256"),
            ({"alg": "PS256"}, "'bad' is passed over: it is not for signatures with RS256"),
            ({"key_ops": ["encrypt"]}, "'bad' is passed over: it is not for verifying"),
            ({"key_ops": []}, "'bad' is passed over: it is not for verifying"),
            ({"key_ops": 7}, "'bad' is passed over: it is not for verifying"),
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
        """E8, E9: an entry that is no good key costs no other, and is logged once by its `kid`."""
        if isinstance(entry, dict) and "kty" not in entry:
            entry = {**issuer.key.jwk, "kid": "bad", **entry}
        elif entry == "e is 1":
            entry = {**issuer.key.jwk, "kid": "bad", "e": "AQ"}
        elif entry == "n is even":
            entry = {**issuer.key.jwk, "kid": "bad", "n": f"{issuer.key.jwk['n'][:-1]}A"}
        elif entry == "1024 bits":
            small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  to be refused
            entry = {**RSAAlgorithm.to_jwk(small.public_key(), as_dict=True), "kid": "bad"}
        elif entry == "private":
            entry = {**RSAAlgorithm.to_jwk(type(issuer.key)().private, as_dict=True), "kid": "bad"}
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

    @pytest.mark.parametrize("part", ["d", "p", "q", "dp", "dq", "qi"])
    @pytest.mark.parametrize("where", ["itself", "another kid", "no kid", "the same kid"])
    async def test_a_key_whose_private_half_is_shown_anywhere_is_passed_over(
        self, issuer: "Door", provider: IdentityProvider, caplog: pytest.LogCaptureFixture, part: str, where: str
    ) -> None:
        """E9: one part of it is enough, and it is the same key under whatever `kid` it stands."""
        private = RSAAlgorithm.to_jwk(issuer.key.private, as_dict=True)[part]
        showing = {**issuer.key.jwk, part: private, "kid": "other" if where == "another kid" else issuer.key.kid}
        if where == "no kid":
            del showing["kid"]
        third = type(issuer.key)()
        entries = [showing] if where == "itself" else [issuer.key.jwk, showing]
        issuer.instead = (200, json.dumps({"keys": [*entries, third.jwk]}).encode())
        with pytest.raises(InvalidGrant, match="does not publish"):
            await provider.verify(issuer.sign())
        good = jwt.encode(issuer.claims(), third.private, algorithm="RS256", headers={"kid": third.kid})
        await provider.verify(good)
        assert "private half" in caplog.records[0].getMessage()

    @pytest.mark.parametrize("is_first", [True, False])
    async def test_two_keys_under_one_name_are_both_passed_over(
        self, issuer: "Door", provider: IdentityProvider, caplog: pytest.LogCaptureFixture, is_first: bool
    ) -> None:
        """E9: which of them is meant would be a matter of their order."""
        other = {**type(issuer.key)().jwk, "kid": issuer.key.kid}
        third = type(issuer.key)()
        pair = [issuer.key.jwk, other] if is_first else [other, issuer.key.jwk]
        issuer.instead = (200, json.dumps({"keys": [*pair, third.jwk]}).encode())
        with pytest.raises(InvalidGrant, match="does not publish"):
            await provider.verify(issuer.sign())
        good = jwt.encode(issuer.claims(), third.private, algorithm="RS256", headers={"kid": third.kid})
        await provider.verify(good)
        assert [record.getMessage() for record in caplog.records] == [
            f"the identity provider's key '{issuer.key.kid}' is passed over: it is the 'kid' of another key, too"
        ]

    async def test_one_key_published_twice_is_one(self, issuer: "Door", provider: IdentityProvider) -> None:
        encrypting = {**type(issuer.key)().jwk, "kid": issuer.key.kid, "use": "enc"}
        issuer.instead = (200, json.dumps({"keys": [issuer.key.jwk, encrypting, issuer.key.jwk]}).encode())
        await provider.verify(issuer.sign())

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
        """E12: bytes are counted while they are unpacked."""
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
