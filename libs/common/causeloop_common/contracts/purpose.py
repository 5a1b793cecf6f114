"""The purposes for which services have data sealed, each declared beside the contract that needs it.

The vault seals and opens for a purpose only what the service that declared it asks for, and binds the purpose to the
ciphertext. A contract module declares one as a constant: `SESSION = Purpose("session", issuer="auth",
ends=SessionEnded)`. When that event names a record as its target, the vault deletes what it keeps of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from causeloop_common.contracts.base import Event


@dataclass(frozen=True, slots=True)
class Purpose:
    """A use of sealed data by one service alone; as a text `auth/session`, a part of each ciphertext's place.

    `ends` is the issuer's event of a record's end; None where a value is only deleted by `DeleteSealedValue`.
    """

    name: str
    issuer: str
    ends: type[Event] | None

    def __str__(self) -> str:
        return f"{self.issuer}/{self.name}"


def purposes(owner: ModuleType) -> Iterator[Purpose]:
    """Every purpose that a contract module declares."""
    return (value for value in vars(owner).values() if isinstance(value, Purpose))
