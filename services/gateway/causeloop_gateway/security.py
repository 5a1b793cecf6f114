"""The caller and their permissions: two questions, two memories.

auth answers with the identity behind a token, tenancy with that person's permissions in the token's workspace; here
the two meet. A token's first use asks both at once, tenancy about the person that the token claims to be of: that
answer counts, and is kept, only if auth then names the same person and workspace. Both answers are remembered until an
event makes them untrue, the bus is lost or their time is over, and asked for anew meanwhile while they are in use.
Without the bus all are refused.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Literal, NamedTuple

from causeloop_common import ids
from causeloop_common.context import Assurance, AuthContext
from causeloop_common.contracts.auth import Authenticate
from causeloop_common.contracts.bearer import Claim, claimed
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.errors import Forbidden, Unauthorized
from causeloop_common.memory import Memories, Memory, of_person
from causeloop_common.messaging import Bus
from causeloop_common.permissions import REALM_PERMISSIONS, Internal, permits, shared
from causeloop_gateway.limits import Limits

_REMEMBERED = 50_000
_LONGEST_TOKEN = 4096
_SERVICE = "svc_gateway"


class Identity(NamedTuple):
    """The identity behind a token, as auth's answer names it. This form of it is kept, since it is small."""

    principal: str
    tenant: str
    credential: str
    kind: Literal["session", "token"]
    scopes: frozenset[str] | None
    expires_at: datetime
    assurance: Assurance
    authenticated_at: int | None
    on_behalf_of: str | None

    def context(self, permissions: frozenset[str], request_id: str) -> AuthContext:
        """The context of a request with this token."""
        return AuthContext(
            tenant=self.tenant,
            principal=self.principal,
            permissions=permissions,
            credential=self.credential,
            assurance=self.assurance,
            authenticated_at=self.authenticated_at,
            on_behalf_of=self.on_behalf_of,
            issuer="gateway",
            request_id=request_id,
        )


class Caller(NamedTuple):
    """A signed-in caller."""

    identity: Identity
    permissions: frozenset[str]


Standing = frozenset[str] | None
"""A person's permissions in a workspace; None of one who does not belong to it."""


class Security:
    """Finds the caller of a bearer token."""

    def __init__(self, bus: Bus, memories: Memories, limits: Limits, *, remembered_seconds: float = 30.0) -> None:
        self._bus = bus
        self._limits = limits
        self._identities: Memory[bytes, Identity] = memories.memory(
            "identities", seconds=remembered_seconds, most=_REMEMBERED
        )
        self._standings: Memory[str, Standing] = memories.memory(
            "standings", seconds=remembered_seconds, most=_REMEMBERED
        )
        """By `of_person`."""

    async def identify(self, authorization: str | None, request_id: str, address: Callable[[], str]) -> Identity:
        """The identity behind this Authorization header; `Unauthorized` without a valid one.

        RateLimited when too many tokens from `address` were refused.
        """
        _ = self._bus.client  # without the bus nobody is known
        token = _bearer(authorization)
        key = hashlib.sha256(token.encode()).digest()
        identity = self._identities.get(key, partial(self._authenticate, token, request_id))
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
        key = of_person(tenant, person)
        resolve = partial(self._resolve, tenant, person, request_id, key)
        standing = self._standings.get(key, resolve)
        if standing is None:
            standing = await self._standings.recall(key, resolve)
        if standing is None:
            raise Unauthorized("The token's owner does not belong to its workspace. Sign in to another one.")
        return Caller(identity, _held(standing, identity.scopes))

    async def _look_up(self, key: bytes, token: str, request_id: str, address: str) -> Identity:
        sender = self._limits.require_known(address)
        try:
            return await self._identities.recall(key, partial(self._authenticate, token, request_id))
        except Unauthorized:
            self._limits.count_refused(sender)
            raise

    async def _authenticate(self, token: str, request_id: str) -> tuple[Identity, tuple[str, ...]]:
        ctx = service_context(ids.INSTALLATION, request_id, Internal.AUTHENTICATE)
        claim = claimed(token)
        async with self._asking(claim, request_id) as standing_is_there:
            answer = await self._bus.call(ctx, Authenticate.model_validate({"token": token}))
            scopes = None if answer.scopes is None else shared(answer.scopes)
            identity = Identity(**{**dict(answer), "scopes": scopes})
            if (identity.tenant, identity.principal) == claim:
                await standing_is_there(identity)
        return identity, (identity.credential, identity.tenant, identity.principal)

    @asynccontextmanager
    async def _asking(
        self, claim: Claim | None, request_id: str
    ) -> AsyncIterator[Callable[[Identity], Awaitable[None]]]:
        """Ask what a claimed person may do, while the block asks whether the claim is true; then it awaits the answer,
        which is kept. An answer that nobody awaits is as if nobody had asked.
        """
        key = "" if claim is None else of_person(*claim)
        if claim is None or claim.tenant == claim.person or self._standings.get(key) is not None:
            yield _nothing
            return
        began, asked = self._standings.begin(), asyncio.create_task(self._resolve(*claim, request_id, key))
        asked.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may be that nobody awaits it

        async def answered(identity: Identity) -> None:
            standing, _ = await asked
            if standing is not None:
                self._standings.keep(began, key, standing, identity.tenant, identity.principal, key)

        try:
            yield answered
        finally:
            asked.cancel()

    async def _resolve(self, tenant: str, person: str, request_id: str, key: str) -> tuple[Standing, tuple[str, ...]]:
        ctx = service_context(tenant, request_id, Internal.RESOLVE)
        answer = await self._bus.call(ctx, Resolve(principal=person))
        standing = None if answer.role is None else shared(answer.permissions)
        return standing, (tenant, person, key)


async def _nothing(_: Identity) -> None:
    """Nothing was asked."""


@lru_cache(maxsize=1024)
def _held(standing: frozenset[str], scopes: frozenset[str] | None) -> frozenset[str]:
    """A token's permissions, or a session's. Equal callers get the same set, whose hash is then known."""
    return standing | REALM_PERMISSIONS if scopes is None else standing & scopes


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
