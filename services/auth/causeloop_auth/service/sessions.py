"""Sessions: signing in, moving between workspaces, signing out."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import orjson
from pydantic import SecretStr

from causeloop_auth import repository
from causeloop_auth.domain import access, handles, rotation
from causeloop_auth.domain.rotation import Family, Verdict
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.auth import (
    SESSION,
    Exchange,
    Grant,
    Logout,
    Refresh,
    SessionEnded,
    SessionRefreshed,
    SessionStarted,
)
from causeloop_common.contracts.base import Nothing
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.contracts.vault import Seal, StoreSealedValue
from causeloop_common.database import Database
from causeloop_common.errors import InvalidGrant, NotFound
from causeloop_common.messaging import Bus
from causeloop_common.permissions import REALM_PERMISSIONS, Internal


class Subject(NamedTuple):
    """A person as their identity provider names them."""

    issuer: str
    subject: str


class Provider(Protocol):
    """An identity provider."""

    async def verify(self, token: str) -> Subject:
        """A session token's subject; InvalidGrant when it is not good, Unavailable when that cannot be known now."""
        ...


SESSION_LIFETIME = timedelta(days=30)


def _now() -> datetime:
    return datetime.now(UTC)


class SessionService:
    """Exchange, refresh, logout."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        provider: Provider,
        access_key: bytes,
        refresh_key: bytes,
        *,
        access_seconds: int = 900,
        clock: Callable[[], datetime] = _now,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database = database
        self._bus = bus
        self._provider = provider
        self._access_key = access_key
        self._refresh_key = refresh_key
        self._access_seconds = access_seconds
        self._clock = clock
        self._entropy = entropy

    async def exchange(self, ctx: AuthContext, command: Exchange) -> Grant:
        """Start a session for the person who signed in at the identity provider."""
        subject = await self._provider.verify(command.subject_token.get_secret_value())
        person, session = ids.realm(*subject), ids.new("ses")
        ctx = replace(ctx.of_tenant(person), principal=person, credential=session)
        scope = await self._scope(ctx, command.workspace_id)
        if scope is None:
            raise _no_workspace()
        address, device = (given.get_secret_value() if given else None for given in (command.address, command.device))
        sealed = await self._seal(ctx, session, {"address": address, "device": device})

        now, refresh_token = self._clock(), self._refresh_token(person, session)
        family = Family((handles.digest(refresh_token),), (), now, now + SESSION_LIFETIME, ended=False)

        async with self._database.transaction(ctx) as tx:
            repository.add_session(tx, session, family, command.workspace_id, now)

            tx.publish(SessionStarted(session_id=session, sealed=sealed))
        return self._grant(person, session, command.workspace_id, scope, refresh_token)

    async def refresh(self, ctx: AuthContext, command: Refresh) -> Grant:
        """Rotate the refresh token; one that was used before ends the session.

        The token is judged before anybody is asked about workspaces, so that a stranger learns nothing and a reused
        one never gets that far; and again, under lock, when the answer is there.
        """
        handle = handles.parse(command.refresh_token.get_secret_value(), "rt")
        if handle is None or not handles.was_issued(self._refresh_key, handle):
            raise _refused()
        person, session = handle.tenant, f"ses_{handle.suffix}"
        ctx = replace(ctx.of_tenant(person), principal=person, credential=session)
        found = await self._judge(ctx, session, handle.digest)

        entered = command.workspace_id or found.entered
        scope = await self._scope(ctx, entered)
        if scope is None and command.workspace_id is not None:
            raise _no_workspace()
        if scope is None:  # the session stays where its person no longer belongs: back to the realm
            entered, scope = None, REALM_PERMISSIONS

        refresh_token = self._refresh_token(person, session)
        await self._judge(ctx, session, handle.digest, successor=handles.digest(refresh_token), entered=entered)
        return self._grant(person, session, entered, scope, refresh_token)

    async def _judge(
        self,
        ctx: AuthContext,
        session: str,
        presented: bytes,
        successor: bytes | None = None,
        entered: str | None = None,
    ) -> repository.Session:
        """The verdict on a refresh token, under lock and acted upon: with a `successor` a good one is rotated."""
        now = self._clock()
        async with self._database.transaction(ctx) as tx:
            found = await repository.session(tx, session, lock=True)
            verdict = Verdict.GONE if found is None else rotation.judge(found.family, presented, now)

            if verdict is Verdict.REUSE and await repository.end_session(tx, session, now):
                tx.publish(SessionEnded(session_id=session, reason="refresh_reuse"))
            elif found is not None and successor is not None and verdict in (Verdict.ROTATE, Verdict.REPEAT):
                family = rotation.rotate(found.family, presented, successor, now)
                repository.rotate(tx, session, family, entered)
                tx.publish(SessionRefreshed(session_id=session, workspace_id=entered))
        if found is None or verdict in (Verdict.GONE, Verdict.REUSE):
            raise _refused()
        return found

    async def logout(self, ctx: AuthContext, command: Logout) -> Nothing:
        """End the session of the calling access token."""
        session = ctx.credential or ""
        realm = ctx.of_tenant(ctx.principal)
        async with self._database.transaction(realm) as tx:
            if await repository.end_session(tx, session, self._clock()):
                tx.publish(SessionEnded(session_id=session, reason="logout"))
        return Nothing()

    async def _scope(self, ctx: AuthContext, workspace: str | None) -> frozenset[str] | None:
        """The person's permissions there; None if they do not belong to it."""
        if workspace is None:
            return REALM_PERMISSIONS
        asked = ctx.of_tenant(workspace, Internal.RESOLVE)
        standing = await self._bus.call(asked, Resolve(principal=ctx.principal))
        return None if standing.role is None else frozenset(standing.permissions)

    async def _seal(self, ctx: AuthContext, session: str, personal: dict[str, str | None]) -> str:
        """Personal data under the realm's key: stored by the vault, and sealed for a log that is never rewritten."""
        value = {"purpose": SESSION.name, "record": session, "plaintext": SecretStr(orjson.dumps(personal).decode())}
        await self._bus.call(
            ctx.of_tenant(ctx.tenant, Internal.STORE_SEALED_VALUE), StoreSealedValue.model_validate(value)
        )
        return (await self._bus.call(ctx.of_tenant(ctx.tenant, Internal.SEAL), Seal.model_validate(value))).ciphertext

    def _refresh_token(self, person: str, session: str) -> str:
        nonce = self._entropy(handles.NONCE_BYTES)
        return handles.make("rt", person, session, handles.issued_secret(self._refresh_key, person, session, nonce))

    def _grant(
        self, person: str, session: str, workspace: str | None, scope: frozenset[str], refresh_token: str
    ) -> Grant:
        token = access.make(
            self._access_key, person, session, workspace or person, now=self._clock(), seconds=self._access_seconds
        )
        return Grant.model_validate(
            {
                "access_token": token,
                "refresh_token": refresh_token,
                "expires_in": self._access_seconds,
                "scope": " ".join(sorted(scope)),
                "workspace_id": workspace,
            }
        )


def _no_workspace() -> NotFound:
    return NotFound("There is no such workspace.")


def _refused() -> InvalidGrant:
    return InvalidGrant("The refresh token is not, or no longer, good. Sign in again.")
