"""The permissions of a role."""

from causeloop_common.permissions import ROLES

FIRST_ROLE = "owner"
"""The role of the creator of a workspace."""


def permissions_of(role: str | None) -> frozenset[str]:
    """The permissions of a member with this role; none for a stranger or an unknown role."""
    return ROLES.get(role, frozenset()) if role is not None else frozenset()
