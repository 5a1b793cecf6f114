"""The permission catalogue and the built-in roles: the one place where a permission is declared.

A command names the permission it needs; the route, the service's check and the documents read it there.
`Internal` permissions are held by services alone and `SELF` by every person in their own realm; no role, custom
ones included, can hold either.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache


class Permission(StrEnum):
    """A permission that a role or a token's scope can grant in a workspace."""

    WORKSPACE_CREATE = "workspace:create"
    WORKSPACE_READ = "workspace:read"
    WORKSPACE_WRITE = "workspace:write"
    WORKSPACE_ADMIN = "workspace:admin"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    MEMBERS_ADMIN = "members:admin"
    ROLES_READ = "roles:read"
    ROLES_WRITE = "roles:write"
    TOKENS_OWN = "tokens:own"
    TOKENS_READ = "tokens:read"
    TOKENS_WRITE = "tokens:write"
    SERVICE_ACCOUNTS_READ = "service_accounts:read"
    SERVICE_ACCOUNTS_WRITE = "service_accounts:write"
    CONNECTORS_READ = "connectors:read"
    CONNECTORS_WRITE = "connectors:write"
    CONNECTORS_USE = "connectors:use"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    SECRETS_READ = "secrets:read"
    SECRETS_WRITE = "secrets:write"
    SECRETS_REVEAL = "secrets:reveal"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    KEYS_USE = "keys:use"
    AUDIT_READ = "audit:read"
    AUDIT_STREAM = "audit:stream"
    AUDIT_WRITE = "audit:write"
    AUDIT_ASK = "audit:ask"
    GOVERNANCE_READ = "governance:read"
    GOVERNANCE_WRITE = "governance:write"
    GOVERNANCE_APPROVE = "governance:approve"
    SETTINGS_READ = "settings:read"
    SETTINGS_WRITE = "settings:write"


class Internal(StrEnum):
    """A permission that only services hold, on their own account or before anybody is signed in."""

    SIGN_IN = "internal:sign_in"
    AUTHENTICATE = "internal:authenticate"
    RESOLVE = "internal:resolve"
    SEAL = "internal:seal"
    STORE_SEALED_VALUE = "internal:store_sealed_value"
    OPEN_SEALED_VALUE = "internal:open_sealed_value"
    DELETE_SEALED_VALUE = "internal:delete_sealed_value"
    SIGN_CHECKPOINTS = "internal:sign_checkpoints"


SELF = "self"
"""Held by every signed-in person in their own realm: own sessions, own memberships."""

OF_THE_JOB = "the job's own"
"""Needed to see or to cancel a job: the permission of the job's kind, which the use case checks itself. Every signed-in
caller passes the checks before it."""

REALM_PERMISSIONS: frozenset[str] = frozenset({SELF, Permission.WORKSPACE_CREATE})
"""The permissions of a realm token."""


def _built_in() -> dict[str, frozenset[str]]:
    p = Permission
    private = ("audit:", "governance:")
    viewer = {q for q in p if q.endswith(":read") and not q.startswith(private)}
    member = viewer | {
        p.TOKENS_OWN, p.CONNECTORS_USE, p.KEYS_USE, p.SECRETS_WRITE, p.SECRETS_REVEAL, p.AUDIT_WRITE,
    }  # fmt: skip
    auditor = member | {p.AUDIT_READ, p.AUDIT_STREAM, p.AUDIT_ASK, p.GOVERNANCE_READ}
    owner = set(p) - {p.WORKSPACE_CREATE}  # creating one is a person's act, in their realm
    admin = owner - {p.WORKSPACE_ADMIN, p.GOVERNANCE_APPROVE}
    roles = {"viewer": viewer, "member": member, "auditor": auditor, "admin": admin, "owner": owner}
    return {name: frozenset(map(str, held)) for name, held in roles.items()}


def shared(permissions: Iterable[str]) -> frozenset[str]:
    """The set of these permissions. Equal sets are one object: a remembered caller costs no set of their own."""
    return _shared(tuple(permissions))


@lru_cache(maxsize=1024)
def _shared(permissions: tuple[str, ...]) -> frozenset[str]:
    found = frozenset(permissions)
    return next((held for held in ROLES.values() if held == found), found)


def permits(held: frozenset[str], permission: str) -> bool:
    """Whether a caller with these permissions may ask for something that needs `permission`."""
    return permission in held or permission == OF_THE_JOB


ROLES: dict[str, frozenset[str]] = _built_in()
"""The built-in roles, weakest first; each but `auditor` contains the one before."""
