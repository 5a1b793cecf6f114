"""Secrets: values in versions, by path."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from causeloop_common.contracts.base import Command, Event, Message, Sealed, SecretId, Timestamp, Version
from causeloop_common.contracts.lists import List, Page
from causeloop_common.permissions import Permission

SecretPath = Annotated[
    str,
    StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*$"),
    Field(description="The secret's path in the workspace; `/` separates its parts.", examples=["db/password"]),
]

PARTS_OF_ADDRESSES = frozenset({"reveal", "versions"})
"""Words that follow a secret's path in addresses: `…/db/password/reveal`. No path ends in one."""


def _unambiguous(path: str) -> str:
    if (last := path.rpartition("/")[2]) in PARTS_OF_ADDRESSES:
        raise ValueError(f"ends in '{last}', which is a part of addresses; use another last part")
    return path


class SecretView(Message):
    """A secret without its value."""

    id: SecretId
    path: str = Field(description="Its path in the workspace.", examples=["db/password"])
    version: int = Field(description="The number of its newest version, from 1.", examples=[1])
    created_at: Timestamp = Field(description="The time of its first version.")
    updated_at: Timestamp = Field(description="The time of its newest version.")


class PutSecret(Command[SecretView], permission=Permission.SECRETS_WRITE):
    """Write a new version of a secret.

    The first one creates the secret. With `version` it is written only if that is the newest version at that moment.
    The last part of a path is neither `reveal` nor `versions`, which follow paths in addresses.
    """

    path: Annotated[SecretPath, AfterValidator(_unambiguous)]
    value: Sealed = Field(description="The value, a text of at most 64 Ki characters.", examples=["correct horse"])
    version: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 2,
        description="The newest version that the caller knows; 0: there is no such secret yet. Absent: write anyway.",
    )


class GetSecret(Command[SecretView], permission=Permission.SECRETS_READ, keyed=False):
    """Show a secret without its value.

    The audit log does not record it: only `reveal_secret` shows the value.
    """

    path: SecretPath


class SecretPage(Page):
    """Secrets, by path."""

    data: list[SecretView] = Field(description="The secrets of this page.")


class ListSecrets(
    List[SecretPage], table="secrets", orders={"path": "path"}, permission=Permission.SECRETS_READ, keyed=False
):
    """List the workspace's secrets.

    By path, without their values.
    """


class RevealedSecret(Message):
    """A secret with its value."""

    id: SecretId
    path: str = Field(description="Its path in the workspace.", examples=["db/password"])
    version: Version
    value: Sealed = Field(description="The value of this version.", examples=["correct horse"])


class RevealSecret(Command[RevealedSecret], permission=Permission.SECRETS_REVEAL, keyed=False):
    """Reveal a secret's value.

    The audit log records it before the answer leaves.
    """

    path: SecretPath
    version: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="The version to reveal. Absent: the newest."
    )


class SecretWritten(Event, target="secret_id"):
    """A version of a secret was written."""

    secret_id: SecretId
    version: Version


class SecretRevealed(Event, target="secret_id"):
    """A secret's value was shown."""

    secret_id: SecretId
    version: Version
