"""Named keys, their material sealed."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select

from causeloop_common import ids
from causeloop_common.contracts.vault import KeyView
from causeloop_common.database import Reading, Transaction
from causeloop_common.statements import Statement
from causeloop_vault.models import keys


@dataclass(frozen=True, slots=True)
class SealedMaterial:
    """One version of a named key's material, sealed."""

    id: str
    version: int
    sealed: str


_ADD_KEY = Statement.raw(
    """
    INSERT INTO vault.keys (name, version, id, type, sealed) VALUES ($1, 1, $2, $3, $4) ON CONFLICT DO NOTHING
    RETURNING id, name, type, version, created_at
    """,
    "name", "id", "type", "sealed",
)  # fmt: skip

_MATERIAL = Statement.of(
    select(keys.c.id, keys.c.version, keys.c.sealed).where(keys.c.name == bindparam("name")).order_by(keys.c.version)
)

_LIST_KEYS = Statement.raw(
    """
    SELECT k.id, k.name, k.type, newest.version, k.created_at FROM vault.keys k CROSS JOIN LATERAL (
        SELECT version FROM vault.keys WHERE name = k.name ORDER BY version DESC LIMIT 1
    ) AS newest
    WHERE k.name > $1 AND k.version = 1 ORDER BY k.name LIMIT $2
    """,
    "after", "limit",
)  # fmt: skip


async def add_key(tx: Transaction, key_id: str, name: str, kind: str, sealed: str) -> KeyView | None:
    """Add a named key at version 1; None when the name is taken, once a racer has committed."""
    row = await tx.fetchrow(_ADD_KEY, name=name, id=ids.decode(key_id, "key"), type=kind, sealed=sealed)
    return None if row is None else _key(row)


async def key_material(tx: Reading, name: str) -> list[SealedMaterial]:
    """All versions of a named key's material, oldest first; empty when there is no such key."""
    found = await tx.fetch(_MATERIAL, name=name)
    return [SealedMaterial(**{**row, "id": ids.encode("key", row["id"])}) for row in found]


async def keys_after(tx: Reading, name: str, limit: int) -> list[KeyView]:
    """Named keys in order of name, after the given one ('' is the start)."""
    return [_key(row) for row in await tx.fetch(_LIST_KEYS, after=name, limit=limit)]


def _key(row: Any) -> KeyView:
    return KeyView(**{**row, "id": ids.encode("key", row["id"])})
