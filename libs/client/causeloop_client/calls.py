"""Every operation of the HTTP interface and what it answers. Written by `make schemas`: change the contracts."""
# fmt: off
# ruff: noqa: D204, E702, I001

from typing import Any, Literal, NotRequired, TypedDict

from causeloop_client.call import Call, List

class Grant(TypedDict):
    """An access token and a refresh token (RFC 6749 5.1)."""
    access_token: str; refresh_token: str; token_type: Literal["Bearer"]; expires_in: int; scope: str
    workspace_id: str | None

class CreatedApiToken(TypedDict):
    """A personal access token with its secret, shown this once."""
    id: str; name: str; scopes: list[str]; owner: str; created_at: str; expires_at: str; revoked_at: str | None
    token: str

class ApiTokenView(TypedDict):
    """A personal access token without its secret."""
    id: str; name: str; scopes: list[str]; owner: str; created_at: str; expires_at: str; revoked_at: str | None

class WorkspaceView(TypedDict):
    """A workspace."""
    id: str; name: str; slug: str; timezone: str; created_at: str; created_by: str

class MyWorkspace(TypedDict):
    """A membership of the caller in a workspace."""
    workspace_id: str; role: str; joined_at: str

class SecretView(TypedDict):
    """A secret without its value."""
    id: str; path: str; version: int; created_at: str; updated_at: str

class RevealedSecret(TypedDict):
    """A secret with its value."""
    id: str; path: str; version: int; value: str

class KeyView(TypedDict):
    """A named key without its material."""
    id: str; name: str; type: Literal["aes256-gcm"]; version: int; created_at: str

class DataKeyVersion(TypedDict):
    """A version of the workspace's data key, without its material."""
    version: int; state: Literal["primary", "enabled"]; created_at: str

class KeyringView(TypedDict):
    """The workspace's keyring."""
    versions: list[DataKeyVersion]

class JobProgress(TypedDict):
    """How far a job got. It never runs backwards."""
    done: int; total: int | None; detail: str

class JobView(TypedDict):
    """A job: its state and progress, and in the end its result or error."""
    id: str; kind: str; state: Literal["waiting", "running", "cancelling", "done", "failed", "cancelled"]
    progress: JobProgress; result: str | None; error: str | None; attempts: int; retry_at: str | None; created_by: str
    created_at: str; started_at: str | None; ended_at: str | None

class ItemError(TypedDict):
    """The reason why one item of a request could not be done; the others were."""
    code: str; detail: str

class EncryptedItem(TypedDict):
    """The ciphertext of an item, or the reason why there is none."""
    ciphertext: NotRequired[str]; error: NotRequired[ItemError]

class Encrypted(TypedDict):
    """The ciphertext, or the results of the items."""
    ciphertext: NotRequired[str]; results: NotRequired[list[EncryptedItem]]

class PlainItem(TypedDict):
    """A plaintext, and the context to bind it to."""
    plaintext: str; context: NotRequired[dict[str, str]]

class DecryptedItem(TypedDict):
    """The plaintext of an item, or the reason why there is none."""
    plaintext: NotRequired[str]; error: NotRequired[ItemError]

class Decrypted(TypedDict):
    """The plaintext, or the results of the items."""
    plaintext: NotRequired[str]; results: NotRequired[list[DecryptedItem]]

class CipherItem(TypedDict):
    """A ciphertext, and the context that it was bound to."""
    ciphertext: str; context: NotRequired[dict[str, str]]

class EventView(TypedDict):
    """One entry of the log."""
    index: int; id: str; action: str; actor: str; credential: str | None; target: str; occurred_at: str
    request_id: str; data: dict[str, Any] | None; leaf_hash: str

class EventProof(TypedDict):
    """A proof that an entry is in the log: the path from its hash to a signed root (RFC 9162 2.1.3)."""
    index: int; leaf: str | None; leaf_hash: str; size: int; path: list[str]; checkpoint: str; tlog_proof: str

class CheckpointView(TypedDict):
    """The log's head, signed."""
    epoch: NotRequired[int]; size: int; root: str; checkpoint: str

ConsistencyProof = TypedDict("ConsistencyProof", {"from": int, "to": int, "path": list[str]})
"""A proof that a log begins with an earlier state of it (RFC 9162 2.1.4)."""

class AuditKey(TypedDict):
    """The public key that verifies the checkpoints of a tenant's log."""
    origin: str; key: str; epoch: NotRequired[int]; algorithm: Literal["ed25519"]; created_at: str

class Exchange(Call[Grant], route="POST /auth/exchange"):
    """Exchange a session of the identity provider for a pair of tokens."""
    subject_token: str  # The identity provider's session token: a JWT, signed with RS256.
    workspace_id: str | None = None  # The workspace to enter at once. Absent: the person's own realm.

class Refresh(Call[Grant], route="POST /auth/refresh"):
    """Exchange a refresh token for the next pair of tokens."""
    refresh_token: str  # The refresh token of the last pair.
    workspace_id: str | None = None  # The workspace to move into. Absent: the session stays where it is.

class CreateApiToken(Call[CreatedApiToken], route="POST /api-tokens", keyed=True):
    """Create a personal access token."""
    name: str  # A name to know the token by.
    scopes: list[str]  # The permissions that the token may use at most; the caller needs to have each of them.
    expires_in_days: int | None = None  # Days until the token expires.

