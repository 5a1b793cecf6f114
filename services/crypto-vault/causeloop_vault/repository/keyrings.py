"""The tenants' data keys, wrapped."""

from dataclasses import dataclass

from sqlalchemy import select

from causeloop_common.database import Transaction
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

_ADD_DATA_KEY = Statement.raw(
    "INSERT INTO vault.keyrings (version, wrapped, master) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    "version", "wrapped", "master",
)  # fmt: skip


async def data_keys(tx: Transaction) -> list[WrappedKey]:
    """All versions of the tenant's data key, oldest first; empty before its first use."""
    return [WrappedKey(**row) for row in await tx.fetch(_DATA_KEYS)]


async def add_data_key(tx: Transaction, key: WrappedKey) -> bool:
    """Add a version, unless a racer was faster: then False, once the racer has committed."""
    return await tx.execute(_ADD_DATA_KEY, version=key.version, wrapped=key.wrapped, master=key.master) == 1
