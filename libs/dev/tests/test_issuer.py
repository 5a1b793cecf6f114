"""The mock issuer: what it signs is what Clerk signs, and what it refuses it explains in JSON."""

import logging
import os
import re
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
import jwt
import pytest

from causeloop_dev.issuer import create_issuer

BASE_URL = "http://127.0.0.1:4010"
PARTY = "http://localhost:4000"


@pytest.fixture
async def issuer() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_issuer(BASE_URL, PARTY)), base_url=BASE_URL)


async def published(issuer: httpx.AsyncClient) -> jwt.PyJWKSet:
    answer = await issuer.get("/.well-known/jwks.json")
    return jwt.PyJWKSet.from_dict(answer.json())


async def verified(issuer: httpx.AsyncClient, token: str) -> dict[str, Any]:
    kid = jwt.get_unverified_header(token)["kid"]
    claims: dict[str, Any] = jwt.decode(token, (await published(issuer))[kid], algorithms=["RS256"], issuer=BASE_URL)
    return claims


def patiently_get(url: str) -> httpx.Response:
    for _ in range(200):
        try:
            return httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer.")


async def opened(issuer: httpx.AsyncClient, **request: object) -> dict[str, Any]:
    answer = await issuer.post("/v1/sessions", json=request)
    assert answer.status_code == 200, answer.text
    session: dict[str, Any] = answer.json()
    return session


class TestSessions:
    async def test_a_session_verifies_against_the_published_key_and_has_clerks_claims(
        self, issuer: httpx.AsyncClient
    ) -> None:
        session = await opened(issuer, subject="user_alice")

        claims = await verified(issuer, session["token"])

        assert claims.keys() == {"iss", "sub", "sid", "azp", "iat", "nbf", "exp", "jti", "v"}
        assert claims["sub"] == "user_alice"
        assert claims["sid"] == session["session_id"]
        assert claims["azp"] == PARTY
        assert claims["v"] == 2
        assert claims["exp"] - claims["iat"] == 60
        assert claims["nbf"] == claims["iat"]
        assert abs(claims["iat"] - time.time()) < 5

    async def test_email_and_lifetime_are_as_asked(self, issuer: httpx.AsyncClient) -> None:
        session = await opened(issuer, subject="user_alice", email="alice@example.com", ttl_seconds=3)

        claims = await verified(issuer, session["token"])

        assert claims["email"] == "alice@example.com"
        assert claims["exp"] - claims["iat"] == 3

    async def test_two_sessions_share_nothing_but_their_subject(self, issuer: httpx.AsyncClient) -> None:
        first, second = [await verified(issuer, (await opened(issuer, subject="u"))["token"]) for _ in range(2)]

        assert first["sid"] != second["sid"]
        assert first["jti"] != second["jti"]


class TestKeys:
    async def test_only_the_public_half_is_published(self, issuer: httpx.AsyncClient) -> None:
        [key] = (await issuer.get("/.well-known/jwks.json")).json()["keys"]

        assert key.keys() == {"kty", "key_ops", "n", "e", "kid", "use", "alg"}
        assert key["key_ops"] == ["verify"]

    async def test_after_a_rotation_old_tokens_still_verify_and_new_ones_name_the_new_key(
        self, issuer: httpx.AsyncClient
    ) -> None:
        old = (await opened(issuer, subject="u"))["token"]

        kid = (await issuer.post("/v1/keys/rotate")).json()["kid"]

        new = (await opened(issuer, subject="u"))["token"]
        assert jwt.get_unverified_header(new)["kid"] == kid != jwt.get_unverified_header(old)["kid"]
        assert (await verified(issuer, old))["sub"] == (await verified(issuer, new))["sub"] == "u"


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "message"),
        [
            (b"not json", 400, "no JSON"),
            (b"\xff", 400, "no JSON"),
            (b"[" * 10_000, 400, "no JSON"),
            (b"[]", 422, "body: "),
            (b"{}", 422, "subject: Field required"),
            (b'{"subject": ""}', 422, "subject: "),
            (b'{"subject": 7}', 422, "subject: "),
            (b'{"subject": "a b"}', 422, "subject: "),
            (b'{"subject": "u", "ttl_seconds": "60"}', 422, "ttl_seconds: "),
            (b'{"subject": "u", "ttl_seconds": true}', 422, "ttl_seconds: "),
            (b'{"subject": "u", "ttl_seconds": 0}', 422, "ttl_seconds: "),
            (b'{"subject": "u", "email": "nobody"}', 422, "email: "),
            (b'{"subject": "u", "role": "owner"}', 422, "role: "),
            (b'{"subject": "' + b"u" * 20_000 + b'"}', 413, "longer than 16384 bytes"),
        ],
    )
    async def test_bad_input_gets_a_json_error(
        self, issuer: httpx.AsyncClient, body: bytes, status: int, message: str
    ) -> None:
        answer = await issuer.post("/v1/sessions", content=body)

        assert answer.status_code == status
        [error] = answer.json()["errors"]
        assert message in error["message"]
        assert error["code"]

    async def test_its_address_in_a_browser_leads_to_a_session(self, issuer: httpx.AsyncClient) -> None:
        """F12: the address that `make dev` prints beside "Sign-in" was a 404."""
        answer = await issuer.get("/")
        assert answer.status_code == 200
        [(address, body)] = re.findall(r"^curl (\S+) -d '(.+)'$", answer.json()["get_a_session"])
        assert (await issuer.post(address, content=body)).json()["token"]
        assert (await issuer.post("/")).status_code == 405

    async def test_unknown_paths_methods_and_hosts_are_distinguished(self, issuer: httpx.AsyncClient) -> None:
        assert (await issuer.get("/nowhere")).status_code == 404
        assert (await issuer.get("/v1/sessions")).status_code == 405
        rebound = await issuer.post("/v1/sessions", json={"subject": "u"}, headers={"host": "evil.example:4010"})
        assert rebound.status_code == 421
        assert rebound.json()["errors"][0]["code"] == "misdirected_request"

    async def test_localhost_is_its_name_as_well(self, issuer: httpx.AsyncClient) -> None:
        answer = await issuer.get("/.well-known/jwks.json", headers={"host": "localhost:4010"})
        assert answer.status_code == 200


class TestProcess:
    def test_warns_loudly_that_it_is_for_development(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            create_issuer(BASE_URL, PARTY)

        assert "MOCK ISSUER" in caplog.text
        assert "development only" in caplog.text

    def test_runs_on_the_loopback_until_it_is_stopped(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        script = f"from causeloop_dev.issuer import run; run({port}, {PARTY!r})"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                answer = patiently_get(f"http://127.0.0.1:{port}/.well-known/jwks.json")
                assert len(answer.json()["keys"]) == 1
            finally:
                process.terminate()
            assert process.stderr
            assert "MOCK ISSUER" in process.stderr.read()
