"""What a role allows."""

from causeloop_common.permissions import ROLES

FIRST_ROLE = "owner"
"""The role of whoever creates a workspace."""


def permissions_of(role: str | None) -> frozenset[str]:
    """What a member with this role may do; nothing for a stranger or a role that is not known."""
    return ROLES.get(role, frozenset()) if role is not None else frozenset()
