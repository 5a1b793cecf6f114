"""The installation's signing key, and the head that was last signed of each log."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select, update

from causeloop_common.database import Transaction
from causeloop_common.statements import Statement
from causeloop_vault.domain.witness import EMPTY, Head
from causeloop_vault.models import checkpoints, signing_keys


@dataclass(frozen=True, slots=True)
class StoredSigningKey:
    """The key that signs checkpoints: its public half, its private one sealed, and the origin it began under."""

    public: bytes
    sealed: str
    origin: str
    created_at: datetime


_SIGNING_KEY = Statement.of(
    select(signing_keys.c.public, signing_keys.c.sealed, signing_keys.c.origin, signing_keys.c.created_at)
    .order_by(signing_keys.c.version.desc())
    .limit(1)
)
_ADD_SIGNING_KEY = Statement.raw(
    "INSERT INTO vault.signing_keys (version, public, sealed, origin) VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING",
    "public", "sealed", "origin",
)  # fmt: skip

_BEGIN_CHECKPOINT = Statement.raw(
    "INSERT INTO vault.checkpoints (size, root) VALUES ($1, $2) ON CONFLICT DO NOTHING", "size", "root"
)
_LOCK_CHECKPOINT = Statement.of(select(checkpoints.c.size, checkpoints.c.root).with_for_update())
_MOVE_CHECKPOINT = Statement.of(update(checkpoints).values(size=bindparam("new_size"), root=bindparam("new_root")))


async def signing_key(tx: Transaction) -> StoredSigningKey | None:
    """The installation's signing key; None before its first start. Only the installation's realm has one."""
    row = await tx.fetchrow(_SIGNING_KEY)
    return None if row is None else StoredSigningKey(**row)


async def add_signing_key(tx: Transaction, public: bytes, sealed: str, origin: str) -> bool:
    """Add the signing key, unless a racer was faster: then False, once the racer has committed."""
    return await tx.execute(_ADD_SIGNING_KEY, public=public, sealed=sealed, origin=origin) == 1


async def lock_checkpoint(tx: Transaction) -> Head:
    """The head last signed of the tenant's log, locked until the end of the transaction; of a new log the empty one."""
    row = await tx.fetchrow(_LOCK_CHECKPOINT)
    if row is None:
        await tx.execute(_BEGIN_CHECKPOINT, size=EMPTY.size, root=EMPTY.root)
        row = await tx.fetchrow(_LOCK_CHECKPOINT)
    return Head(row["size"], row["root"])


async def move_checkpoint(tx: Transaction, head: Head) -> None:
    """Remember the head that is being signed; the row is locked."""
    await tx.execute(_MOVE_CHECKPOINT, new_size=head.size, new_root=head.root)
