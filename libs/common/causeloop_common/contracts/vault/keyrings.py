"""A tenant's keyring: its data key in versions, rotated by a job."""

from typing import Literal

from pydantic import Field

from causeloop_common.contracts.base import (
    Command,
    Event,
    Job,
    Message,
    Timestamp,
    Version,
)
from causeloop_common.contracts.jobs import JobView
from causeloop_common.permissions import Permission


class DataKeyVersion(Message):
    """A version of the workspace's data key, without its material."""

    version: Version
    state: Literal["primary", "enabled"] = Field(
        description="The `primary` seals; an `enabled` one opens what it sealed before it was rotated."
    )
    created_at: Timestamp = Field(description="The time of its creation, and so its age.")


class KeyringView(Message):
    """The workspace's keyring."""

    versions: list[DataKeyVersion] = Field(
        description="The versions of the data key, newest first; none before the first secret or key."
    )


class GetKeyring(Command[KeyringView], permission=Permission.KEYS_READ, keyed=False):
    """Show the workspace's keyring.

    The versions of its data key, which seals secrets and named keys, without their material.
    """


class RotateKeyring(Command[JobView], permission=Permission.KEYS_WRITE):
    """Rotate the workspace's keyring.

    Makes a new data key and answers with a job, which seals under it everything that the workspace has in the vault.
    Requests go on meanwhile. Follow the job with `get_job`.
    """


class ReencryptKeyring(Job, permission=Permission.KEYS_WRITE):
    """Seals everything that the workspace has in the vault under its primary data key."""

    version: Version


class KeyringCreated(Event, target="keyring"):
    """The tenant's first data key was made and wrapped."""

    keyring: str = Field(description="The tenant, whose keyring it is.")
    version: Version


class KeyringRotated(Event, target="keyring", forgets="tenant"):
    """A new data key was made for the tenant, and seals from then on."""

    keyring: str = Field(description="The tenant, whose keyring it is.")
    version: Version


class KeyringReencrypted(Event, target="keyring"):
    """A part of what the tenant has in the vault was sealed anew under its primary data key."""

    keyring: str = Field(description="The tenant, whose keyring it is.")
    version: Version
    count: int = Field(description="How many values and keys were sealed anew.")
