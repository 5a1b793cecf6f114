"""What tenancy answers and announces: workspaces, members, and what somebody may do."""

from functools import cache
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, StringConstraints

from causeloop_common.contracts.base import (
    Command,
    Event,
    Label,
    Message,
    Page,
    PersonId,
    Timestamp,
    WorkspaceId,
)
from causeloop_common.permissions import SELF, Internal, Permission

RETIRED: frozenset[str] = frozenset()


_zones = cache(available_timezones)  # reads the whole database of zones


def _known_timezone(name: str) -> str:
    if name not in _zones():
        raise ValueError("is not a time zone of the IANA database, such as 'Europe/Berlin'")
    return name


Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$")]
Timezone = Annotated[str, Field(max_length=64), AfterValidator(_known_timezone)]


class WorkspaceView(Message):
    """A workspace."""

    id: WorkspaceId
    name: str
    slug: str = Field(description="A label, not unique.")
    timezone: str
    created_at: Timestamp
    created_by: PersonId


class CreateWorkspace(Command[WorkspaceView], permission=Permission.WORKSPACE_CREATE):
    """Create a workspace; the caller becomes its owner. Safe to retry with an Idempotency-Key."""

    name: Label
    slug: Slug
    timezone: Timezone = "UTC"


class GetWorkspace(Command[WorkspaceView], permission=Permission.WORKSPACE_READ, keyed=False):
    """The current workspace."""


class MyWorkspace(Message):
    """A workspace one belongs to."""

    workspace_id: WorkspaceId
    role: str
    joined_at: Timestamp


class MyWorkspacePage(Page):
    """Memberships, by workspace."""

    data: list[MyWorkspace]


class ListMyWorkspaces(Command[MyWorkspacePage], permission=SELF, keyed=False):
    """Where the caller belongs."""

    limit: int = Field(default=25, ge=1, le=100)
    position: str | None = Field(default=None, max_length=512)


class Standing(Message):
    """What a person may do in a workspace; `role` is null and `permissions` empty for a stranger."""

    role: str | None
    permissions: list[str]


class Resolve(Command[Standing], permission=Internal.RESOLVE, issuers=frozenset({"gateway", "auth"}), keyed=False):
    """What a person may do in the workspace of the service token."""

    principal: PersonId


class WorkspaceCreated(Event, target="workspace_id"):
    """A workspace was created; its creator is its first owner."""

    workspace_id: WorkspaceId


class MemberAdded(Event, target="person_id"):
    """Somebody joined the workspace."""

    person_id: PersonId
    role: str
