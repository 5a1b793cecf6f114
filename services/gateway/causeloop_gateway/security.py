"""The caller and their permissions: two questions, two memories.

auth answers with the identity behind a token, tenancy with that person's permissions in the token's workspace; here
the two meet. Both answers are remembered until an event makes them untrue, the bus is lost or their time is over.
Without the bus all are refused.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import NamedTuple

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.auth import Authenticate, Identity
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.errors import Forbidden, Unauthorized
from causeloop_common.memory import Memories, Memory, of_person
from causeloop_common.messaging import Bus
from causeloop_common.permissions import REALM_PERMISSIONS, Internal, permits
from causeloop_gateway.limits import Limits

_REMEMBERED = 50_000
_LONGEST_TOKEN = 4096
_SERVICE = "svc_gateway"


class Caller(NamedTuple):
    """A signed-in caller."""

    identity: Identity
    permissions: frozenset[str]


class Security:
    """Finds the caller of a bearer token."""

    def __init__(self, bus: Bus, memories: Memories, limits: Limits, *, remembered_seconds: float = 30.0) -> None:
        self._bus = bus
        self._limits = limits
        self._identities: Memory[bytes, Identity] = memories.memory(
            "identities", seconds=remembered_seconds, most=_REMEMBERED
        )
        self._standings: Memory[tuple[str, str], frozenset[str] | None] = memories.memory(
            "standings", seconds=remembered_seconds, most=_REMEMBERED
        )

    async def identify(self, authorization: str | None, request_id: str, address: Callable[[], str]) -> Identity:
        """The identity behind this Authorization header; `Unauthorized` without a valid one.

        RateLimited when too many tokens from `address` were refused.
        """
        _ = self._bus.client  # without the bus nobody is known
        token = _bearer(authorization)
        key = hashlib.sha256(token.encode()).digest()
        identity = self._identities.get(key)
        if identity is None:
            identity = await self._look_up(key, token, request_id, address())
        if identity.expires_at <= datetime.now(UTC):
            raise Unauthorized("The token has expired. Sign in again or use another token.")
        return identity

    async def caller(self, identity: Identity, request_id: str) -> Caller:
        """The caller with this identity; `Unauthorized` when they belong to its workspace no longer.

        Permissions are the role's, capped by the token's scopes; a session also has its person's own.
        """
        tenant, person = identity.tenant, identity.principal
        if tenant == person:
            return Caller(identity, REALM_PERMISSIONS)
        standing = self._standings.get((tenant, person))
        if standing is None:
            resolve = partial(self._resolve, tenant, person, request_id)
            standing = await self._standings.recall((tenant, person), resolve)
        if standing is None:
            raise Unauthorized("The token's owner does not belong to its workspace. Sign in to another one.")
        if identity.scopes is None:
            return Caller(identity, _with_own(standing))
        return Caller(identity, standing.intersection(identity.scopes))

    async def _look_up(self, key: bytes, token: str, request_id: str, address: str) -> Identity:
        sender = self._limits.require_known(address)
        try:
            return await self._identities.recall(key, partial(self._authenticate, token, request_id))
        except Unauthorized:
            self._limits.count_refused(sender)
            raise

    async def _authenticate(self, token: str, request_id: str) -> tuple[Identity, tuple[str, ...]]:
        ctx = service_context(ids.INSTALLATION, request_id, Internal.AUTHENTICATE)
        identity = await self._bus.call(ctx, Authenticate.model_validate({"token": token}))
        return identity, (identity.credential, identity.tenant, identity.principal)

    async def _resolve(
        self, tenant: str, person: str, request_id: str
    ) -> tuple[frozenset[str] | None, tuple[str, ...]]:
        ctx = service_context(tenant, request_id, Internal.RESOLVE)
        answer = await self._bus.call(ctx, Resolve(principal=person))
        standing = None if answer.role is None else frozenset(answer.permissions)
        return standing, (tenant, person, of_person(tenant, person))


@lru_cache(maxsize=1024)
def _with_own(standing: frozenset[str]) -> frozenset[str]:
    """A session's permissions; equal standings give the same set, whose hash is then known."""
    return standing | REALM_PERMISSIONS


def service_context(tenant: str, request_id: str, permission: str) -> AuthContext:
    """The gateway itself as the caller, before anybody is signed in."""
    return AuthContext(
        tenant=tenant,
        principal=_SERVICE,
        permissions=frozenset({permission}),
        issuer="gateway",
        request_id=request_id,
    )


def require(caller: Caller, permission: str, credentials: frozenset[str]) -> None:
    """Raise `Forbidden` unless this caller's kind of credential and permissions allow the act."""
    if caller.identity.kind not in credentials:
        raise Forbidden(f"This cannot be done with a {caller.identity.kind}. Use a {' or '.join(sorted(credentials))}.")
    if not permits(caller.permissions, permission):
        hint = (
            " Your token is not in a workspace: refresh it with 'workspace_id'."
            if caller.identity.tenant == caller.identity.principal
            else " Ask an administrator of the workspace."
        )
        raise Forbidden.lacking(permission, hint)


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN or not token.isascii():
        raise Unauthorized("Send 'Authorization: Bearer <token>' with an access token or personal access token.")
    return token
