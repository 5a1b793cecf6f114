"""Personal access tokens, and the identity behind a bearer token."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from causeloop_auth import repository
from causeloop_auth.domain import access, handles
from causeloop_common import ids
from causeloop_common.context import Assurance, AuthContext
from causeloop_common.contracts.auth import (
    ApiTokenPage,
    ApiTokenView,
    Authenticate,
    CreateApiToken,
    CreatedApiToken,
    Identity,
    ListApiTokens,
    RevokeApiToken,
    TokenCreated,
    TokenRevoked,
)
from causeloop_common.contracts.base import Nothing
from causeloop_common.contracts.lists import page
from causeloop_common.database import Database
from causeloop_common.errors import Forbidden, NotFound, Unauthorized
from causeloop_common.permissions import Permission


def _now() -> datetime:
    return datetime.now(UTC)


class TokenService:
    """Authenticate; make, list and revoke personal access tokens."""

    def __init__(
        self,
        database: Database,
        access_key: bytes,
        *,
        clock: Callable[[], datetime] = _now,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database = database
        self._access_key = access_key
        self._clock = clock
        self._entropy = entropy

    async def authenticate(self, ctx: AuthContext, command: Authenticate) -> Identity:
        """The identity behind a token; one refusal for every reason, so that the reason stays unknown."""
        text = command.token.get_secret_value()
        if (handle := handles.parse(text, "pat")) is not None:
            identity = await self._of_token(ctx.of_tenant(handle.tenant), handle)
        elif (claims := access.read(self._access_key, text, now=self._clock())) is not None:
            identity = await self._of_session(ctx.of_tenant(claims.person), claims)
        else:
            identity = None
        if identity is None:
            raise Unauthorized("The token is not, or no longer, valid. Sign in again or use another token.")
        return identity

    async def create_api_token(self, ctx: AuthContext, command: CreateApiToken) -> CreatedApiToken:
        """Make a token for oneself, with no more than one holds; its secret is in this answer only."""
        if not (ctx.credential or "").startswith("ses_"):
            raise Forbidden("A token cannot make tokens. Sign in with a session.")
        scopes = sorted(set(map(str, command.scopes)))
        if not ctx.permissions.issuperset(scopes):
            beyond = ", ".join(sorted(set(scopes) - ctx.permissions))
            raise Forbidden(f"You cannot grant what you do not hold: {beyond}.")
        async with self._database.transaction(ctx, command) as tx:
            now, token_id = self._clock(), ids.new("tok")
            expires_at = now + timedelta(days=command.expires_in_days)
            token = ApiTokenView(
                id=token_id,
                name=command.name,
                scopes=scopes,
                owner=ctx.principal,
                created_at=now,
                expires_at=expires_at,
                revoked_at=None,
            )
            entropy = self._entropy(handles.SECRET_BYTES)
            secret = handles.make("pat", ctx.tenant, token_id, entropy, owner=ctx.principal)

            repository.add_token(tx, token, handles.digest(secret))

            tx.publish(TokenCreated(token_id=token_id, scopes=scopes))
            return tx.answer(CreatedApiToken.of(token, token=secret))

    async def list_api_tokens(self, ctx: AuthContext, command: ListApiTokens) -> ApiTokenPage:
        """One's own tokens in the workspace, newest first."""
        async with self._database.reading(ctx) as tx:
            found = await repository.own_tokens_before(tx, ctx.principal, command.position, command.wanted)
        return page(found, command, key=lambda token: token.id)

    async def revoke_api_token(self, ctx: AuthContext, command: RevokeApiToken) -> Nothing:
        """Revoke one's own token, or anybody's with `tokens:write`."""
        async with self._database.transaction(ctx, command) as tx:
            token = await repository.token(tx, command.id)
            if token is None or (token.owner != ctx.principal and Permission.TOKENS_WRITE not in ctx.permissions):
                raise NotFound("There is no such token in this workspace.")

            if await repository.revoke_token(tx, command.id, self._clock()):
                tx.publish(TokenRevoked(token_id=command.id))
            return tx.answer(Nothing())

    async def _of_token(self, ctx: AuthContext, handle: handles.Handle) -> Identity | None:
        async with self._database.reading(ctx) as tx:
            token = await repository.token_by_digest(tx, handle.digest)
        if token is None or token.revoked_at is not None or self._clock() >= token.expires_at:
            return None
        return Identity(
            principal=token.owner,
            tenant=handle.tenant,
            credential=token.id,
            kind="token",
            scopes=token.scopes,
            expires_at=token.expires_at,
            assurance=Assurance.NONE,
            authenticated_at=None,
        )

    async def _of_session(self, ctx: AuthContext, claims: access.AccessClaims) -> Identity | None:
        async with self._database.reading(ctx) as tx:
            session = await repository.session(tx, claims.session)
        if session is None or session.family.ended or self._clock() >= session.family.expires_at:
            return None
        return Identity(
            principal=claims.person,
            tenant=claims.tenant,
            credential=claims.session,
            kind="session",
            scopes=None,
            expires_at=claims.expires_at,
            assurance=Assurance.SINGLE,
            authenticated_at=int(session.created_at.timestamp()),
        )
