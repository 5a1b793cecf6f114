"""A database of an installation that has grown: 2000 workspaces, of which three have half of all rows.

Rows are in the order in which many tenants would have written them, and where rows come and go their times are in no
order at all, as in pages that are used again. In each workspace things are numbered from 0.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from causeloop_cli import services
from causeloop_dev.testing import Servers
from tests.support.upgrades import Upgrade, upgrading

WORKSPACES = 2000
LARGE = 3
"""The first workspaces, which have half of all rows."""
VERSIONS = 1000
"""Of the secret `p1` of the tenants that are tried."""


def tenant(number: int) -> UUID:
    return UUID(f"01900000-0000-7000-8000-{number:012x}")


def thing(number: int) -> UUID:
    return UUID(f"01900000-0000-7000-9000-{number:012x}")


def person(number: int) -> UUID:
    return UUID(f"01900000-0000-7000-a000-{number:012x}")


TENANTS = {"a large tenant": tenant(0), "a small tenant": tenant(1000)}

FIXED = {
    "relay_state": "one row",
    "leases": "a row for each kind of work",
    "schedules": "a row for each task",
    "intake": "one row",
    "outbox_set_aside": "an operator empties it",
    "signing_keys": "the installation's",
    "refused": "the logs that are damaged",
}
"""Tables that do not grow with tenants, by their reasons."""

_FUNCTIONS = f"""
    CREATE FUNCTION pg_temp.uuid_of(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
        $$ SELECT ('01900000-0000-7000-' || kind || '-' || lpad(to_hex(n), 12, '0'))::uuid $$;
    CREATE FUNCTION pg_temp.thing(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
        $$ SELECT pg_temp.uuid_of('9000', n) $$;
    CREATE FUNCTION pg_temp.person(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS
        $$ SELECT pg_temp.uuid_of('a000', n) $$;
    CREATE TEMP VIEW grown AS
        SELECT n, pg_temp.uuid_of('8000', CASE WHEN n % 2 = 0 THEN n / 2 % {LARGE}
                                               ELSE {LARGE} + n / 2 % ({WORKSPACES} - {LARGE}) END) AS w,
               CASE WHEN n % 2 = 0 THEN n / 2 / {LARGE} ELSE n / 2 / ({WORKSPACES} - {LARGE}) END AS p
        FROM generate_series(0::bigint, 99999) AS n;
    CREATE TEMP VIEW each AS
        SELECT n, pg_temp.uuid_of('8000', n) AS w, 0::bigint AS p FROM generate_series(0::bigint, {WORKSPACES} - 1) AS n
"""
"""`n` is the number of a row, `w` its workspace, `p` the number of the thing in it."""

_HASH = "sha256(p::text::bytea)"


def _some(hours: float) -> str:
    """A time of the last hours, in no order."""
    return f"now() - (n * 7919 % 100000) * {hours} / 100000 * interval '1 hour'"


def _outbox(schema: str) -> Mapping[str, str]:
    """Three days; the last 500 rows are not published, the 1000 before them not receipted."""
    return {
        "bucket": "n / 10000", "workspace_id": "w", "event_id": "gen_random_uuid()",
        "type": f"'{schema}.thing_done'", "occurred_at": "now() - (30000 - n) * interval '6 seconds'", "data": "'{}'",
        "actor": "'usr_x'", "target": "'sec_x'", "request_id": "'req_x'", "traceparent": "'00-x'",
        "xid": "(n / 300 + 3)::text::xid8",
        "published_at": "CASE WHEN n < 29500 THEN now() - (30000 - n) * interval '6 seconds' END",
        "stream_seq": "CASE WHEN n < 29500 THEN n + 1 END", "digest": f"CASE WHEN n < 29500 THEN {_HASH} END",
        "confirmed_batch": "CASE WHEN n < 28500 THEN n / 500 END",
    }  # fmt: skip


_JOBS = {
    "workspace_id": "w", "id": "pg_temp.thing(p)", "kind": "'reencrypt_keyring'", "payload": "'{}'",
    "principal": "'usr_x'", "request_id": "'req_x'", "traceparent": "'00-x'",
    "due_at": "CASE WHEN n % 100 < 2 THEN now() + (n % 7 - 3) * interval '1 hour' END",
    "outcome": "CASE WHEN n % 100 >= 2 THEN 'done' END",
    "expires_at": f"CASE WHEN n % 100 >= 2 THEN {_some(168)} + interval '166 hours' END",
}  # fmt: skip
_IDEMPOTENCY = {
    "workspace_id": "w", "principal": "'usr_x'", "operation": "'vault.put_secret'", "key": "'k' || p",
    "fingerprint": "'f'", "reply": "'{}'", "created_at": _some(25),
}  # fmt: skip

_Growth = tuple[int, Mapping[str, str]]
"""How many rows, 0 for one in each workspace; and the columns."""

_OF_EACH_SERVICE: dict[str, _Growth] = {"idempotency": (20_000, _IDEMPOTENCY), "jobs": (20_000, _JOBS)}
_GROWTH: dict[str, _Growth] = {
    "auth.sessions": (20_000, {
        "workspace_id": "w", "id": "pg_temp.thing(p)", "current": _HASH, "rotated_at": "now()", "created_at": "now()",
        "expires_at": "now()",
    }),
    "auth.tokens": (20_000, {
        "workspace_id": "w", "id": "pg_temp.thing(p)", "owner": "pg_temp.person(p % 3)", "name": "'ci'",
        "scopes": "'{}'", "digest": _HASH, "created_at": "now()", "expires_at": "now()",
    }),
    "tenancy.workspaces": (0, {
        "workspace_id": "w", "name": "'Acme'", "slug": "'acme'", "timezone": "'UTC'",
        "created_by": "pg_temp.person(0)",
    }),
    "tenancy.members": (20_000, {"workspace_id": "w", "person_id": "pg_temp.person(p)", "role": "'viewer'"}),
    "vault.inbox": (20_000, {
        "workspace_id": "w", "consumer": "'vault'", "event_id": "pg_temp.thing(p)", "seen_at": _some(24 * 41),
    }),
    "vault.keyrings": (6_000, {
        "workspace_id": "w", "version": "p + 1", "wrapped": "'x'", "master": "'m'",
        "state": "CASE p WHEN 0 THEN 'primary' ELSE 'enabled' END",
    }),
    "vault.keys": (20_000, {
        "workspace_id": "w", "name": "'k' || p", "version": "1", "id": "pg_temp.thing(p)", "type": "'aes256-gcm'",
        "sealed": "repeat('x', 100)",
    }),
    "vault.secrets": (40_000, {
        "workspace_id": "w", "path": "'p' || p", "id": "pg_temp.thing(p)",
        "version": f"CASE p WHEN 1 THEN {VERSIONS} ELSE 1 END",
    }),
    "vault.secret_versions": (40_000, {
        "workspace_id": "w", "path": "'p' || p", "version": "1", "sealed": "repeat('x', 100)", "created_by": "'usr_x'",
    }),
    "vault.sealed_values": (20_000, {
        "workspace_id": "w", "purpose": "'auth/session'", "record": "'r' || p", "sealed": "repeat('x', 100)",
    }),
    "vault.checkpoints": (0, {"workspace_id": "w", "size": "25", "root": _HASH}),
    "vault.epochs": (6_000, {
        "workspace_id": "w", "epoch": "p + 1", "size": "1", "root": _HASH, "reason": "'restored'",
    }),
    "audit.heads": (0, {
        "workspace_id": "w", "size": f"CASE WHEN n < {LARGE} THEN 16666 ELSE 25 END", "root": _HASH, "peaks": "''",
    }),
    "audit.entries": (100_000, {
        "workspace_id": "w", "index": "p", "service": "'vault'", "event_id": "pg_temp.thing(p)", "digest": _HASH,
        "action": "CASE p % 10 WHEN 0 THEN 'vault.secret_revealed' ELSE 'vault.secret_written' END",
        "actor": "'a' || p % 100", "target": "'t' || p % 100", "request_id": "'request-' || p",
        "occurred_at": "now() - (20000 - p) * interval '1 minute'", "leaf_hash": _HASH, "leaf": "repeat('x', 300)",
    }),
    "audit.held": (20_000, {
        "workspace_id": "w", "service": "'vault'", "event_id": "pg_temp.thing(p)", "number": "n + 1",
        "until": "now() + (n - 10000) * interval '1 second'", "subject": "'s'", "headers": "''", "data": "''",
    }),
    "audit.nodes": (20_000, {"workspace_id": "w", "level": "1", "index": "p", "hash": _HASH}),
    "audit.checkpoints": (0, {
        "workspace_id": "w", "size": f"CASE WHEN n < {LARGE} THEN 16666 ELSE 25 END - (n % 100 = 0)::integer",
        "root": _HASH, "note": "'note'",
    }),
}  # fmt: skip
_VERSIONS = f"""
    INSERT INTO vault.secret_versions (workspace_id, path, version, sealed, created_by)
    SELECT w, 'p1', n, repeat('x', 100), 'usr_x'
    FROM unnest($1::uuid[]) AS w, generate_series(2, {VERSIONS}) AS n
"""


_TRANSACTIONS = f"""
    DO $$ BEGIN FOR n IN 1..{WORKSPACES} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$
"""
"""Since the rows were written."""


def declared() -> list[str]:
    """Every table of every service."""
    return [table.fullname for schema in services.schemas().values() for table in schema.tables.sorted_tables]


def growth_of(table: str) -> _Growth | None:
    """How a table is filled; None for one that is fixed. KeyError for one that nobody fills."""
    schema, name = table.split(".")
    if name in FIXED:
        return None
    if name == "outbox":
        return 30_000, _outbox(schema)
    return _OF_EACH_SERVICE.get(name) or _GROWTH[table]


def grows(relation: str) -> bool:
    """Whether a table, or the one that a partition is of, grows with tenants."""
    return re.sub(r"_\d+$", "", relation) not in FIXED


class Grown:
    """The grown database, as its roles see it."""

    def __init__(self, made: Upgrade) -> None:
        self._made = made
        self._connections: dict[str, asyncpg.Connection] = {}

    async def connection(self, role: str) -> asyncpg.Connection:
        """A role's connection, with the role's settings."""
        if role not in self._connections:
            self._connections[role] = await asyncpg.connect(self._made.dsn(role))
        return self._connections[role]

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()


@asynccontextmanager
async def grown(servers: Servers) -> AsyncIterator[Grown]:
    """The database, filled."""
    async with upgrading(servers, **dict.fromkeys(services.schemas(), "head")) as made:
        await made.superuser.execute("SET session_replication_role = replica")
        await made.superuser.execute(_FUNCTIONS)
        for table in declared():
            if (growth := growth_of(table)) is not None:
                await made.superuser.execute(_insert(table, *growth))
        await made.superuser.execute(_VERSIONS, list(TENANTS.values()))
        await made.superuser.execute("SET session_replication_role = origin")
        await made.superuser.execute(f"ANALYZE {', '.join(declared())}")
        await made.superuser.execute(_TRANSACTIONS)
        found = Grown(made)
        try:
            yield found
        finally:
            await found.close()


def _insert(table: str, rows: int, columns: Mapping[str, str]) -> str:
    source: Any = f"grown WHERE n < {rows}" if rows else "each"
    names, values = ", ".join(columns), ", ".join(columns.values())
    return f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {source}"
