"""Messages in: each command with its use case."""

from causeloop_auth.service import SessionService, TokenService
from causeloop_common.contracts.auth import (
    Authenticate,
    CreateApiToken,
    Exchange,
    ListApiTokens,
    Logout,
    Refresh,
    RevokeApiToken,
)
from causeloop_common.messaging import CommandRouter


def router(sessions: SessionService, tokens: TokenService) -> CommandRouter:
    """The commands that auth answers."""
    return CommandRouter(
        {
            Exchange: sessions.exchange,
            Refresh: sessions.refresh,
            Logout: sessions.logout,
            Authenticate: tokens.authenticate,
            CreateApiToken: tokens.create_api_token,
            ListApiTokens: tokens.list_api_tokens,
            RevokeApiToken: tokens.revoke_api_token,
        }
    )
