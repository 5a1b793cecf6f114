"""Messages in: each command to its use case."""

from causeloop_auth.service import SessionService, TokenService
from causeloop_common.context import AuthContext
from causeloop_common.contracts.auth import (
    Authenticate,
    CreatedToken,
    CreateToken,
    Exchange,
    Grant,
    Identity,
    ListTokens,
    Logout,
    Refresh,
    RevokeToken,
    TokenPage,
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

    @commands.on(CreateToken)
    async def create_token(ctx: AuthContext, command: CreateToken) -> CreatedToken:
        return await tokens.create_token(ctx, command)

    @commands.on(ListTokens)
    async def list_tokens(ctx: AuthContext, command: ListTokens) -> TokenPage:
        return await tokens.list_tokens(ctx, command)

    @commands.on(RevokeToken)
    async def revoke_token(ctx: AuthContext, command: RevokeToken) -> Nothing:
        return await tokens.revoke_token(ctx, command)

    return commands