class ListApiTokens(List[ApiTokenView], route="GET /api-tokens"):
    """List the caller's personal access tokens."""

class RevokeApiToken(Call[None], route="DELETE /api-tokens/{id}", keyed=True):
    """Revoke a personal access token."""
    id: str  # The id of a personal access token.

class Logout(Call[None], route="POST /auth/logout"):
    """End the session."""

class CreateWorkspace(Call[WorkspaceView], route="POST /workspaces", keyed=True):
    """Create a workspace."""
    name: str  # The name that people see.
    slug: str  # A short label for addresses and commands; two workspaces may have the same.
    timezone: str | None = None  # The time zone of its people, as the IANA database names it.

class ListMyWorkspaces(List[MyWorkspace], route="GET /me/workspaces"):
    """List the caller's workspaces."""

class GetWorkspace(Call[WorkspaceView], route="GET /workspace"):
    """Show the current workspace."""

class PutSecret(Call[SecretView], route="PUT /secrets/{path}", keyed=True):
    """Write a new version of a secret."""
    path: str  # The secret's path in the workspace; `/` separates its parts.
    value: str  # The value, a text of at most 64 Ki characters.
    # The newest version that the caller knows; 0: there is no such secret yet. Absent: write anyway.
    version: int | None = None

class GetSecret(Call[SecretView], route="GET /secrets/{path}"):
    """Show a secret without its value."""
    path: str  # The secret's path in the workspace; `/` separates its parts.

class ListSecrets(List[SecretView], route="GET /secrets"):
    """List the workspace's secrets."""

class RevealSecret(Call[RevealedSecret], route="POST /secrets/{path}/reveal"):
    """Reveal a secret's value."""
    path: str  # The secret's path in the workspace; `/` separates its parts.
    version: int | None = None  # The version to reveal. Absent: the newest.

class CreateKey(Call[KeyView], route="POST /keys", keyed=True):
    """Create a named key."""
    name: str  # The key's name in the workspace.
    type: Literal["aes256-gcm"]  # The key's algorithm.

class ListKeys(List[KeyView], route="GET /keys"):
    """List the workspace's named keys."""

class GetKeyring(Call[KeyringView], route="GET /keyring"):
    """Show the workspace's keyring."""

class RotateKeyring(Call[JobView], route="POST /keyring/rotate", keyed=True):
    """Rotate the workspace's keyring."""

class Encrypt(Call[Encrypted], route="POST /keys/{name}/encrypt"):
    """Encrypt under a named key."""
    name: str  # The key's name in the workspace.
    plaintext: str | None = None  # One plaintext, in base64: at most 48 KiB.
    context: dict[str, str] | None = None  # The names and values to bind the ciphertext to.
    items: list[PlainItem] | None = None  # Plaintexts with their contexts, instead of one.

class Decrypt(Call[Decrypted], route="POST /keys/{name}/decrypt"):
    """Decrypt under a named key."""
    name: str  # The key's name in the workspace.
    ciphertext: str | None = None  # One ciphertext that `encrypt` gave.
    context: dict[str, str] | None = None  # The context that was given to `encrypt`.
    items: list[CipherItem] | None = None  # Ciphertexts with their contexts, instead of one.

class ListEvents(List[EventView], route="GET /audit/events"):
    """List the log's entries."""
    order: Literal["newest", "index"] | None = None  # `newest` first, or `index`: from the log's beginning.
    actor: str | None = None  # Entries of this principal.
    action: str | None = None  # Entries of this action, or of those that begin so, such as `vault.`.
    target: str | None = None  # Entries about this thing, by its id.
    since: str | None = None  # Entries of acts at or after this time.
    until: str | None = None  # Entries of acts before this time.
    # Answer once the log has an entry of this request, by its `X-Request-Id`, or event; 404 without one within 3 s. Of
    # requests, the last 1000 entries are looked at.
    wait_for: str | None = None

class GetEvent(Call[EventView], route="GET /audit/events/{id}"):
    """Show one entry of the log."""
    id: str  # The id of an event.

class GetEventProof(Call[EventProof], route="GET /audit/events/{id}/proof"):
    """Prove that an entry is in the log."""
    id: str  # The id of an event.

class GetCheckpoint(Call[CheckpointView], route="GET /audit/checkpoint"):
    """Show the signed checkpoint of the log."""

class GetConsistency(Call[ConsistencyProof], route="GET /audit/consistency"):
    """Prove that the log only grew."""
    from_: int  # The size of the earlier log.
    to: int | None = None  # The size of the later log. Absent: the log as it is now.

class GetAuditKey(Call[AuditKey], route="GET /audit/key"):
    """Show the key that verifies the log."""

class ListJobs(List[JobView], route="GET /jobs"):
    """List the workspace's jobs."""

class GetJob(Call[JobView], route="GET /jobs/{id}"):
    """Show a job."""
    id: str  # The id of a job; it names the service that does it.

class CancelJob(Call[JobView], route="DELETE /jobs/{id}"):
    """Cancel a job."""
    id: str  # The id of a job; it names the service that does it.
