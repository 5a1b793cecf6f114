"""Auth's contract: sessions, tokens, and the identity behind a token."""

from typing import Annotated, Literal

from pydantic import Field

from causeloop_common.context import Assurance
from causeloop_common.contracts import jobs
from causeloop_common.contracts.base import (
    Command,
    Event,
    Label,
    Message,
    Nothing,
    PersonId,
    PrincipalId,
    Sealed,
    SessionId,
    TenantId,
    Timestamp,
    TokenId,
    WorkspaceId,
)
from causeloop_common.contracts.limits import ADDRESS, MINUTE, PRINCIPAL, Limit
from causeloop_common.contracts.lists import List, Page
from causeloop_common.contracts.personal import CLIENT, SEALED_CLIENT, Ciphertext
from causeloop_common.contracts.purpose import Purpose
from causeloop_common.permissions import SELF, Internal, Permission

RETIRED: frozenset[str] = frozenset({"CreateToken", "ListTokens", "RevokeToken"})

_REFRESH_TOKEN = "clp_rt_usr_2h0eg30cktgbqvs80a30kq0sre_…"  # noqa: S105  for examples

ScopeNames = Annotated[
    list[str],
    Field(description="The permissions that the token may use at most.", examples=[["secrets:read", "secrets:reveal"]]),
]


class Grant(Message):
    """An access token and a refresh token (RFC 6749 5.1)."""

    access_token: Sealed = Field(description="Sent as `Authorization: Bearer …`.", examples=["eyJhbGciOiJIUzI1NiIs…"])
    refresh_token: Sealed = Field(description="Exchanged once for the next pair.", examples=[_REFRESH_TOKEN])
    token_type: Literal["Bearer"] = Field(default="Bearer", description="How the access token is sent.")
    expires_in: int = Field(description="Seconds until the access token expires.", examples=[900])
    scope: str = Field(
        description="The permissions that the access token has now, separated by spaces.",
        examples=["secrets:read secrets:reveal workspace:read"],
    )
    workspace_id: WorkspaceId | None = Field(
        description="The workspace that the access token is for; null for the person's own realm, where there are no "
        "secrets, keys or entries, but workspaces can be created."
    )


class Exchange(Command[Grant], permission=Internal.SIGN_IN, keyed=False, limit=Limit(60, per=MINUTE, by=ADDRESS)):
    """Exchange a session of the identity provider for a pair of tokens.

    Take `subject_token` from your identity provider's client library. Beside `make dev` it is the `token` that the mock
    issuer answers to `POST /v1/sessions` with `{"subject": "alice"}`; `issuer_url` in `.causeloop/dev.json` is its
    address. Send `workspace_id` too, to sign in to a workspace: that of alice's demo workspace is in the same file.
    """

    subject_token: Sealed = Field(
        description="The identity provider's session token: a JWT, signed with RS256.",
        examples=["eyJhbGciOiJSUzI1NiIs…"],
    )
    workspace_id: WorkspaceId | None = Field(
        default=None, description="The workspace to enter at once. Absent: the person's own realm."
    )
    address: Annotated[Sealed | None, CLIENT] = Field(
        default=None, description="The client's address, sealed at rest too."
    )
    device: Annotated[Sealed | None, CLIENT] = Field(
        default=None, description="The client's User-Agent, sealed at rest too."
    )


class Refresh(Command[Grant], permission=Internal.SIGN_IN, keyed=False, limit=Limit(300, per=MINUTE, by=ADDRESS)):
    """Exchange a refresh token for the next pair of tokens.

    Take `refresh_token` from the answer to `exchange` or to the last `refresh`; it is good once. With `workspace_id`
    the session moves into that workspace. A refresh token that was used before ends the session, for it may be stolen;
    for 30 seconds it is accepted again, so that a lost answer or a second tab ends nothing. Tabs share their tokens: of
    two tokens that came from one, the one that is used first remains.
    """

    refresh_token: Sealed = Field(description="The refresh token of the last pair.", examples=[_REFRESH_TOKEN])
    workspace_id: WorkspaceId | None = Field(
        default=None, description="The workspace to move into. Absent: the session stays where it is."
    )


class Logout(Command[Nothing], permission=SELF, keyed=False):
    """End the session.

    Its access token and its refresh token are refused from then on: sign in again to go on.
    """


