"""Every operation of the HTTP interface and what it answers. Written by `make schemas`: change the contracts."""
# fmt: off
# ruff: noqa: D204, E702, I001

from typing import Any, Literal, NotRequired, TypedDict

from causeloop_client.call import Call, List

class Grant(TypedDict):
    """A pair of tokens (RFC 6749 5.1). `workspace_id` is null for a realm token; `scope` is space-separated."""
    access_token: str; refresh_token: str; token_type: NotRequired[Literal["Bearer"]]
    expires_in: int  # Seconds until the access token expires.
    scope: str  # What the access token allows now, space-separated.
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
    id: str; name: str
    slug: str  # A label, not unique.
    timezone: str; created_at: str; created_by: str

class MyWorkspace(TypedDict):
    """A workspace one belongs to."""
    workspace_id: str; role: str; joined_at: str

class SecretView(TypedDict):
    """A secret without its value. `version` is the newest, counted from 1."""
    id: str; path: str; version: int; created_at: str; updated_at: str

class RevealedSecret(TypedDict):
    """A secret with its value."""
    id: str; path: str; version: int; value: str

class KeyView(TypedDict):
    """A named key without its material. `version` is the newest, counted from 1."""
    id: str; name: str; type: Literal["aes256-gcm"]; version: int; created_at: str

class ItemError(TypedDict):
    """Why one item of a request could not be done; the others were."""
    code: str; detail: str

class EncryptedItem(TypedDict):
    """The ciphertext of an item, or why there is none."""
    ciphertext: NotRequired[str | None]; error: NotRequired[ItemError | None]

class Encrypted(TypedDict):
    """`ciphertext` of one plaintext, or `results` of the items, in their order."""
    ciphertext: NotRequired[str]; results: NotRequired[list[EncryptedItem]]

class PlainItem(TypedDict):
    """A plaintext, and the context to bind it to."""
    plaintext: str  # In base64: at most 48 KiB.
    # What the ciphertext belongs to, such as table and row. It is not stored, not secret, and decrypts with the same
    # names and values only, in any order.
    context: NotRequired[dict[str, str]]

class DecryptedItem(TypedDict):
    """The plaintext of an item in base64, or why there is none."""
    plaintext: NotRequired[str | None]; error: NotRequired[ItemError | None]

class Decrypted(TypedDict):
    """`plaintext` of one ciphertext in base64, or `results` of the items, in their order."""
    plaintext: NotRequired[str]; results: NotRequired[list[DecryptedItem]]

class CipherItem(TypedDict):
    """A ciphertext, and the context it was bound to."""
    ciphertext: str
    # What the ciphertext belongs to, such as table and row. It is not stored, not secret, and decrypts with the same
    # names and values only, in any order.
    context: NotRequired[dict[str, str]]

class EventView(TypedDict):
    """One entry of the log. `index` is its place, from 0; `leaf_hash` the RFC 6962 hash in hex."""
    index: int; id: str; action: str; actor: str; credential: str | None; target: str; occurred_at: str; request_id: str
    data: dict[str, Any] | None  # Null once retention removed it; the hash stays.
    leaf_hash: str

class EventProof(TypedDict):
    """That an entry is in the log: its leaf hash, and the path from there to a signed root (RFC 9162 2.1.3)."""
    index: int
    leaf: str | None  # The entry's bytes, which are hashed; null once retention removed them.
    leaf_hash: str
    size: int  # The checkpoint's size.
    path: list[str]  # From the leaf's sibling to the root's child.
    checkpoint: str
    tlog_proof: str  # All of it as one C2SP tlog-proof file, which anybody's tools can verify.

class CheckpointView(TypedDict):
    """What the log is now, signed: a note of origin, size and root (C2SP tlog-checkpoint)."""
    size: int; root: str
    checkpoint: str  # The signed note; this text is what a verifier needs.

ConsistencyProof = TypedDict("ConsistencyProof", {"from": int, "to": int, "path": list[str]})
"""That the log of size `to` begins with the log of size `from` (RFC 9162 2.1.4)."""

class AuditKey(TypedDict):
    """What verifies the checkpoints of the tenant's log: pin it, and nobody can show you another log."""
    origin: str  # The log's name, the first line of its checkpoints.
    key: str  # The verifier key, `name+id+base64`, as tools for signed notes read it.
    algorithm: NotRequired[Literal["ed25519"]]; created_at: str

