"""The commands and events of tenancy: workspaces, members, and the permissions of each."""

from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from causeloop_common.contracts import jobs
from causeloop_common.contracts.base import (
    Command,
    Event,
    Label,
    Message,
    PersonId,
    Timestamp,
    WorkspaceId,
)
from causeloop_common.contracts.limits import MINUTE, PRINCIPAL, Limit
from causeloop_common.contracts.lists import List, Page
from causeloop_common.permissions import SELF, Internal, Permission

RETIRED: frozenset[str] = frozenset()


@cache
def _zones() -> frozenset[str]:
    """The names of the tz database as this release of it has them: those of the system differ from host to host."""
    return frozenset(files("tzdata").joinpath("zones").read_text("ascii").split()) - {"Factory"}


def _known_timezone(name: str) -> str:
    if name not in _zones():
        raise ValueError("is not a time zone of the IANA database, such as 'Europe/Berlin'")
    return name


Slug = Annotated[
    str,
    StringConstraints(max_length=48, pattern=r"^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$"),
    Field(description="A short label for addresses and commands; two workspaces may have the same.", examples=["acme"]),
]
Timezone = Annotated[
    str,
    Field(
        max_length=64,
        description="The time zone of its people, as the IANA database names it.",
        examples=["Europe/Berlin"],
    ),
    AfterValidator(_known_timezone),
]


class WorkspaceView(Message):
    """A workspace."""

    id: WorkspaceId
    name: str = Field(description="The name that people see.", examples=["Acme"])
    slug: str = Field(description="A short label; two workspaces may have the same.", examples=["acme"])
    timezone: str = Field(description="The time zone of its people (IANA database).", examples=["Europe/Berlin"])
    created_at: Timestamp = Field(description="The time of its creation.")
    created_by: PersonId = Field(description="The person who created it, its first owner.")


class CreateWorkspace(
    Command[WorkspaceView], permission=Permission.WORKSPACE_CREATE, limit=Limit(10, per=MINUTE, by=PRINCIPAL)
):
    """Create a workspace.

    The caller becomes its owner. Refresh the session with the new `workspace_id` to work in it. A retry with the same
    Idempotency-Key makes no second workspace, however late it comes.
    """

    name: Label = Field(description="The name that people see.", examples=["Acme"])
    slug: Slug
    timezone: Timezone = "UTC"


class GetWorkspace(Command[WorkspaceView], permission=Permission.WORKSPACE_READ, keyed=False):
    """Show the current workspace.

    It is the one that the token was made for.
    """


class MyWorkspace(Message):
    """A membership of the caller in a workspace."""

    workspace_id: WorkspaceId
    role: str = Field(description="The caller's role there.", examples=["owner"])
    joined_at: Timestamp = Field(description="The time at which the caller joined.")


class MyWorkspacePage(Page):
    """Memberships, by workspace."""

    data: list[MyWorkspace] = Field(description="The memberships of this page.")


class ListMyWorkspaces(
    List[MyWorkspacePage],
    table="members",
    owner="person_id",
    orders={"workspace": "workspace_id"},
    permission=SELF,
    keyed=False,
):
    """List the caller's workspaces.

    Every workspace of which the caller is a member, whichever one the session is in.
    """


class Standing(Message):
    """A person's role and permissions in a workspace."""

    role: str | None = Field(description="Null for a person who is no member.")
    permissions: list[str] = Field(description="The permissions that the role has; none without a role.")


class Resolve(
    Command[Standing], permission=Internal.RESOLVE, issuers=frozenset({"gateway", "auth", "vault"}), keyed=False
):
    """Find a person's role and permissions in the workspace of the service token."""

    principal: PersonId = Field(description="The person in question.")


class WorkspaceCreated(Event, target="workspace_id"):
    """A workspace was created; its creator is its first owner."""

    workspace_id: WorkspaceId


class MemberAdded(Event, target="person_id", forgets="person"):
    """A person joined the workspace."""

    person_id: PersonId
    role: str = Field(description="The role that they got.")


ListJobs, GetJob, CancelJob = jobs.commands(__name__)
JobCancelled, JobEnded = jobs.events(__name__)
