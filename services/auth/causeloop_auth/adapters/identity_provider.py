"""The identity provider's session tokens: RS256 JWTs, checked against its published keys (JWKS).

One algorithm, one issuer, and the claims a session must have; key references inside a token are ignored (RFC 8725).
Keys are fetched when needed: an unknown `kid` refetches at a bounded rate, many askers share one fetch, and while the
provider is down what was fetched before goes on serving.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import jwt

from causeloop_auth.service import Subject
from causeloop_common.errors import InvalidGrant, Unavailable

_log = logging.getLogger(__name__)

JWKS_PATH = "/.well-known/jwks.json"
_REFETCH_SECONDS = 10.0
_RETRY_SECONDS = 1.0
"""While there is not one key: a provider that is down must not keep every sign-in waiting for it in turn."""
_FRESH_SECONDS = 3600.0
_CLOCK_SKEW_SECONDS = 5
_LARGEST_JWKS = 256 * 1024
_REQUIRED = ["iss", "sub", "sid", "azp", "iat", "nbf", "exp"]


class IdentityProvider:
    """Verifies session tokens of one provider."""

    def __init__(
        self,
        jwks_url: str,
        *,
        authorized_parties: Sequence[str],
        audience: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jwks_url = jwks_url
        self._issuer = jwks_url.removesuffix(JWKS_PATH)
        self._parties = frozenset(authorized_parties)
        self._audience = audience
        self._monotonic = monotonic
        self._keys: dict[str, Any] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._attempts = 0
        self._fetching = asyncio.Lock()
        self._client = httpx.AsyncClient(timeout=3.0, follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        """Release connections."""
        await self._client.aclose()

    async def verify(self, token: str) -> Subject:
        """The token's subject; InvalidGrant when it is not good, Unavailable when that cannot be known now."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise _refused("is not a JWT") from error
        if header.get("alg") != "RS256":
            raise _refused("is not signed with RS256")
        key = await self._key(str(header.get("kid", "")))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_CLOCK_SKEW_SECONDS,
                options={"require": _REQUIRED, "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError as error:
            raise _refused("has expired") from error
        except jwt.InvalidTokenError as error:
            raise _refused("is not valid for this installation") from error
        if claims["azp"] not in self._parties:
            raise _refused("was made for another application")
        if not all(isinstance(claims[name], str) and 0 < len(claims[name]) <= 256 for name in ("sub", "sid")):
            raise _refused("is not a session's")
        return Subject(self._issuer, claims["sub"])

    async def _key(self, kid: str) -> Any:
        if kid not in self._keys or self._monotonic() - self._fetched_at > _FRESH_SECONDS:
            before = self._attempts
            async with self._fetching:
                if self._attempts == before:  # else another's fetch was this one's too, whatever came of it
                    await self._refetch()
                    self._attempts += 1
        if kid in self._keys:
            return self._keys[kid]
        if not self._keys:
            raise Unavailable("The identity provider's keys cannot be fetched. Try again.")
        raise _refused("is signed with a key that the identity provider does not publish")

    async def _refetch(self) -> None:
        if self._monotonic() - self._tried_at < (_REFETCH_SECONDS if self._keys else _RETRY_SECONDS):
            return
        self._tried_at = self._monotonic()
        try:
            response = await self._client.get(self._jwks_url)
            response.raise_for_status()
            if len(response.content) > _LARGEST_JWKS:
                raise ValueError("the key set is too large")
            found = {
                key["kid"]: jwt.PyJWK(key, algorithm="RS256").key
                for key in response.json()["keys"]
                if key.get("kty") == "RSA" and "kid" in key
            }
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
            _log.warning("the identity provider's keys cannot be fetched: %s", type(error).__name__)
            return
        self._keys, self._fetched_at = found, self._monotonic()


def _refused(why: str) -> InvalidGrant:
    return InvalidGrant(f"The subject token {why}. Sign in again.")
