"""Whatever credential or cursor is shown that is not valid, it is refused without saying why, and nothing changes."""

import hmac
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from causeloop_auth.domain import access, handles
from causeloop_common import ids
from causeloop_common.context import ServiceTokens
from causeloop_common.keys import KeyRing
from tests.security.wire import head, is_problem, say
from tests.support.bus import asking
from tests.support.stack import PARTY, Person, Stack, content_of, refused

pytestmark = pytest.mark.usefixtures("bystander", "nothing_changes")


def corrupt(text: str) -> str:
    """The same with one letter other."""
    middle = len(text) // 2
    return f"{text[:middle]}{'a' if text[middle] != 'a' else 'b'}{text[middle + 1 :]}"


class TestACredential:
    async def bearers(self, stack: Stack, person: Person) -> dict[str, str]:
        """Texts that are no valid credential, each for another reason."""
        secret = stack.installation.jwt_secret.encode()
        key = KeyRing.derive(secret, "auth", []).own("access-token/v1")
        session = f"ses_{person.refresh_token.split('_')[4][:26]}"
        now = datetime.now(UTC)

        def made(key: bytes = key, **more: Any) -> str:
            given = {"now": now, "seconds": 900, **more}
            tenant = given.pop("tenant", person.workspace)
            return access.make(key, person.id, given.pop("session", session), tenant, **given)

        claims = {"iss": "causeloop/auth", "sub": person.id, "sid": session, "ten": person.workspace}
        claims |= {"iat": int(time.time()), "exp": int(time.time()) + 900}  # type: ignore[dict-item]

        def signed(key: Any = key, algorithm: str = "HS256", typ: str = "at+jwt", **other: Any) -> str:
            return jwt.encode({**claims, **other}, key, algorithm=algorithm, headers={"typ": typ})

        content_of(
            await person.get("/workspace", token=made())
        )  # so that each of the others is wrong in one thing alone
        content_of(await person.get("/workspace", token=signed()))
        pat = (await person.get("/api-tokens")).json()["data"][0]
        unknown = handles.make("pat", person.workspace, pat["id"], secrets.token_bytes(32))
        auths = KeyRing.derive(secret, "auth", [("gateway", "auth")])
        peers = KeyRing.derive(secret, "gateway", [("gateway", "auth")])
        return {
            "no token": "nonsense",
            "a forged signature": corrupt(made()),
            "a key of somebody else": made(secrets.token_bytes(32)),
            "the root secret as key": made(secret),
            "expired": made(now=now - timedelta(seconds=901)),
            "of a session that is not": made(session=ids.new("ses")),
            "without an algorithm": signed("", "none"),
            "with another algorithm": signed(key * 2, "HS512"),
            "of another issuer": signed(iss="causeloop/other"),
            "of another type": signed(typ="JWT"),
            "with another session's id": signed(sid=ids.new("ses")),
            "without a tenant": signed(ten=""),
            "with a tenant that is none": signed(ten="ws_8zzzzzzzzzzzzzzzzzzzzzzzzz"),
            "never expiring": signed(exp=None),
            "for another audience: a service's": ServiceTokens(peers).mint(asking(person.workspace, person.id), "auth"),
            "for another audience: the issuer's": await stack.session(person.subject),
            "a refresh token": person.refresh_token,
            "a personal access token with a wrong checksum": corrupt(unknown[:-8]) + unknown[-8:],
            "a personal access token that is not known": unknown,
            "a personal access token of no tenant": unknown.replace(person.workspace, "ws_00000000000000000000000000"),
            "too long": "x" * 5000,
            "auth's own key in clear": auths.own("access-token/v1").hex(),
        }

    async def test_that_is_not_valid_is_refused_without_saying_why(self, stack: Stack, person: Person) -> None:
        details = set()
        for reason, token in (await self.bearers(stack, person)).items():
            for method, path in (
                ("GET", "/v1/secrets"),
                ("POST", "/v1/secrets/there/reveal"),
                ("GET", "/v1/me/workspaces"),
            ):
                headers = {"authorization": f"Bearer {token}"}
                answer = await stack.http.request(method, path, headers=headers)
                assert answer.status_code == 401, (reason, answer.text)
                problem = refused(answer, 401, "unauthorized")
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert token not in answer.text
                details.add(problem["detail"])
        assert len(details) == 2  # there is no token, or it is not valid

    @pytest.mark.parametrize(
        "header", ["Basic eDp5", "Bearer", "Bearer ", "bearer  x", "Token x", "Bearer ü", "Bearer a b"]
    )
    async def test_of_another_form_is_refused(self, stack: Stack, header: str) -> None:
        is_problem(await say(stack.port, head("GET", "/v1/secrets", Authorization=header)), 401, "unauthorized")

    async def test_that_cannot_be_exchanged_is_refused(self, stack: Stack, person: Person) -> None:
        now = int(time.time())
        claims = {"iss": stack.issuer_url, "sub": "user_x", "sid": "sess_x", "azp": PARTY}
        claims |= {"iat": now, "nbf": now, "exp": now + 60}  # type: ignore[dict-item]
        good = await stack.session("user_x")
        kid = jwt.get_unverified_header(good)["kid"]
        (published,) = (await stack.issuer_http.get(f"{stack.issuer_url}/.well-known/jwks.json")).json()["keys"]
        public = jwt.PyJWK(published).key
        forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        hs = {"alg": "HS256", "typ": "JWT", "kid": kid}
        unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": kid})
        payload = orjson.dumps(claims)

        def b64(raw: bytes) -> str:
            return jwt.utils.base64url_encode(raw).decode()

        mixed = f"{b64(orjson.dumps(hs))}.{b64(payload)}"
        mixed += "." + b64(hmac.digest(pem, mixed.encode(), "sha256"))
        own_key = {"jwk": jwt.algorithms.RSAAlgorithm.to_jwk(forger.public_key(), as_dict=True)}
        for reason, token in {
            "nothing": "",
            "no token": "nonsense",
            "an access token of ours": person.token,
            "a forged signature": corrupt(good),
            "a key of somebody else under the published name": jwt.encode(claims, forger, "RS256", {"kid": kid}),
            "a key of somebody else": jwt.encode(claims, forger, "RS256", {"kid": "other"}),
            "a key that the token brings along": jwt.encode(claims, forger, "RS256", {"kid": "other", **own_key}),
            "a key that the token points to": jwt.encode(
                claims, forger, "RS256", {"kid": "o", "jku": "http://127.0.0.1:1/"}
            ),
            "without an algorithm": unsigned,
            "the public key as a shared one": mixed,
            "too long for a header": f"{good}{'x' * 60_000}",
        }.items():
            answer = await stack.http.post("/v1/auth/exchange", json={"subject_token": token})
            problem = refused(answer, 401, "invalid_grant")
            assert not token or token not in str(problem), reason


class TestACursor:
    async def test_of_somebody_else_is_malformed(self, person: Person, bystander: Person) -> None:
        content_of(await bystander.put("/secrets/another", json={"value": "v"}))
        cursor = content_of(await bystander.get("/secrets?limit=1"))["page"]["next_cursor"]
        refused(await person.get(f"/secrets?limit=1&cursor={cursor}"), 400, "malformed")
