"""The identity provider's session tokens: RS256 JWTs, checked against its published keys (JWKS).

One algorithm, one issuer, one kind of token, and the claims a session must have; key references inside a token are
ignored (RFC 8725). A provider signs other tokens with the same keys: of templates, for machines, for OAuth. Those are
refused, and so are a session that is not complete, one that somebody else acts in, and one that lives for days.

Keys are fetched beside the commands: at start, every hour, and for an unknown `kid` at a bounded rate. A known key
serves at once, however old it is: it is good until a fetch shows that it is no longer published. Only a token with an
unknown `kid` waits, for the one fetch under way, and without its worker; a `kid` that a fetch did not find is
remembered for half a minute.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import jwt

from causeloop_auth.adapters import key_set
from causeloop_auth.service import Subject
from causeloop_common.errors import AppError, InvalidGrant, Unavailable
from causeloop_common.memory import Memory
from causeloop_common.messaging import aside
from causeloop_common.outbound import Client, Limits

_log = logging.getLogger(__name__)

JWKS_PATH = "/.well-known/jwks.json"
LIMITS = Limits(total=3.0, connect=2.0, idle=2.0, largest=256 * 1024)
_REFETCH_SECONDS = 10.0
_RETRY_SECONDS = 0.5
"""While there is not one key."""
_FRESH_SECONDS = 3600.0
_ABSENT_SECONDS = 30.0
_MOST_ABSENT = 1000
_COMPLAINT_SECONDS = 60.0
_CLOCK_SKEW_SECONDS = 5
_LONGEST_SECONDS = 24 * 3600
"""The life of a session token; Clerk's live for a minute."""
_CATEGORY = "cl_B7d4PD111AAA"
"""The header `cat` of Clerk's session tokens. Templates and machines have others; a token may have none."""
_UNREADABLE = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)
"""Raised on the way through a token whose parts are JSON, but of other types, sizes or depths than a token's."""
_REQUIRED = ["iss", "sub", "sid", "azp", "iat", "nbf", "exp"]
_OF_OTHERS = frozenset({"events", "nonce", "at_hash", "c_hash", "client_id", "cnf"})
"""Claims of tokens of other kinds, whatever their header has: of logouts and other security events, of identity, of
OAuth access, and of tokens that only the holder of a key may present."""


