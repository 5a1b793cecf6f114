"""Messages in: each command to its use case."""

from causeloop_auth.service import SessionService, TokenService
from causeloop_common.context import AuthContext
from causeloop_common.contracts.auth import (
    ApiTokenPage,
    Authenticate,
    CreateApiToken,
    CreatedApiToken,
    Exchange,
    Grant,
    Identity,
    ListApiTokens,
    Logout,
    Refresh,
    RevokeApiToken,
)
from causeloop_common.contracts.base import Nothing
from causeloop_common.messaging import CommandRouter


def router(sessions: SessionService, tokens: TokenService) -> CommandRouter:
    """What auth answers."""
    commands = CommandRouter()

    @commands.on(Exchange)
    async def exchange(ctx: AuthContext, command: Exchange) -> Grant:
        return await sessions.exchange(ctx, command)

    @commands.on(Refresh)
    async def refresh(ctx: AuthContext, command: Refresh) -> Grant:
        return await sessions.refresh(ctx, command)

    @commands.on(Logout)
    async def logout(ctx: AuthContext, command: Logout) -> Nothing:
        return await sessions.logout(ctx, command)

    @commands.on(Authenticate)
    async def authenticate(ctx: AuthContext, command: Authenticate) -> Identity:
        return await tokens.authenticate(ctx, command)

    @commands.on(CreateApiToken)
    async def create_api_token(ctx: AuthContext, command: CreateApiToken) -> CreatedApiToken:
        return await tokens.create_api_token(ctx, command)

    @commands.on(ListApiTokens)
    async def list_api_tokens(ctx: AuthContext, command: ListApiTokens) -> ApiTokenPage:
        return await tokens.list_api_tokens(ctx, command)

    @commands.on(RevokeApiToken)
    async def revoke_api_token(ctx: AuthContext, command: RevokeApiToken) -> Nothing:
        return await tokens.revoke_api_token(ctx, command)

    return commands
