"""What auth answers and announces: sessions, tokens, who somebody is."""

from typing import Annotated, Literal

from pydantic import Field

from causeloop_common.contracts.base import (
    Command,
    Event,
    Label,
    Message,
    Nothing,
    Page,
    PersonId,
    Sealed,
    SessionId,
    TenantId,
    Timestamp,
    TokenId,
    WorkspaceId,
)
from causeloop_common.permissions import SELF, Internal, Permission

RETIRED: frozenset[str] = frozenset({"CreateToken", "ListTokens", "RevokeToken"})

Scopes = Annotated[list[Permission], Field(min_length=1, max_length=len(Permission))]


class Grant(Message):
    """A pair of tokens (RFC 6749 5.1). `workspace_id` is null for a realm token; `scope` is space-separated."""

    access_token: Sealed
    refresh_token: Sealed
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  a scheme's name
    expires_in: int = Field(description="Seconds until the access token expires.")
    scope: str = Field(description="What the access token allows now, space-separated.")
    workspace_id: WorkspaceId | None


class Exchange(Command[Grant], permission=Internal.SIGN_IN, keyed=False):
    """Exchange a session token of the identity provider for a pair of ours."""

    subject_token: Sealed = Field(description="The identity provider's session token (RS256 JWT).")
    workspace_id: WorkspaceId | None = Field(default=None, description="Enter this workspace at once.")
    address: Sealed | None = Field(default=None, description="The client's address, sealed at rest too.")
    device: Sealed | None = Field(default=None, description="The client's User-Agent, sealed at rest too.")


class Refresh(Command[Grant], permission=Internal.SIGN_IN, keyed=False):
    """Rotate a refresh token; with `workspace_id` move into a workspace one belongs to."""

    refresh_token: Sealed
    workspace_id: WorkspaceId | None = Field(default=None, description="Absent: stay where the session is.")


class Logout(Command[Nothing], permission=SELF, keyed=False):
    """End the session of the calling access token."""


class Identity(Message):
    """Who a token stands for. `scopes` caps the permissions; null when the token is a session's."""

    principal: PersonId
    tenant: TenantId
    credential: str
    kind: Literal["session", "token"]
    scopes: list[str] | None
    expires_at: Timestamp


class Authenticate(Command[Identity], permission=Internal.AUTHENTICATE, keyed=False):
    """Say who a bearer token stands for."""

    token: Sealed


class ApiTokenView(Message):
    """A personal access token without its secret."""

    id: TokenId
    name: str
    scopes: list[str]
    owner: PersonId
    created_at: Timestamp
    expires_at: Timestamp
    revoked_at: Timestamp | None


class CreatedApiToken(ApiTokenView):
    """A personal access token with its secret, shown this once."""

    token: Sealed


class CreateApiToken(Command[CreatedApiToken], permission=Permission.TOKENS_OWN):
    """Make a personal access token for oneself in the current workspace."""

    name: Label
    scopes: Scopes = Field(description="Nobody grants what they do not hold.")
    expires_in_days: int = Field(default=90, ge=1, le=365)


class ApiTokenPage(Page):
    """Tokens, newest first."""

    data: list[ApiTokenView]


class ListApiTokens(Command[ApiTokenPage], permission=Permission.TOKENS_OWN, keyed=False):
    """One's own personal access tokens in the current workspace."""

    limit: int = Field(default=25, ge=1, le=100)
    position: str | None = Field(default=None, max_length=512)


class RevokeApiToken(Command[Nothing], permission=Permission.TOKENS_OWN):
    """Revoke a personal access token; one's own, or anybody's with `tokens:write`."""

    id: TokenId


class SessionStarted(Event, target="session_id"):
    """A person signed in. `sealed` holds device and address under the key of the person's realm."""

    session_id: SessionId
    sealed: str


class SessionRefreshed(Event, target="session_id"):
    """A session's refresh token was rotated; `workspace_id` is where the session is now."""

    session_id: SessionId
    workspace_id: WorkspaceId | None = None


class SessionEnded(Event, target="session_id"):
    """A session is over, with all its tokens."""

    session_id: SessionId
    reason: Literal["logout", "refresh_reuse"]


class TokenCreated(Event, target="token_id"):
    """A personal access token was made."""

    token_id: TokenId
    scopes: list[str]


class TokenRevoked(Event, target="token_id"):
    """A personal access token was revoked."""

    token_id: TokenId
