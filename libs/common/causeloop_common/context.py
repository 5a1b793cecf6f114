"""The caller, their tenant and their permissions: `AuthContext`, and the service tokens that carry it.

A service token is a JWT (HS256) under the key of one pair of services: issuer `iss`, audience `aud`, the principal
`sub`, the tenant `ten`, permissions `per`, the credential `crd` through which the principal acts, how strong its
sign-in was (`acr`) and when (`auth_time`), and `obo`, the principal on whose behalf it acts.
It lives 60 seconds, is reused to half its life and, once verified, remembered until it expires: verifying costs a
hundred microseconds. Of the callers that are remembered only the busy ones keep their token here: the same token is
signed again from the second at which it began. The tenant of a request comes from here and never from its payload.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from operator import attrgetter
from typing import Any, NamedTuple, Self
from uuid import UUID

import jwt
import orjson

from causeloop_common import ids
from causeloop_common.errors import ClocksApart, Forbidden, MfaRequired, Unauthorized
from causeloop_common.keys import KeyRing
from causeloop_common.permissions import shared

LIFETIME_SECONDS = 60
CLOCK_SKEW_SECONDS = 5
_REMEMBERED = 20_000
_TOKENS = 1000
"""Tokens that are kept as they are, of the callers that were asked for last; each has about 1.5 KB."""
_TYPE = "svc+jwt"
_REQUIRED = ["iss", "aud", "sub", "ten", "per", "iat", "exp"]


STEP_UP_SECONDS = 600
"""The age of a sign-in up to which it is fresh enough for a command with `step_up`."""


class Assurance(IntEnum):
    """How strong the sign-in behind a credential was."""

    NONE = 0
    """Nobody signed in: a personal access token, a service account or a service."""
    SINGLE = 1
    """A session of the identity provider was exchanged."""
    MULTI = 2
    """And a second factor was shown to auth."""


class Idempotency(NamedTuple):
    """The client's key, and the gateway's keyed digest of the request."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthContext:
    """The caller of one use case. Copy it with `dataclasses.replace`, which keeps the fields that it does not name.

    `tenant` is the TypeID of a workspace or of a person's realm; `principal` a person, service account or service;
    `credential` the session or token they use; `authenticated_at` the time of the sign-in behind it, in seconds since
    1970, None without one; `on_behalf_of` another principal, for whom this one acts; `issuer` the service that asks. A
    service token carries
    these; the last two fields belong to one request.
    """

    tenant: str
    principal: str
    permissions: frozenset[str]
    credential: str | None = None
    assurance: Assurance = Assurance.NONE
    authenticated_at: int | None = None
    on_behalf_of: str | None = None
    issuer: str = ""
    request_id: str = ""
    idempotency: Idempotency | None = None

    @property
    def kind(self) -> ids.PrincipalKind:
        """Whether the principal is a person, a service account or a service."""
        return ids.principal_kind(self.principal)

    @property
    def tenant_uuid(self) -> UUID:
        """The value of `workspace_id` that this context may see."""
        return ids.tenant_uuid(self.tenant)

    def require(self, permission: str) -> None:
        """Raise `Forbidden` unless the caller holds `permission`."""
        if permission not in self.permissions:
            raise Forbidden.lacking(permission)

    def require_step_up(self, now: float) -> None:
        """Raise `MfaRequired` unless a person signed in at most `STEP_UP_SECONDS` before `now`."""
        age = STEP_UP_SECONDS + 1 if self.authenticated_at is None else now - self.authenticated_at
        if self.assurance < Assurance.SINGLE or not -CLOCK_SKEW_SECONDS <= age <= STEP_UP_SECONDS:
            raise MfaRequired(
                f"This needs a sign-in of the last {STEP_UP_SECONDS // 60} minutes. Sign in again, then repeat it."
            )

    def of_service(self, service: str, *permissions: str) -> Self:
        """The same request in the same tenant by a service itself, with exactly the given permissions."""
        return replace(
            self,
            principal=f"svc_{service}",
            credential=None,
            assurance=Assurance.NONE,
            authenticated_at=None,
            on_behalf_of=None,
            issuer=service,
            permissions=frozenset(permissions),
            idempotency=None,
        )

    def of_tenant(self, tenant: str, *permissions: str) -> Self:
        """The same caller and request in another tenant with exactly the given permissions."""
        return replace(self, tenant=tenant, permissions=frozenset(permissions), idempotency=None)


CLAIMS = {
    "principal": "sub",
    "tenant": "ten",
    "permissions": "per",
    "credential": "crd",
    "assurance": "acr",
    "authenticated_at": "auth_time",
    "on_behalf_of": "obo",
}
"""The fields of a context that a service token carries, each in its claim; `issuer` is the token's own. A field that is
None or empty has no claim. Tests compare them with the fields of `AuthContext`."""

