"""Every list reads by an index: the one that its contract declares, in the metadata, the database and the plan."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Table

from causeloop_audit import app as audit
from causeloop_auth import app as auth
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.lists import List
from causeloop_common.database import Reading
from causeloop_common.permissions import OF_THE_JOB, ROLES, SELF, Permission
from causeloop_common.statements import Statement
from causeloop_dev.testing import Servers, person
from causeloop_tenancy import app as tenancy
from causeloop_vault import app as vault

LISTS = [kind for kind in topology.command_kinds().values() if issubclass(kind, List)]
EVERY = pytest.mark.parametrize("kind", LISTS, ids=lambda kind: kind.subject)
ROWS = 20_000

_WHOSE = "CASE WHEN n % 2 = 0 THEN $1::uuid ELSE md5((n % 20)::text)::uuid END"
"""Half of the rows are the tenant's, the others' are of ten more."""

_JOBS = (
    "INSERT INTO {schema}.jobs (workspace_id, id, kind, payload, principal, request_id, traceparent, due_at, outcome,"
    f" expires_at) SELECT {_WHOSE}, gen_random_uuid(), 'reencrypt_keyring', '{{{{}}}}', $2::text, '', '', NULL, 'done',"
    " now() + interval '1 day'"
)
GROWTH = {
    "auth.tokens": "INSERT INTO auth.tokens (workspace_id, id, owner, name, scopes, digest, created_at, expires_at)"
    f" SELECT {_WHOSE}, gen_random_uuid(), CASE WHEN n % 4 = 0 THEN $2::uuid ELSE md5((n % 50)::text)::uuid END, 'n',"
    " '{}', sha256(n::text::bytea), now(), now()",
    "tenancy.members": "INSERT INTO tenancy.members (workspace_id, person_id, role, joined_at)"
    " SELECT CASE n WHEN 1 THEN $1::uuid ELSE gen_random_uuid() END,"
    " CASE WHEN n % 4 = 0 THEN $2::uuid ELSE md5((n % 50)::text)::uuid END, 'viewer', now()",
    "vault.secrets": "INSERT INTO vault.secrets (workspace_id, path, id, version, created_at, updated_at)"
    f" SELECT {_WHOSE}, 'p' || n, $2::uuid, 1, now(), now()",
    "vault.keys": "INSERT INTO vault.keys (workspace_id, name, version, id, type, sealed, created_at)"
    f" SELECT {_WHOSE}, 'k' || n, 1, $2::uuid, 'aes256-gcm', '', now()",
    "audit.entries": "INSERT INTO audit.entries (workspace_id, index, service, event_id, action, actor, target,"
    f" request_id, occurred_at, leaf_hash, leaf) SELECT {_WHOSE}, n, 'vault', gen_random_uuid(),"
    " 'vault.secret_written', 'a' || n % 100, 't' || n % 100, $2::text, now(), sha256(n::text::bytea),"
    " NULL",
}
VALUES = {"actor": "a42", "target": "t42"}


def table_of(kind: type[List[Any]]) -> Table:
    metadata = import_module(f"causeloop_{kind.service}.models").metadata
    found: Table = metadata.tables[f"{kind.service}.{kind.table}"]
    return found


def indexes_of(table: Table) -> set[tuple[str, ...]]:
    """The columns of a table's indexes, its key's among them."""
    return {
        tuple(table.primary_key.columns.keys()),
        *(tuple(column.name for column in index.columns) for index in table.indexes),
    }


def covered(needed: tuple[str, ...], present: set[tuple[str, ...]]) -> bool:
    return any(columns[: len(needed)] == needed for columns in present)


class TestTheMetadata:
    @EVERY
    def test_has_an_index_for_each_order_and_each_filter(self, kind: type[List[Any]]) -> None:
        present = indexes_of(table_of(kind))
        assert [needed for needed in kind.indexes() if not covered(needed, present)] == []

    @EVERY
    async def test_is_the_database(self, kind: type[List[Any]], servers: Servers) -> None:
        table = table_of(kind)
        connection = await asyncpg.connect(servers.superuser_url)
        rows = await connection.fetch(
            "SELECT array(SELECT attname::text FROM unnest(indkey) WITH ORDINALITY AS k(number, place)"
            " JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place) AS columns"
            " FROM pg_index WHERE indrelid = $1::regclass AND indisvalid",
            table.fullname,
        )
        await connection.close()
        assert indexes_of(table) <= {tuple(row["columns"]) for row in rows}


@pytest.fixture(scope="module")
async def services(compose: Callable[..., Any]) -> None:
    issuer = {"CLERK_JWKS_URL": "http://127.0.0.1:1/.well-known/jwks.json", "CLERK_AUTHORIZED_PARTIES": "http://x"}
    await compose(auth.create, "auth", **issuer)
    for module, name in ((tenancy, "tenancy"), (vault, "vault"), (audit, "audit")):
        await compose(module.create, name)


@pytest.fixture(scope="module")
async def grown(servers: Servers, services: None) -> tuple[str, str]:
    """A tenant and a person with many rows in each list's table, among those of others."""
    tenant, somebody = ids.new("ws"), person()
    connection = await asyncpg.connect(servers.superuser_url)
    await connection.execute("SET session_replication_role = replica")
    tables = {f"{kind.service}.{kind.table}" for kind in LISTS}
    for name in sorted(tables):
        statement = GROWTH.get(name) or _JOBS.format(schema=name.partition(".")[0])
        owner = somebody if "$2::text" in statement else ids.decode(somebody, "usr")
        await connection.execute(f"{statement} FROM generate_series(1, {ROWS}) AS n", ids.tenant_uuid(tenant), owner)
        await connection.execute(f"ANALYZE {name}")
    await connection.close()
    return tenant, somebody


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@asynccontextmanager
async def plans(principal: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[dict[str, Any]]]:
    """The plans of what a principal's readings fetch meanwhile, each as its own role sees it."""
    found: list[dict[str, Any]] = []
    fetch = Reading.fetch

    async def explained(self: Reading, statement: Statement, **values: Any) -> list[Any]:
        if self.ctx.principal == principal:
            explaining = Statement(f"EXPLAIN (FORMAT JSON) {statement.sql}", statement.names, statement._fixed)
            (row,) = await fetch(self, explaining, **values)
            found.append(json.loads(row[0])[0]["Plan"])
        return await fetch(self, statement, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Reading, "fetch", explained)
        yield found


