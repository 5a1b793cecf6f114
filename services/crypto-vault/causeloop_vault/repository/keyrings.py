"""The tenants' data keys, wrapped. One version is the primary, which seals; the others open what they sealed."""

from dataclasses import dataclass

from sqlalchemy import select

from causeloop_common.contracts.vault import DataKeyVersion
from causeloop_common.database import Reading, Transaction
from causeloop_common.statements import Statement
from causeloop_vault.models import keyrings


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One version of a tenant's data key, wrapped by the master key named by its fingerprint."""

    version: int
    wrapped: str
    master: str


_DATA_KEYS = Statement.of(
    select(keyrings.c.version, keyrings.c.wrapped, keyrings.c.master).order_by(keyrings.c.version)
)

_KEY_VERSIONS = Statement.of(
    select(keyrings.c.version, keyrings.c.state, keyrings.c.created_at).order_by(keyrings.c.version.desc())
)

_ADD_DATA_KEY = Statement.raw(
    "INSERT INTO vault.keyrings (version, wrapped, master) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    "version", "wrapped", "master",
)  # fmt: skip

_RETIRE = Statement.raw(
    "UPDATE vault.keyrings SET state = 'enabled' WHERE version = $1 AND state = 'primary'", "version"
)

IS_PRIMARY = "EXISTS (SELECT FROM vault.keyrings WHERE version = {} AND state = 'primary')"
"""The condition that a version of the tenant's data key, a parameter's number, is its primary."""

_PRIMARY = Statement.raw(f"SELECT {IS_PRIMARY.format('$1')}", "version")


async def data_keys(tx: Reading) -> list[WrappedKey]:
    """All versions of the tenant's data key, the primary last; empty before its first use."""
    return [WrappedKey(**row) for row in await tx.fetch(_DATA_KEYS)]


async def key_versions(tx: Reading) -> list[DataKeyVersion]:
    """All versions of the tenant's data key without their material, newest first."""
    return [DataKeyVersion(**row) for row in await tx.fetch(_KEY_VERSIONS)]


async def add_data_key(tx: Transaction, key: WrappedKey) -> bool:
    """Add the first version, unless a racer was faster: then False, once the racer has committed."""
    return await tx.execute(_ADD_DATA_KEY, version=key.version, wrapped=key.wrapped, master=key.master) == 1


async def rotate(tx: Transaction, key: WrappedKey) -> bool:
    """Add the next version, and make it the primary; the one before stays enabled. False, and nothing is changed, when
    that is the primary no longer: a racer was faster.
    """
    if await tx.execute(_RETIRE, version=key.version - 1) == 0:
        return False
    return await add_data_key(tx, key)


async def is_primary(tx: Transaction, version: int) -> bool:
    """Whether this version of the tenant's data key is still the primary.

    Ask after the transaction's first write, and roll back if not: then a re-encryption, which waits for the writers
    that a rotation met, finds everything that was sealed under an older version.
    """
    return bool((await tx.fetchrow(_PRIMARY, version=version))[0])
