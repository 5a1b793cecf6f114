"""The caller and their permissions: two questions, two caches.

auth answers with the identity behind a token, tenancy with that person's permissions in the token's workspace; here
the two meet. Both answers are remembered for a hard, non-sliding life and evicted by events. An answer is kept only
if no eviction of its key and no loss of the bus came since it was asked for. Without the bus nothing is remembered
and all are refused.
"""

import hashlib
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.auth import Authenticate, Identity
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.errors import Forbidden, Unauthorized
from causeloop_common.messaging import Bus
from causeloop_common.permissions import REALM_PERMISSIONS, Internal, permits
from causeloop_common.telemetry import metrics
from causeloop_gateway.limits import Limits

_REMEMBERED = 50_000
_LONGEST_TOKEN = 4096
_SERVICE = "svc_gateway"

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """A cache: answers by key, each with tags by which events evict it. When it is full, it forgets the oldest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, name: str = "memory") -> None:
        self._clock = clock
        self._hits = metrics.MEMORY_LOOKUPS.labels(name, "hit")
        self._misses = metrics.MEMORY_LOOKUPS.labels(name, "miss")
        self._evictions = metrics.MEMORY_EVICTIONS.labels(name)
        self._answers: dict[K, tuple[V, float, tuple[str, ...]]] = {}
        self._by_tag: dict[str, set[K]] = {}
        self._moment = 0
        self._cleared = 0
        self._evicted: dict[str, int] = {}

    def get(self, key: K) -> V | None:
        """The remembered value, if it is not too old."""
        found = self._answers.get(key)
        if found is None:
            self._misses.inc()
            return None
        if self._clock() >= found[1]:
            self._drop(key)
            self._misses.inc()
            return None
        self._hits.inc()
        return found[0]

    def begin(self) -> "_Begun":
        """The state before a question is sent, for `keep`."""
        return _Begun(self._moment, self._clock())

    def keep(self, begun: "_Begun", key: K, value: V, tags: tuple[str, ...], seconds: float) -> None:
        """Remember an answer for this long since its question, unless it was evicted before it came."""
        if begun.moment < self._cleared or any(self._evicted.get(tag, 0) > begun.moment for tag in tags):
            return
        self._drop(key)
        if len(self._answers) >= _REMEMBERED:
            self._drop(next(iter(self._answers)))
        self._answers[key] = (value, begun.at + seconds, tags)
        for tag in tags:
            self._by_tag.setdefault(tag, set()).add(key)

    def evict(self, tag: str) -> None:
        """Forget every answer with this tag, and those that are still to come."""
        self._moment += 1
        if len(self._evicted) >= _REMEMBERED:  # rather lose answers to come than remember evictions for ever
            self._evicted.clear()
            self._cleared = self._moment
        self._evicted[tag] = self._moment
        for key in self._by_tag.pop(tag, set()).copy():
            self._drop(key)
            self._evictions.inc()

    def clear(self) -> None:
        """Forget every answer, and those that are still to come."""
        self._moment += 1
        self._cleared = self._moment
        self._evictions.inc(len(self._answers))
        self._answers.clear()
        self._by_tag.clear()
        self._evicted.clear()

    def _drop(self, key: K) -> None:
        _, _, tags = self._answers.pop(key, (None, 0.0, ()))
        for tag in tags:
            if (keys := self._by_tag.get(tag)) is not None:
                keys.discard(key)
                if not keys:
                    del self._by_tag[tag]


class _Begun(NamedTuple):
    """The last eviction before a question was sent, and the time."""

    moment: int
    at: float


class Caller(NamedTuple):
    """A signed-in caller."""

    identity: Identity
    permissions: frozenset[str]


class Security:
    """Finds the caller of a bearer token."""

    def __init__(self, bus: Bus, limits: Limits, *, remembered_seconds: float = 30.0) -> None:
        self._bus = bus
        self._limits = limits
        self._remembered_seconds = remembered_seconds
        self._identities: Remembered[bytes, Identity] = Remembered(name="identities")
        self._standings: Remembered[tuple[str, str], frozenset[str] | None] = Remembered(name="standings")
        self.on_evict: list[Callable[[str], None]] = []
        """Called with an evicted credential or tenant, so that its open streams ask again."""
        bus.on_disconnect.append(self.forget)
        for kind in ("now", "evt"):  # published before the answer; and again by the relay, if the first is lost
            bus.follow(f"{kind}.*.auth.>", self._on_auth)
            bus.follow(f"{kind}.*.tenancy.>", self._on_tenancy)

    def forget(self) -> None:
        """Forget everybody."""
        self._identities.clear()
        self._standings.clear()

    async def caller(
        self,
        authorization: str | None,
        request_id: str,
        traceparent: str,
        *,
        address: Callable[[], str],
        admit: Callable[[Identity], None],
    ) -> Caller:
        """The caller with this Authorization header; `Unauthorized` without a valid one.

        `admit` may refuse the identity, before it is asked what it is permitted. RateLimited when too many tokens from
        `address` were refused.
        """
        _ = self._bus.client  # without the bus nobody is known
        token = _bearer(authorization)
        identity = await self._identify(token, request_id, traceparent, address)
        if identity.expires_at <= datetime.now(UTC):
            raise Unauthorized("The token has expired. Sign in again or use another token.")
        admit(identity)
        permissions = await self._permissions(identity, request_id, traceparent)
        return Caller(identity, permissions)

    async def _identify(self, token: str, request_id: str, traceparent: str, address: Callable[[], str]) -> Identity:
        key = hashlib.sha256(token.encode()).digest()
        known = self._identities.get(key)
        if known is not None:
            return known
        begun = self._identities.begin()
        ctx = service_context(ids.INSTALLATION, request_id, traceparent, Internal.AUTHENTICATE)
        sender = self._limits.require_known(address())
        try:
            identity = await self._bus.call(ctx, Authenticate.model_validate({"token": token}))
        except Unauthorized:
            self._limits.count_refused(sender)
            raise
        self._identities.keep(begun, key, identity, (identity.credential,), self._remembered_seconds)
        return identity

    async def _permissions(self, identity: Identity, request_id: str, traceparent: str) -> frozenset[str]:
        """The role's permissions, capped by the token's scopes; a session also has its person's own."""
        if identity.tenant == identity.principal:
            return REALM_PERMISSIONS
        standing = await self._standing(identity, request_id, traceparent)
        if standing is None:
            raise Unauthorized("The token's owner does not belong to its workspace. Sign in to another one.")
        if identity.scopes is None:
            return _with_own(standing)
        return standing.intersection(identity.scopes)

    async def _standing(self, identity: Identity, request_id: str, traceparent: str) -> frozenset[str] | None:
        key = (identity.tenant, identity.principal)
        known = self._standings.get(key)
        if known is not None:
            return known
        begun = self._standings.begin()
        ctx = service_context(identity.tenant, request_id, traceparent, Internal.RESOLVE)
        answer = await self._bus.call(ctx, Resolve(principal=identity.principal))
        standing = None if answer.role is None else frozenset(answer.permissions)
        self._standings.keep(begun, key, standing, (identity.tenant,), self._remembered_seconds)
        return standing

    async def _on_auth(self, event: Announced) -> None:
        self._identities.evict(event.target)
        self._evicted(event.target)

    async def _on_tenancy(self, event: Announced) -> None:
        self._standings.evict(event.tenant)
        self._evicted(event.tenant)

    def _evicted(self, tag: str) -> None:
        for react in self.on_evict:
            react(tag)