class Exchange(Call[Grant], route="POST /auth/exchange"):
    """Exchange a session token of the identity provider for a pair of ours."""
    subject_token: str  # The identity provider's session token (RS256 JWT).
    workspace_id: str | None = None  # Enter this workspace at once.

class Refresh(Call[Grant], route="POST /auth/refresh"):
    """Rotate a refresh token; with `workspace_id` move into a workspace one belongs to."""
    refresh_token: str
    workspace_id: str | None = None  # Absent: stay where the session is.

class Logout(Call[None], route="POST /auth/logout"):
    """End the session of the calling access token."""

class CreateApiToken(Call[CreatedApiToken], route="POST /api-tokens", keyed=True):
    """Make a personal access token for oneself in the current workspace."""
    name: str
    scopes: list[str]  # Nobody grants what they do not hold.
    expires_in_days: int | None = None

class ListApiTokens(List[ApiTokenView], route="GET /api-tokens"):
    """One's own personal access tokens in the current workspace."""

class RevokeApiToken(Call[None], route="DELETE /api-tokens/{id}", keyed=True):
    """Revoke a personal access token; one's own, or anybody's with `tokens:write`."""
    id: str

class CreateWorkspace(Call[WorkspaceView], route="POST /workspaces", keyed=True):
    """Create a workspace; the caller becomes its owner. Safe to retry with an Idempotency-Key."""
    name: str; slug: str; timezone: str | None = None

class GetWorkspace(Call[WorkspaceView], route="GET /workspace"):
    """The current workspace."""

class ListMyWorkspaces(List[MyWorkspace], route="GET /me/workspaces"):
    """Where the caller belongs."""

class ListSecrets(List[SecretView], route="GET /secrets"):
    """The workspace's secrets, without their values."""

class RevealSecret(Call[RevealedSecret], route="POST /secrets/{path}/reveal"):
    """Reveal a secret's value; recorded before the answer."""
    path: str
    version: int | None = None  # Absent: the newest.

class PutSecret(Call[SecretView], route="PUT /secrets/{path}", keyed=True):
    """Write a new version of a secret."""
    path: str; value: str
    version: int | None = None  # Compare and set: write only on top of this version; 0, only if new.

class GetSecret(Call[SecretView], route="GET /secrets/{path}"):
    """What is known of a secret without its value."""
    path: str

class CreateKey(Call[KeyView], route="POST /keys", keyed=True):
    """Make a named key; its material never leaves the vault."""
    name: str; type: Literal["aes256-gcm"]

class ListKeys(List[KeyView], route="GET /keys"):
    """The workspace's named keys."""

class Encrypt(Call[Encrypted], route="POST /keys/{name}/encrypt"):
    """Encrypt one `plaintext`, or `items`, under a named key, each bound to its context."""
    name: str
    plaintext: str | None = None  # In base64: at most 48 KiB.
    context: dict[str, str] | None = None; items: list[PlainItem] | None = None

class Decrypt(Call[Decrypted], route="POST /keys/{name}/decrypt"):
    """Decrypt one `ciphertext`, or `items`, under a named key; recorded before the answer."""
    name: str; ciphertext: str | None = None; context: dict[str, str] | None = None
    items: list[CipherItem] | None = None

class ListEvents(List[EventView], route="GET /audit/events"):
    """The log, newest first or by index, filtered."""
    order: Literal["newest", "index"] | None = None; actor: str | None = None
    action: str | None = None  # The action or a prefix of it, such as 'vault.'.
    target: str | None = None
    since: str | None = None  # Occurred at or after.
    until: str | None = None  # Occurred before.

class GetEvent(Call[EventView], route="GET /audit/events/{id}"):
    """One entry by its event id."""
    id: str

class GetEventProof(Call[EventProof], route="GET /audit/events/{id}/proof"):
    """A proof that an entry is in the log, which verifies offline."""
    id: str

class GetCheckpoint(Call[CheckpointView], route="GET /audit/checkpoint"):
    """The log's head, signed by the vault, which signs only what continues what it signed before."""

class GetConsistency(Call[ConsistencyProof], route="GET /audit/consistency"):
    """A proof that the log only grew between two sizes, such as those of two checkpoints."""
    from_: int
    to: int | None = None  # Absent: as it is now.

class GetAuditKey(Call[AuditKey], route="GET /audit/key"):
    """The key that verifies the checkpoints of the workspace's log."""