def cases() -> Iterator[Any]:
    for kind in LISTS:
        for order in kind.orders:
            for narrowed in (None, *kind.filters):
                yield pytest.param(kind, order, narrowed, id=f"{kind.subject}-{order}-{narrowed}")


class TestThePlan:
    @pytest.mark.parametrize(("kind", "order", "narrowed"), [*cases()])
    async def test_reads_by_the_index_alone(
        self,
        kind: type[List[Any]],
        order: str,
        narrowed: str | None,
        servers: Servers,
        grown: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        tenant, somebody = grown
        fields: dict[str, Any] = {"order": order} if len(kind.orders) > 1 else {}
        if narrowed is not None:
            fields[narrowed] = VALUES[narrowed]
        permissions = {SELF, OF_THE_JOB, *ROLES["owner"], *Permission}
        ctx = AuthContext(tenant=tenant, principal=somebody, permissions=frozenset(map(str, permissions)))
        async with servers.connected("gateway") as bus, plans(somebody, monkeypatch) as found:
            reply = await bus.call(ctx, kind.model_validate(fields))
            if len(reply.data) == kind.model_fields["limit"].default:
                assert reply.next_position is not None
                await bus.call(ctx, kind.model_validate({**fields, "position": reply.next_position}))
        assert found or kind.table == "jobs"  # of services that have no kind of job
        for plan in found:
            steps = list(nodes(plan))
            read = {step["Node Type"] for step in steps if step.get("Relation Name") == kind.table}
            assert read <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
            for index in {step["Index Name"] for step in steps if "Index Name" in step}:
                assert await columns_of(servers, index, kind) in usable(kind, order, narrowed)


def usable(kind: type[List[Any]], order: str, narrowed: str | None) -> set[tuple[str, ...]]:
    """The indexes of the table that are good for the order and the filter."""
    columns = () if narrowed is None else (kind.filters[narrowed],)
    needed = tuple(dict.fromkeys((*kind.bound(kind.orders[order]), *columns, kind.orders[order])))
    return {present for present in indexes_of(table_of(kind)) if present[: len(needed)] == needed}


async def columns_of(servers: Servers, index: str, kind: type[List[Any]]) -> tuple[str, ...]:
    connection = await asyncpg.connect(servers.superuser_url)
    found = await connection.fetchval(
        "SELECT array(SELECT attname::text FROM unnest(indkey) WITH ORDINALITY AS k(number, place)"
        " JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place)"
        " FROM pg_index WHERE indexrelid = $1::regclass",
        f"{kind.service}.{index}",
    )
    await connection.close()
    return tuple(found)
