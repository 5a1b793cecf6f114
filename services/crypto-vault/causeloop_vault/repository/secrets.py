"""Secrets, the values of their versions sealed."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select

from causeloop_common import ids
from causeloop_common.contracts.vault import SecretView
from causeloop_common.database import Reading, Transaction
from causeloop_common.statements import Statement
from causeloop_vault.models import secrets
from causeloop_vault.repository.keyrings import IS_PRIMARY


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """One version of a secret, sealed."""

    id: str
    path: str
    version: int
    sealed: str


_WRITE = Statement.raw(
    """
    INSERT INTO vault.secrets (path, id, version) VALUES ($1, $2, 1)
    ON CONFLICT (workspace_id, path) DO UPDATE SET version = secrets.version + 1, updated_at = now()
    WHERE $3::integer IS NULL OR secrets.version = $3
    RETURNING id, path, version, created_at, updated_at
    """,
    "path", "id", "expected",
)  # fmt: skip

_ADD_VERSION = Statement.raw(
    f"""
    INSERT INTO vault.secret_versions (path, version, sealed, created_by)
    SELECT $1::text, $2::integer, CASE WHEN {IS_PRIMARY.format("$5")} THEN $3::text END, $4::text
    """,
    "path", "version", "sealed", "created_by", "data_key",
)  # fmt: skip

_SECRETS = select(secrets.c.id, secrets.c.path, secrets.c.version, secrets.c.created_at, secrets.c.updated_at)
_SECRET = Statement.of(_SECRETS.where(secrets.c.path == bindparam("path")))
_LIST = Statement.of(
    _SECRETS.where(secrets.c.path > bindparam("after")).order_by(secrets.c.path).limit(bindparam("limit"))
)

_SEALED = Statement.raw(
    """
    SELECT s.id, s.path, v.version, v.sealed FROM vault.secrets s CROSS JOIN LATERAL (
        SELECT version, sealed FROM vault.secret_versions
        WHERE path = s.path AND version = CASE WHEN $2::integer IS NULL THEN s.version ELSE $2 END LIMIT 1
    ) AS v WHERE s.path = $1
    """,
    "path", "version",
)  # fmt: skip
"""The version is looked up by itself: in a join one plan for all secrets would read all versions of each, since it
expects few."""


async def write_secret(tx: Transaction, path: str, expected: int | None) -> SecretView | None:
    """Raise the secret's version, or make it at version 1. None when `expected` (if given) is not its version now."""
    row = await tx.fetchrow(_WRITE, path=path, id=ids.uuid7(), expected=expected)
    if row is None or (expected is not None and row["version"] != expected + 1):
        return None
    return _secret(row)


def add_version(
    tx: Transaction, secret: SecretView, sealed: str, created_by: str, data_key: int, stale: Exception
) -> None:
    """Store the sealed value of the version that `write_secret` made. The transaction ends with `stale` when
    `data_key`, which sealed it, is the primary no longer: then there is no value, and the column has to have one.
    """
    values = {"path": secret.path, "version": secret.version, "sealed": sealed, "created_by": created_by}
    tx.later(_ADD_VERSION, stale, **values, data_key=data_key)


async def secret(tx: Reading, path: str) -> SecretView | None:
    """A secret without its value."""
    row = await tx.fetchrow(_SECRET, path=path)
    return None if row is None else _secret(row)


async def secrets_after(tx: Reading, path: str, limit: int) -> list[SecretView]:
    """Secrets in order of path, after the given one ('' is the start)."""
    return [_secret(row) for row in await tx.fetch(_LIST, after=path, limit=limit)]


async def sealed_secret(tx: Transaction, path: str, version: int | None) -> SealedSecret | None:
    """One version of a secret, sealed; the newest without `version`."""
    row = await tx.fetchrow(_SEALED, path=path, version=version)
    return None if row is None else SealedSecret(**{**row, "id": ids.encode("sec", row["id"])})


def _secret(row: Any) -> SecretView:
    return SecretView(**{**row, "id": ids.encode("sec", row["id"])})