class IdentityProvider:
    """Verifies session tokens of one provider."""

    def __init__(
        self,
        jwks_url: str,
        client: Client,
        *,
        authorized_parties: Sequence[str],
        audience: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jwks_url = jwks_url
        self._client = client
        self._issuer = jwks_url.removesuffix(JWKS_PATH)
        self._parties = frozenset(authorized_parties)
        self._audience = audience
        self._monotonic = monotonic
        self._keys: dict[str, Any] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self._complained_at = float("-inf")
        self._absent: Memory[str, bool] = Memory(
            "absent_kids", seconds=_ABSENT_SECONDS, most=_MOST_ABSENT, monotonic=monotonic
        )
        self._passed_over: dict[str, str] = {}

    async def keep(self) -> None:
        """Fetch the keys now and every hour, until cancelled; sooner again while that fails."""
        while True:
            if self._due() <= 0:
                await self._fetched()
            await asyncio.sleep(max(self._due(), 0.1))

    async def check(self) -> None:
        """Readiness: whether there is a key. With one, sign-ins go on while the identity provider is away."""
        if not self._keys:
            raise Unavailable(self._failure or "The identity provider's keys are being fetched.")

    async def examine(self) -> None:
        """Fetch the keys; Unavailable with the cause when that fails."""
        await self._fetched()
        if self._failure is not None:
            raise Unavailable(self._failure)

    async def close(self) -> None:
        """End a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def verify(self, token: str) -> Subject:
        """The token's subject; InvalidGrant when it is not good, Unavailable when that cannot be known now."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, *_UNREADABLE) as error:
            raise _refused("is not a JWT") from error
        if header.get("alg") != "RS256":
            raise _refused("is not signed with RS256")
        if header.get("typ", "JWT") not in ("JWT", "jwt") or header.get("cat", _CATEGORY) != _CATEGORY:
            raise _refused("is of another kind than a session's")
        key = await self._key(header.get("kid", ""))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_CLOCK_SKEW_SECONDS,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError as error:
            raise _refused("has expired") from error
        except jwt.ImmatureSignatureError as error:
            _log.warning("a session begins in the future: this host's clock or the identity provider's is wrong")
            raise _refused("begins in the future, by the clock of this installation") from error
        except jwt.InvalidAudienceError as error:  # also where none is expected (RFC 7519 4.1.3)
            raise _refused("was made for another audience") from error
        except (jwt.InvalidTokenError, *_UNREADABLE) as error:
            raise _refused("is not valid for this installation") from error
        self._require_session(claims)
        return Subject(self._issuer, claims["sub"])

    def _require_session(self, claims: dict[str, Any]) -> None:
        """Whether a token with these claims, signed by the provider, is one that starts a session."""
        if not isinstance(claims["azp"], str) or claims["azp"] not in self._parties:
            raise _refused("was made for another application")
        if not _OF_OTHERS.isdisjoint(claims):
            raise _refused("is of another kind than a session's")
        if not all(_is_name(claims[name]) for name in ("sub", "sid")):
            raise _refused("is not a session's")
        if claims.get("sts", "active") != "active":
            raise _refused("is of a session that is not complete")
        if claims.get("act") is not None:
            raise _refused("is of somebody who acts as another person, which is not permitted")
        if int(claims["exp"]) - int(claims["iat"]) > _LONGEST_SECONDS:
            raise _refused(f"lives longer than {_LONGEST_SECONDS // 3600} hours")

    async def _key(self, kid: object) -> Any:
        if not isinstance(kid, str):
            raise _unpublished()
        if kid in self._keys:
            if self._age() > _FRESH_SECONDS:
                self._fetch()
            return self._keys[kid]
        if self._absent.get(kid):
            raise _unpublished()
        before, fetching = self._fetching, self._fetch()
        if fetching is not None:
            async with aside():
                await asyncio.wait([fetching])
        if kid in self._keys:
            return self._keys[kid]
        if self._failure is not None:
            raise Unavailable("The identity provider's keys cannot be fetched. Try again.")
        if fetching is not None and fetching is not before:  # a fetch that began earlier may have come too early
            self._absent.keep(self._absent.begin(), kid, value=True)
        raise _unpublished()

    async def _fetched(self) -> None:
        if (fetching := self._fetch()) is not None:
            await asyncio.wait([fetching])

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, begun now unless one was a moment ago: then None."""
        if self._fetching is None or self._fetching.done():
            if self._since_tried() < self._pause():
                return None
            self._tried_at = self._monotonic()
            # In a context of its own: it serves all, and its log lines are no single request's.
            self._fetching = asyncio.create_task(self._refetch(), name="identity provider's keys", context=Context())
        return self._fetching

    async def _refetch(self) -> None:
        try:
            answer = await self._client.fetch("GET", self._jwks_url, headers={"Accept": "application/json"})
            if answer.status != 200:
                moved = " and redirects are not followed" if 300 <= answer.status < 400 else ""
                raise Unavailable(f"The answer is {answer.status}{moved}: check the address.")
            found = key_set.read(answer.body)
            if not found.keys:
                raise ValueError(f"has no RSA key that can be used among {len(found.passed_over)} passed over")
        except AppError as error:
            self._fail(f"CLERK_JWKS_URL cannot be fetched. {error.detail}")
            return
        except ValueError as error:
            self._fail(f"The document at CLERK_JWKS_URL {error}: check the address.")
            return
        except Exception:  # noqa: BLE001  whatever it is, the keys of before go on serving
            _log.exception("the identity provider's keys cannot be read")
            self._fail("The document at CLERK_JWKS_URL cannot be read: the log has the cause.")
            return
        if self._failure is not None:
            _log.info("the identity provider's keys can be fetched again")
        for name, why in found.passed_over.items():
            if self._passed_over.get(name) != why:
                _log.warning("the identity provider's key %s is passed over: it %s", name, why)
        self._passed_over = found.passed_over
        self._keys, self._fetched_at, self._failure = found.keys, self._monotonic(), None

    def _fail(self, failure: str) -> None:
        """Keep the keys that were fetched before. One line a minute, and one for each new cause."""
        now = self._monotonic()
        if failure != self._failure or now - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = now
            _log.warning("%s", failure)
        self._failure = failure

    def _due(self) -> float:
        """In how many seconds the keys are to be fetched again."""
        return _FRESH_SECONDS - self._age() if self._failure is None else self._pause() - self._since_tried()

    def _age(self) -> float:
        return self._monotonic() - self._fetched_at

    def _since_tried(self) -> float:
        return self._monotonic() - self._tried_at

    def _pause(self) -> float:
        return _REFETCH_SECONDS if self._keys else _RETRY_SECONDS


def _is_name(value: object) -> bool:
    """Whether a claim is a text of a sensible size, and one that can be written as UTF-8: JSON has others."""
    return isinstance(value, str) and 0 < len(value) <= 256 and value.encode(errors="replace").decode() == value


def _unpublished() -> InvalidGrant:
    return _refused("is signed with a key that the identity provider does not publish")


def _refused(why: str) -> InvalidGrant:
    return InvalidGrant(f"The subject token {why}. Sign in again.")
