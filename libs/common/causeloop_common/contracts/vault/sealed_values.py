"""Sealed values of other services: each is bound to a purpose that its service declared, and to a record."""

from typing import Annotated

from pydantic import Field, StringConstraints

from causeloop_common.contracts import audit, auth, gateway, tenancy
from causeloop_common.contracts.base import (
    Command,
    Event,
    Message,
    Nothing,
    Sealed,
    example_id,
)
from causeloop_common.contracts.purpose import Purpose, purposes
from causeloop_common.permissions import Internal

PurposeName = Annotated[
    str,
    StringConstraints(max_length=64, pattern=r"^[a-z]+(?:_[a-z]+)*$"),
    Field(description="The use of the data, one that the asking service declared; it is bound to the ciphertext."),
]

Record = Annotated[
    str,
    StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$"),
    Field(description="The id of the record that the data belongs to; bound as well.", examples=[example_id("ses")]),
]


class Placed(Message):
    """The place of a value: a purpose of the asking service, and one of its records."""

    purpose: PurposeName
    record: Record


class NamedValue(Message):
    """The place of a value, as events name it."""

    purpose: str = Field(
        description="The service that the value belongs to, and its purpose.", examples=["auth/session"]
    )
    record: str = Field(description="The id of the record that the value belongs to.", examples=[example_id("ses")])


class SealedData(Message):
    """Ciphertext for the asking service to store."""

    ciphertext: str = Field(description="Ciphertext in the vault's format, `clv1:…`.")


PURPOSES: tuple[Purpose, ...] = tuple(
    purpose for owner in (gateway, auth, tenancy, audit) for purpose in purposes(owner)
)
"""The purposes for which services have data sealed, each declared in the contract of its issuer."""

_SEALING = frozenset(purpose.issuer for purpose in PURPOSES)


class Seal(Placed, Command[SealedData], permission=Internal.SEAL, issuers=_SEALING, keyed=False):
    """Encrypt data under the tenant's key for an event of the asking service, which keeps the ciphertext.

    Everything else that a service has sealed is stored in the vault: `StoreSealedValue`.
    """

    plaintext: Sealed = Field(description="The data.")


class StoreSealedValue(Placed, Command[Nothing], permission=Internal.STORE_SEALED_VALUE, issuers=_SEALING, keyed=False):
    """Store a value of the asking service in the vault, sealed, instead of the one that the record had.

    The service keeps purpose and record. A retry stores the same once more.
    """

    plaintext: Sealed = Field(description="The value.")


class OpenedValue(Message):
    """A value that was stored sealed."""

    plaintext: Sealed = Field(description="The value.")


class OpenSealedValue(
    Placed, Command[OpenedValue], permission=Internal.OPEN_SEALED_VALUE, issuers=_SEALING, keyed=False
):
    """Open a value that the asking service stored. The audit log records it before the answer leaves."""


class DeleteSealedValue(
    Placed, Command[Nothing], permission=Internal.DELETE_SEALED_VALUE, issuers=_SEALING, keyed=False
):
    """Delete a value that the asking service stored, if it is there."""


class SealedValueStored(NamedValue, Event, target="record"):
    """A value of another service was sealed and stored."""


class SealedValueOpened(NamedValue, Event, target="record"):
    """A stored value was opened for the service that it belongs to."""


class SealedValueDeleted(NamedValue, Event, target="record"):
    """A stored value was deleted."""
