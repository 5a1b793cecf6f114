"""Sealed values of other services, by purpose and record."""

from sqlalchemy import bindparam, delete, select

from causeloop_common.database import Transaction
from causeloop_common.statements import Statement
from causeloop_vault.domain.places import Place
from causeloop_vault.models import sealed_values

_STORE = Statement.raw(
    """
    INSERT INTO vault.sealed_values (purpose, record, sealed) VALUES ($1, $2, $3)
    ON CONFLICT (workspace_id, purpose, record) DO UPDATE SET sealed = excluded.sealed, updated_at = now()
    """,
    "purpose", "record", "sealed",
)  # fmt: skip

_HERE = sealed_values.c.purpose == bindparam("purpose"), sealed_values.c.record == bindparam("record")
_SEALED_VALUE = Statement.of(select(sealed_values.c.sealed).where(*_HERE))
_DELETE = Statement.of(delete(sealed_values).where(*_HERE))


async def store_sealed_value(tx: Transaction, place: Place, sealed: str) -> None:
    """Store a sealed value at its place, instead of the one that was there."""
    await tx.execute(_STORE, purpose=place.purpose, record=place.record, sealed=sealed)


async def sealed_value(tx: Transaction, place: Place) -> str | None:
    """The sealed value at a place."""
    row = await tx.fetchrow(_SEALED_VALUE, purpose=place.purpose, record=place.record)
    return None if row is None else str(row["sealed"])


async def delete_sealed_value(tx: Transaction, place: Place) -> bool:
    """Delete the sealed value at a place; False when there is none."""
    return await tx.execute(_DELETE, purpose=place.purpose, record=place.record) == 1