class Identity(Message):
    """The identity behind a token."""

    principal: PrincipalId = Field(description="The person or service account that the token stands for.")
    tenant: TenantId = Field(description="The workspace, or the person's own realm, that the token is for.")
    credential: str = Field(description="The id of the session or of the personal access token.")
    kind: Literal["session", "token"] = Field(description="An access token of a session, or a personal access token.")
    scopes: list[str] | None = Field(description="The permissions that the token may use at most; null: no limit.")
    expires_at: Timestamp = Field(description="The time from which the token is refused.")
    assurance: Assurance = Field(description="How strong the sign-in was: 0 none, 1 one factor, 2 two factors.")
    authenticated_at: int | None = Field(
        description="The time of the sign-in, in seconds since 1970; null for a token that needs none."
    )
    on_behalf_of: PrincipalId | None = Field(
        default=None, description="The principal for whom it acts, if that is another one."
    )


class Authenticate(
    Command[Identity], permission=Internal.AUTHENTICATE, keyed=False, limit=Limit(60, per=MINUTE, by=ADDRESS)
):
    """Find the identity behind a bearer token. The limit counts tokens that are refused."""

    token: Sealed = Field(description="An access token or a personal access token.")


class ApiTokenView(Message):
    """A personal access token without its secret."""

    id: TokenId
    name: str = Field(description="The name that its owner gave it.", examples=["ci"])
    scopes: ScopeNames
    owner: PersonId = Field(description="The person that the token stands for.")
    created_at: Timestamp = Field(description="The time of its creation.")
    expires_at: Timestamp = Field(description="The time from which it is refused.", examples=["2026-05-01T12:00:00Z"])
    revoked_at: Timestamp | None = Field(description="The time of its revocation; null before.", examples=[None])


class CreatedApiToken(ApiTokenView):
    """A personal access token with its secret, shown this once."""

    token: Sealed = Field(
        description="The token itself, sent as `Authorization: Bearer …`. Keep it: it is not shown again.",
        examples=["clp_pat_ws_3rf1w7gy3rh1w9gy3rf1w7gy3r_…"],
    )


class CreateApiToken(
    Command[CreatedApiToken], permission=Permission.TOKENS_OWN, limit=Limit(30, per=MINUTE, by=PRINCIPAL)
):
    """Create a personal access token.

    It stands for the caller in the current workspace, and has no more permissions than the caller has there. The
    answer shows its secret, once: a retry with the same Idempotency-Key gives 409 `secret_already_shown`.
    """

    name: Label = Field(description="A name to know the token by.", examples=["ci"])
    scopes: list[Permission] = Field(
        min_length=1,
        max_length=len(Permission),
        description="The permissions that the token may use at most; the caller needs to have each of them.",
        examples=[["secrets:read", "secrets:reveal"]],
    )
    expires_in_days: int = Field(default=90, ge=1, le=365, description="Days until the token expires.")


class ApiTokenPage(Page):
    """Personal access tokens, newest first."""

    data: list[ApiTokenView] = Field(description="The tokens of this page.")


class ListApiTokens(
    List[ApiTokenPage],
    table="tokens",
    owner="owner",
    orders={"newest": "id"},
    permission=Permission.TOKENS_OWN,
    keyed=False,
):
    """List the caller's personal access tokens.

    Those of the current workspace, newest first, without their secrets. Expired and revoked ones stay in the list.
    """


class RevokeApiToken(Command[Nothing], permission=Permission.TOKENS_OWN):
    """Revoke a personal access token.

    Take `id` from `create_api_token` or `list_api_tokens`. It is refused everywhere within a moment. Another person's
    token needs the permission `tokens:write`.
    """

    id: TokenId


class SessionStarted(Event, target="session_id"):
    """A person signed in."""

    session_id: SessionId
    sealed: Annotated[Ciphertext, SEALED_CLIENT] = Field(
        description="The client's device and address, encrypted under the key of the person's realm."
    )


class SessionRefreshed(Event, target="session_id"):
    """A session got its next pair of tokens."""

    session_id: SessionId
    workspace_id: WorkspaceId | None = Field(
        default=None, description="The workspace that the session is in now; null for the person's own realm."
    )


class SessionEnded(Event, target="session_id", forgets="target"):
    """A session ended, and with it all its tokens."""

    session_id: SessionId
    reason: Literal["logout", "refresh_reuse"] = Field(
        description="`refresh_reuse`: a refresh token was used a second time, and may be stolen."
    )


SESSION = Purpose("session", issuer="auth", ends=SessionEnded)
"""The client's address and device, of a session."""


class TokenCreated(Event, target="token_id"):
    """A personal access token was made."""

    token_id: TokenId
    scopes: ScopeNames


class TokenRevoked(Event, target="token_id", forgets="target"):
    """A personal access token was revoked."""

    token_id: TokenId


ListJobs, GetJob, CancelJob = jobs.commands(__name__)
JobCancelled, JobEnded = jobs.events(__name__)
