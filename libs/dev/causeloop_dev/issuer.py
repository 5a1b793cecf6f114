"""The mock issuer: a development process that stands in for Clerk, so that the real exchange runs offline.

Holds an RS256 key, made at start and kept in memory only, and signs a session for any subject:

    GET  /.well-known/jwks.json     the public keys, newest first
    POST /v1/sessions               {"subject", "email"?, "ttl_seconds"?} → {"token", "session_id"}
    GET  /                          how to get a session
    POST /v1/keys/rotate            a new key signs, older ones stay published → {"kid"}

Promises session tokens with the claims of Clerk's version 2 (iss, sub, sid, azp, iat, nbf, exp, jti, v; email
if given), and JSON errors in Clerk's form. A request must name a loopback host, so that a web page in the
developer's browser cannot reach it under a name of its own (DNS rebinding).

Leaves everything else to Clerk: it knows no people and no sessions. Nothing about it is safe outside of a
development machine: production refuses it (CAUSELOOP_AUTH=mock), and images do not contain it.
"""

import asyncio
import json
import logging
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from causeloop_common.application import Listener

LOOPBACK = "127.0.0.1"
BODY_LIMIT = 16 * 1024

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)


class SessionRequest(BaseModel):
    """Whose session to sign, and for how long."""

    model_config = ConfigDict(extra="forbid", strict=True)

    subject: str = Field(pattern=r"^\S+$", max_length=255)
    email: str | None = Field(default=None, pattern=r"^\S+@\S+$", max_length=320)
    ttl_seconds: int = Field(default=60, ge=1, le=24 * 3600)


class Refused(Exception):
    """A refusal, answered as a JSON error: status, code, message."""


class SigningKey:
    """An RSA key and its id; only the public half is ever shown."""

    def __init__(self) -> None:
        self.kid = f"ins_{secrets.token_hex(12)}"
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.jwk = {**public, "kid": self.kid, "use": "sig", "alg": "RS256"}


class Issuer:
    """The ASGI app."""

    def __init__(self, base_url: str, authorized_party: str) -> None:
        self._base_url = base_url
        self._hosts = {urlsplit(url).netloc for url in (base_url, base_url.replace(LOOPBACK, "localhost"))}
        self._authorized_party = authorized_party
        self._keys = [SigningKey()]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status, answer = 200, self._answer(scope, await _read(receive))
        except Refused as refused:
            status, code, message = refused.args
            answer = {"errors": [{"code": code, "message": message}]}
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def _answer(self, scope: Message, body: bytes) -> dict[str, Any]:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if host not in self._hosts:
            raise Refused(421, "misdirected_request", f"This issuer is {self._base_url}, not {host}.")
        match scope["method"], scope["path"]:
            case "GET", "/.well-known/jwks.json":
                return {"keys": [key.jwk for key in self._keys]}
            case "POST", "/v1/sessions":
                return self._sign(_parse(body))
            case "POST", "/v1/keys/rotate":
                self._keys.insert(0, SigningKey())
                return {"kid": self._keys[0].kid}
            case "GET", "/":
                command = f"""curl {self._base_url}/v1/sessions -d '{{"subject": "alice"}}'"""
                return {"name": "The mock issuer of causeloop dev", "get_a_session": command}
            case _, "/" | "/.well-known/jwks.json" | "/v1/sessions" | "/v1/keys/rotate":
                raise Refused(405, "method_not_allowed", f"{scope['path']} does not take {scope['method']}.")
            case _:
                raise Refused(404, "resource_not_found", f"There is no {scope['path']} here.")

    def _sign(self, request: SessionRequest) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self._base_url,
            "sub": request.subject,
            "sid": f"sess_{secrets.token_hex(16)}",
            "azp": self._authorized_party,
            "iat": now,
            "nbf": now,
            "exp": now + request.ttl_seconds,
            "jti": secrets.token_hex(10),
            "v": 2,
        }
        if request.email is not None:
            claims["email"] = request.email
        newest = self._keys[0]
        token = jwt.encode(claims, newest.private, algorithm="RS256", headers={"kid": newest.kid})
        return {"token": token, "session_id": claims["sid"]}


def create_issuer(base_url: str, authorized_party: str) -> ASGIApp:
    """The issuer as an ASGI app; `base_url` becomes `iss`, `authorized_party` (an origin) becomes `azp`."""
    log.warning(
        "MOCK ISSUER at %s: it signs a session for anybody who asks. For development only; set "
        "CAUSELOOP_AUTH=clerk for anything that others can reach.",
        base_url,
    )
    return Issuer(base_url, authorized_party)


def run(port: int, authorized_party: str) -> None:
    """Serve on the loopback until SIGINT or SIGTERM."""
    app = create_issuer(f"http://{LOOPBACK}:{port}", authorized_party)
    asyncio.run(_serve(app, port))


async def _serve(app: ASGIApp, port: int) -> None:
    listener, loop = Listener.on(app, LOOPBACK, port), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(setattr, listener, "should_exit", True))
    await listener.serve()


def _parse(body: bytes) -> SessionRequest:
    try:
        return SessionRequest.model_validate_json(body)
    except ValidationError as error:
        [first, *_] = error.errors()
        if first["type"] == "json_invalid":
            raise Refused(400, "malformed_request", f"The body is no JSON. {first['msg']}.") from error
        field = ".".join(str(step) for step in first["loc"]) or "body"
        raise Refused(422, "form_param_invalid", f"{field}: {first['msg']}.") from error


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_LIMIT:
            raise Refused(413, "payload_too_large", f"The body is longer than {BODY_LIMIT} bytes.")
    return body
