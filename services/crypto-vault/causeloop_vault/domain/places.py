"""The places of what the vault stores: under which purpose and record each thing is sealed.

With the tenant and the version of its data key, purpose and record are a ciphertext's additional data. The reader makes
them from where it read, so a ciphertext that was moved to another row does not open.
"""

from typing import NamedTuple

from causeloop_common.contracts.purpose import Purpose


class Place(NamedTuple):
    """A purpose, and the record among those of that purpose."""

    purpose: str
    record: str


def of_secret(path: str, version: int) -> Place:
    """Of the value of a secret's version."""
    return Place("secret", f"{path}@{version}")


def of_key(key_id: str, version: int) -> Place:
    """Of the material of a named key's version."""
    return Place("key", f"{key_id}@{version}")


def of_signing_key(origin: str) -> Place:
    """Of the private half of the signing key, whose logs began under this origin."""
    return Place("signing-key", origin)


def of_value(purpose: Purpose, record: str) -> Place:
    """Of a value of another service."""
    return Place(str(purpose), record)