@lru_cache(maxsize=1024)
def _with_own(standing: frozenset[str]) -> frozenset[str]:
    """A session's permissions; equal standings give the same set, whose hash is then known."""
    return standing | REALM_PERMISSIONS


def service_context(tenant: str, request_id: str, traceparent: str, permission: str) -> AuthContext:
    """The gateway itself as the caller, before anybody is signed in."""
    return AuthContext(
        tenant=tenant,
        principal=_SERVICE,
        permissions=frozenset({permission}),
        issuer="gateway",
        request_id=request_id,
        traceparent=traceparent,
    )


def require(caller: Caller, permission: str, credentials: frozenset[str]) -> None:
    """Raise `Forbidden` unless this caller's kind of credential and permissions allow the act."""
    if caller.identity.kind not in credentials:
        raise Forbidden(f"This cannot be done with a {caller.identity.kind}. Use a {' or '.join(sorted(credentials))}.")
    if not permits(caller.permissions, permission):
        hint = (
            "Your token is not in a workspace: refresh it with 'workspace_id'."
            if caller.identity.tenant == caller.identity.principal
            else "Ask an administrator of the workspace."
        )
        raise Forbidden(f"This needs the permission '{permission}'. {hint}")


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN or not token.isascii():
        raise Unauthorized("Send 'Authorization: Bearer <token>' with an access token or personal access token.")
    return token
