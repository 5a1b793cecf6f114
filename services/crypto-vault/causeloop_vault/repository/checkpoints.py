"""The installation's signing key, the head that was last signed of each log, and the ends of its earlier epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, update

from causeloop_common.database import Connections, Reading, Transaction
from causeloop_common.statements import Statement
from causeloop_log.tlog.merkle import EMPTY, TreeHead
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

_CHECKPOINT = Statement.raw(
    "INSERT INTO vault.checkpoints (size, root) VALUES ($1, $2) ON CONFLICT DO NOTHING", "size", "root"
)
_CHECKPOINT = Statement.of(select(checkpoints.c.epoch, checkpoints.c.size, checkpoints.c.root))
_LOCK_CHECKPOINTS = Statement.raw("SELECT * FROM vault.lock_checkpoints($1)", "tenants")
_MOVE_CHECKPOINTS = Statement.raw("SELECT vault.move_checkpoints($1, $2, $3)", "tenants", "sizes", "roots")

_END_EPOCH = Statement.raw(
    "INSERT INTO vault.epochs (epoch, size, root, reason) VALUES ($1, $2, $3, $4)", "epoch", "size", "root", "reason"
)
_BEGIN_EPOCH = Statement.of(update(checkpoints).values(epoch=checkpoints.c.epoch + 1, size=EMPTY.size, root=EMPTY.root))
_OF_ALL_LOGS = "SELECT workspace_id, epoch, size, root FROM vault.checkpoints WHERE size > 0 OR epoch > 1"


class Signed(NamedTuple):
    """The head that was last signed of a log, and in which epoch."""

    epoch: int
    head: TreeHead


NOTHING = Signed(1, EMPTY)


async def signing_key(tx: Reading) -> StoredSigningKey | None:
    """The installation's signing key; None before its first start. Only the installation's realm has one."""
    row = await tx.fetchrow(_SIGNING_KEY)
    return None if row is None else StoredSigningKey(**row)


async def add_signing_key(tx: Transaction, public: bytes, sealed: str, origin: str) -> bool:
    """Add the signing key, unless a racer was faster: then False, once the racer has committed."""
    return await tx.execute(_ADD_SIGNING_KEY, public=public, sealed=sealed, origin=origin) == 1


async def checkpoint(tx: Reading) -> Signed:
    """The head that was last signed of the tenant's log, and its epoch; of a new log the empty head."""
    row = await tx.fetchrow(_CHECKPOINT)
    return NOTHING if row is None else Signed(row["epoch"], TreeHead(row["size"], row["root"]))


async def lock_checkpoints(tx: Transaction, logs: Sequence[UUID]) -> dict[UUID, Signed]:
    """By tenant, the head that was last signed of each of these logs, locked until the end of the transaction.

    They are locked in the order of their ids, so that no two transactions wait for each other.
    """
    rows = await tx.fetch(_LOCK_CHECKPOINTS, tenants=sorted(logs))
    return {row["of_tenant"]: Signed(row["epoch"], TreeHead(row["size"], row["root"])) for row in rows}


async def move_checkpoints(tx: Transaction, heads: Mapping[UUID, TreeHead]) -> None:
    """Remember the heads that are being signed; their rows are locked."""
    await tx.execute(
        _MOVE_CHECKPOINTS,
        tenants=list(heads),
        sizes=[head.size for head in heads.values()],
        roots=[head.root for head in heads.values()],
    )


async def end_epoch(tx: Transaction, signed: Signed, reason: str) -> None:
    """Keep the end of an epoch, and begin the next one with the empty head; the row is locked."""
    head = signed.head
    await tx.execute(_END_EPOCH, epoch=signed.epoch, size=head.size, root=head.root, reason=reason)
    await tx.execute(_BEGIN_EPOCH)


async def of_all_logs(connections: Connections) -> dict[UUID, Signed]:
    """By tenant, what was last signed of every log, as the role of the jobs; also of one whose epoch has just begun."""
    async with connections.borrowed() as connection:
        rows = await connection.fetch(_OF_ALL_LOGS)
    return {row["workspace_id"]: Signed(row["epoch"], TreeHead(row["size"], row["root"])) for row in rows}
