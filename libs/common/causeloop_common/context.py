"""The caller, their tenant and their permissions: `AuthContext`, and the service tokens that carry it.

A service token is a JWT (HS256) under the key of one pair of services: issuer `iss`, audience `aud`, the principal
`sub`, the tenant `ten`, permissions `per`, and `act` (RFC 8693), the credential through which the principal acts.
It lives 60 seconds, is reused to half its life and, once verified, remembered until it expires: signing costs
tens of microseconds, verifying a hundred. The tenant of a request comes from here and never from its payload.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self
from uuid import UUID

import jwt

from causeloop_common import ids
from causeloop_common.errors import Forbidden, Unauthorized
from causeloop_common.keys import KeyRing

LIFETIME_SECONDS = 60
CLOCK_SKEW_SECONDS = 5
_REMEMBERED = 10_000
_TYPE = "svc+jwt"
_REQUIRED = ["iss", "aud", "sub", "ten", "per", "iat", "exp"]


class Idempotency(NamedTuple):
    """The client's key, and the gateway's keyed digest of the request."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthContext:
    """The caller of one use case. Copy it with `dataclasses.replace`, which keeps the fields that it does not name.

    `tenant` is the TypeID of a workspace or of a person's realm; `principal` a person, service account or service;
    `credential` the session or token they use; `issuer` the service that asks on their behalf. A service token carries
    these; the last two fields belong to one request.
    """

    tenant: str
    principal: str
    permissions: frozenset[str]
    credential: str | None = None
    issuer: str = ""
    request_id: str = ""
    idempotency: Idempotency | None = None

    @property
    def tenant_uuid(self) -> UUID:
        """The value of `workspace_id` that this context may see."""
        return ids.tenant_uuid(self.tenant)

    def require(self, permission: str) -> None:
        """Raise `Forbidden` unless the caller holds `permission`."""
        if permission not in self.permissions:
            raise Forbidden(f"This needs the permission '{permission}'. Ask an administrator of the workspace.")

    def of_tenant(self, tenant: str, *permissions: str) -> Self:
        """The same caller and request in another tenant with exactly the given permissions."""
        return replace(self, tenant=tenant, permissions=frozenset(permissions), idempotency=None)


class ServiceTokens:
    """Makes and checks the service tokens of one service, remembering both."""

    def __init__(self, keys: KeyRing, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._minted: dict[tuple[str, str, str, str | None, frozenset[str]], tuple[str, float]] = {}
        self._verified: dict[str, tuple[AuthContext, float]] = {}

    def mint(self, ctx: AuthContext, audience: str) -> str:
        """A token that names to `audience` the caller on whose behalf this service asks."""
        now = self._clock()
        identity = (audience, ctx.tenant, ctx.principal, ctx.credential, ctx.permissions)
        known = self._minted.get(identity)
        if known is not None and now < known[1]:
            return known[0]
        claims: dict[str, Any] = {
            "iss": self._keys.service,
            "aud": audience,
            "sub": ctx.principal,
            "ten": ctx.tenant,
            "per": sorted(ctx.permissions),
            "iat": int(now),
            "exp": int(now) + LIFETIME_SECONDS,
        }
        if ctx.credential is not None:
            claims["act"] = {"sub": ctx.credential}
        key = self._keys.pair(self._keys.service, audience)
        token = jwt.encode(claims, key, algorithm="HS256", headers={"typ": _TYPE, "kid": self._keys.service})
        _forget_if_full(self._minted)
        self._minted[identity] = (token, now + LIFETIME_SECONDS / 2)
        return token

    def verify(self, token: str) -> AuthContext:
        """The caller in a token meant for this service, still without a request; `Unauthorized` for any other token."""
        now = self._clock()
        known = self._verified.get(token)
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
            ids.tenant_uuid(data["ten"])
            act = data.get("act")
            caller = AuthContext(
                tenant=data["ten"],
                principal=data["sub"],
                permissions=frozenset(data["per"]),
                credential=act["sub"] if act else None,
                issuer=issuer,
            )
        except (jwt.InvalidTokenError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Unauthorized("The service token is not valid for this service.") from error
        _forget_if_full(self._verified)
        self._verified[token] = (caller, float(data["exp"]))
        return caller


def _forget_if_full(remembered: dict[Any, Any]) -> None:
    """Keep a memory bounded; everything in it can be made again."""
    if len(remembered) >= _REMEMBERED:
        remembered.clear()
