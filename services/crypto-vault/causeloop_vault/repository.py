"""All SQL of the vault. Row security binds every statement to the transaction's tenant."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, select, update

from causeloop_common import ids
from causeloop_common.contracts.vault import KeyView, SecretView
from causeloop_common.database import Transaction
from causeloop_common.statements import Statement
from causeloop_vault.domain.witness import EMPTY, Head
from causeloop_vault.models import checkpoints, keyrings, keys, secret_versions, secrets, signing_keys


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """One version of a tenant's data key, wrapped by the master key named by its fingerprint."""

    version: int
    wrapped: str
    master: str


@dataclass(frozen=True, slots=True)
class SealedMaterial:
    """One version of a named key's material, sealed."""

    id: str
    version: int
    sealed: str


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """One version of a secret, sealed."""

    id: str
    path: str
    version: int
    sealed: str


@dataclass(frozen=True, slots=True)
class StoredSigningKey:
    """The key that signs checkpoints: its public half, its private one sealed, and the origin it began under."""

    public: bytes
    sealed: str
    origin: str
    created_at: datetime


_DATA_KEYS = Statement.of(
    select(keyrings.c.version, keyrings.c.wrapped, keyrings.c.master).order_by(keyrings.c.version)
)

_ADD_DATA_KEY = Statement.raw(
    "INSERT INTO vault.keyrings (version, wrapped, master) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    "version", "wrapped", "master",
)  # fmt: skip

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

_LIST_KEYS = Statement.of(
    select(
        keys.c.id,
        keys.c.name,
        keys.c.type,
        func.max(keys.c.version).label("version"),
        func.min(keys.c.created_at).label("created_at"),
    )
    .where(keys.c.name > bindparam("after"))
    .group_by(keys.c.name, keys.c.id, keys.c.type)
    .order_by(keys.c.name)
    .limit(bindparam("limit"))
)

_WRITE = Statement.raw(
    """
    INSERT INTO vault.secrets (path, id, version) VALUES ($1, $2, 1)
    ON CONFLICT (workspace_id, path) DO UPDATE SET version = secrets.version + 1, updated_at = now()
    WHERE $3::integer IS NULL OR secrets.version = $3
    RETURNING id, path, version, created_at, updated_at
    """,
    "path", "id", "expected",
)  # fmt: skip

_ADD_VERSION = Statement.insert(secret_versions, "path", "version", "sealed", "created_by")

_SECRETS = select(secrets.c.id, secrets.c.path, secrets.c.version, secrets.c.created_at, secrets.c.updated_at)
_SECRET = Statement.of(_SECRETS.where(secrets.c.path == bindparam("path")))
_LIST = Statement.of(
    _SECRETS.where(secrets.c.path > bindparam("after")).order_by(secrets.c.path).limit(bindparam("limit"))
)

_SEALED = Statement.of(
    select(secrets.c.id, secrets.c.path, secret_versions.c.version, secret_versions.c.sealed)
    .join(secret_versions)
    .where(
        secrets.c.path == bindparam("path"),
        secret_versions.c.version
        == func.coalesce(bindparam("version", type_=secrets.c.version.type), secrets.c.version),
    )
)

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


async def data_keys(tx: Transaction) -> list[WrappedKey]:
    """All versions of the tenant's data key, oldest first; empty before its first use."""
    return [WrappedKey(**row) for row in await tx.fetch(_DATA_KEYS)]


async def add_data_key(tx: Transaction, key: WrappedKey) -> bool:
    """Add a version, unless a racer was faster: then False, once the racer has committed."""
    return await tx.execute(_ADD_DATA_KEY, version=key.version, wrapped=key.wrapped, master=key.master) == 1


async def add_key(tx: Transaction, key_id: str, name: str, kind: str, sealed: str) -> KeyView | None:
    """Add a named key at version 1; None when the name is taken, once a racer has committed."""
    row = await tx.fetchrow(_ADD_KEY, name=name, id=ids.decode(key_id, "key"), type=kind, sealed=sealed)
    return None if row is None else _key(row)


async def key_material(tx: Transaction, name: str) -> list[SealedMaterial]:
    """All versions of a named key's material, oldest first; empty when there is no such key."""
    found = await tx.fetch(_MATERIAL, name=name)
    return [SealedMaterial(**{**row, "id": ids.encode("key", row["id"])}) for row in found]


async def keys_after(tx: Transaction, name: str, limit: int) -> list[KeyView]:
    """Named keys in order of name, after the given one ('' is the start)."""
    return [_key(row) for row in await tx.fetch(_LIST_KEYS, after=name, limit=limit)]


async def write_secret(tx: Transaction, path: str, expected: int | None) -> SecretView | None:
    """Raise the secret's version, or make it at version 1. None when `expected` (if given) is not its version now."""
    row = await tx.fetchrow(_WRITE, path=path, id=ids.uuid7(), expected=expected)
    if row is None or (expected is not None and row["version"] != expected + 1):
        return None
    return _secret(row)


async def add_version(tx: Transaction, secret: SecretView, sealed: str, created_by: str) -> None:
    """Store the sealed value of the version that `write_secret` made."""
    await tx.execute(_ADD_VERSION, path=secret.path, version=secret.version, sealed=sealed, created_by=created_by)


async def secret(tx: Transaction, path: str) -> SecretView | None:
    """A secret without its value."""
    row = await tx.fetchrow(_SECRET, path=path)
    return None if row is None else _secret(row)


async def secrets_after(tx: Transaction, path: str, limit: int) -> list[SecretView]:
    """Secrets in order of path, after the given one ('' is the start)."""
    return [_secret(row) for row in await tx.fetch(_LIST, after=path, limit=limit)]


async def sealed_secret(tx: Transaction, path: str, version: int | None) -> SealedSecret | None:
    """One version of a secret, sealed; the newest without `version`."""
    row = await tx.fetchrow(_SEALED, path=path, version=version)
    return None if row is None else SealedSecret(**{**row, "id": ids.encode("sec", row["id"])})


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


def _secret(row: Any) -> SecretView:
    return SecretView(**{**row, "id": ids.encode("sec", row["id"])})


def _key(row: Any) -> KeyView:
    return KeyView(**{**row, "id": ids.encode("key", row["id"])})