_carried = attrgetter(*CLAIMS)


def _read(data: dict[str, Any], issuer: str) -> AuthContext:
    """The caller that claims name; ValueError, TypeError or KeyError when they are not those of a caller."""
    ids.tenant_uuid(data["ten"])
    ids.principal_kind(data["sub"])
    behalf, credential, since = data.get("obo"), data.get("crd"), data.get("auth_time")
    if behalf is not None:
        ids.principal_kind(behalf)
    if not isinstance(credential, str | None) or not isinstance(since, int | None) or isinstance(since, bool):
        raise TypeError("a claim has another type")
    return AuthContext(
        tenant=data["ten"],
        principal=data["sub"],
        permissions=shared(data["per"]),
        credential=credential,
        assurance=Assurance(data.get("acr", 0)),
        authenticated_at=since,
        on_behalf_of=behalf,
        issuer=issuer,
    )


class ServiceTokens:
    """Makes and checks the service tokens of one service, remembering both."""

    def __init__(self, keys: KeyRing, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._minted: dict[tuple[Any, ...], tuple[str, float]] = {}
        self._begun: dict[int, float] = {}
        self._verified: dict[bytes, tuple[AuthContext, float]] = {}

    def mint(self, ctx: AuthContext, audience: str) -> str:
        """A token that names to `audience` the caller on whose behalf this service asks."""
        now = self._clock()
        identity = (audience, *_carried(ctx))
        known = self._minted.get(identity)
        if known is not None and _is_young(known[1], now):
            return known[0]
        begun = self._begin(hash(identity), now)
        issued = int(begun)
        claims: dict[str, Any] = {
            **{claim: value for claim, value in zip(CLAIMS.values(), identity[1:], strict=True) if value},
            "iss": self._keys.service,
            "aud": audience,
            "per": sorted(ctx.permissions),
            "iat": issued,
            "exp": issued + LIFETIME_SECONDS,
        }
        key = self._keys.pair(self._keys.service, audience)
        token = _signed({"alg": "HS256", "kid": self._keys.service, "typ": _TYPE}, claims, key)
        _keep(self._minted, identity, (token, begun), _TOKENS)
        return token

    def _begin(self, caller: int, now: float) -> float:
        """The moment at which this caller's token began, which is now when its first half is over.

        Callers are known by a hash. Two with the same one share the moment, and nothing else.
        """
        begun = self._begun.get(caller)
        if begun is None or not _is_young(begun, now):
            _keep(self._begun, caller, now, _REMEMBERED)
            return now
        return begun

    def verify(self, token: str) -> AuthContext:
        """The caller in a token meant for this service, still without a request; `Unauthorized` for any other token.

        ClocksApart for one that is of a later time.
        """
        now = self._clock()
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._verified.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        try:
            header = jwt.get_unverified_header(token)
            issuer = header.get("kid", "")
            if header.get("typ") != _TYPE or not self._keys.holds(issuer, self._keys.service):
                raise jwt.InvalidTokenError("not a service token of a peer")
            data = jwt.decode(
                token,
                self._keys.pair(issuer, self._keys.service),
                algorithms=["HS256"],
                audience=self._keys.service,
                issuer=issuer,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": _REQUIRED},
            )
            caller = _read(data, issuer)
        except jwt.ImmatureSignatureError as error:
            raise ClocksApart("The service token is of a time that is still to come here. Nothing was done.") from error
        except (jwt.InvalidTokenError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unauthorized("The service token is not valid for this service.") from error
        _keep(self._verified, digest, (caller, float(data["exp"])), _REMEMBERED)
        return caller


def _is_young(begun: float, now: float) -> bool:
    """Whether a token is in the first half of its life; one that a clock ahead of this one began never is."""
    return 0 <= now - begun < LIFETIME_SECONDS / 2


def _signed(header: dict[str, str], claims: dict[str, Any], key: bytes) -> str:
    """A JWT (RFC 7519) in the compact form of RFC 7515, with HMAC-SHA-256: what PyJWT makes, in a fifth of its time."""
    body = b".".join(_base64url(orjson.dumps(part, option=orjson.OPT_SORT_KEYS)) for part in (header, claims))
    return (body + b"." + _base64url(hmac.digest(key, body, "sha256"))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _keep(remembered: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Keep it as the youngest. When there are too many the oldest goes: everything here can be made again."""
    remembered.pop(key, None)
    if len(remembered) >= most:
        del remembered[next(iter(remembered))]
    remembered[key] = value
