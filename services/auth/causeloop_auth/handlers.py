"""Messages in: each command with its use case."""

from causeloop_auth.service import SessionService, TokenService
from causeloop_common.contracts import auth
from causeloop_common.messaging import CommandRouter


def router(sessions: SessionService, tokens: TokenService) -> CommandRouter:
    """The commands that auth answers."""
    return CommandRouter(
        {
            auth.Exchange: sessions.exchange,
            auth.Refresh: sessions.refresh,
            auth.Logout: sessions.logout,
            auth.Authenticate: tokens.authenticate,
            auth.CreateApiToken: tokens.create_api_token,
            auth.ListApiTokens: tokens.list_api_tokens,
            auth.RevokeApiToken: tokens.revoke_api_token,
        }
    )
