"""Every table of every schema, tried by every role that can log in, as a second tenant and as nobody.

What is tried follows from the database's own catalogue, so that a new table or role is tried without a word here; it
only has to have rows of both tenants, or stand in `NO_TENANTS` with its reason.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import asyncpg
import pytest

from causeloop_common.contracts import topology
from causeloop_common.rls import PERSON_SETTING, TENANT_SETTING
from tests.isolation.tenants import Tenants, tenant_tables
from tests.support.stack import Stack

NO_TENANTS = {
    "migrations": "which migrations were run",
    "relay_state": "the relay's memory: one number",
    "leases": "who leads which work",
    "schedules": "which periods are done",
    "outbox_set_aside": "rows whose tenant may be none, for an operator",
    "intake": "how far the stream is entered",
}
"""Tables without a tenant, by schema or name."""

BEYOND_TENANTS = {
    ("causeloop_{s}_relay", "outbox"): {"select", "update"},
    ("causeloop_{s}_relay", "outbox_set_aside"): {"select", "insert"},
    ("causeloop_{s}_writer", "intake"): {"select", "update"},
    ("causeloop_{s}_relay", "relay_state"): {"select", "insert", "update"},
    ("causeloop_{s}_relay", "leases"): {"select", "update"},
    ("causeloop_{s}_writer", "leases"): {"select", "update"},
    ("causeloop_audit", "leases"): {"select", "update"},
    ("causeloop_{s}_jobs", "jobs"): {"select", "update", "delete"},
    ("causeloop_{s}_jobs", "idempotency"): {"select", "delete"},
    ("causeloop_{s}_jobs", "inbox"): {"select", "delete"},
    ("causeloop_{s}_jobs", "schedules"): {"select", "insert", "update"},
    ("causeloop_{s}_jobs", "leases"): {"select", "update"},
    ("causeloop_{s}_writer", "heads"): {"select", "insert", "update"},
    ("causeloop_{s}_writer", "entries"): {"select", "insert"},
    ("causeloop_{s}_writer", "nodes"): {"insert"},
    ("causeloop_{s}_writer", "held"): {"select", "insert", "delete"},
    ("causeloop_{s}_writer", "checkpoints"): {"select"},
    ("causeloop_{s}_writer", "refused"): {"select"},
    ("causeloop_vault_jobs", "checkpoints"): {"select"},
}
"""What a role may do across tenants. The same list is in docs/security-model.md."""

_EMPTIES = ("causeloop_audit_writer", "audit.held")
"""The role that deletes every tenant's rows of a table: events that it has entered. No row's age protects it."""


class Table(NamedTuple):
    schema: str
    name: str
    has_tenant: bool
    is_partition: bool

    @property
    def full(self) -> str:
        return f"{self.schema}.{self.name}"


class Catalogue(NamedTuple):
    tables: list[Table]
    roles: list[str]


@pytest.fixture(scope="module")
async def catalogue(stack: Stack) -> Catalogue:
    async with stack.sql() as sql:
        rows = await sql.fetch(
            """
            SELECT n.nspname, c.relname, c.relispartition,
                   EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'workspace_id')
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%'
              AND n.nspname <> 'information_schema' ORDER BY 1, 2
            """
        )
        roles = await sql.fetch(
            "SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND rolname <> 'causeloop_migrator'"
        )
    return Catalogue([Table(n, t, has, part) for n, t, part, has in rows], sorted(row["rolname"] for row in roles))


def may_cross(role: str, table: Table) -> set[str]:
    for (pattern, name), verbs in BEYOND_TENANTS.items():
        is_own = role.startswith(f"causeloop_{table.schema}")
        if is_own and pattern.replace("{s}", table.schema) == role and name == table.name:
            return verbs
    return set()


class Attempts:
    """Statements of one role under some settings; everything is rolled back."""

    def __init__(self, connection: Any, **settings: str | None) -> None:
        self._connection = connection
        self._settings = settings
        self.count = 0

    async def __call__(self, statement: str, *args: Any) -> Any:
        """The rows or status; None when the role has no right to this."""
        self.count += 1
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            for setting, value in self._settings.items():
                name = {"tenant": TENANT_SETTING, "person": PERSON_SETTING}[setting]
                if value is not None:
                    await self._connection.execute("SELECT set_config($1, $2, true)", name, value)
            if statement.startswith("SELECT"):
                return await self._connection.fetch(statement, *args)
            return await self._connection.execute(statement, *args)
        except asyncpg.InsufficientPrivilegeError:
            return None
        finally:
            await transaction.rollback()


async def columns(sql: Any, role: str, table: Table, verb: str) -> list[str]:
    """The columns on which the role has the right."""
    rows = await sql.fetch(
        """
        SELECT attname FROM pg_attribute WHERE attrelid = $2::text::regclass AND attnum > 0 AND NOT attisdropped
          AND has_column_privilege($1, attrelid, attnum, $3)
        """,
        role,
        table.full,
        verb,
    )
    return [row["attname"] for row in rows]


async def has_right(sql: Any, role: str, table: Table, verb: str) -> bool:
    """Whether the role has the right on the table or on any column of it."""
    if verb == "delete":
        return bool(await sql.fetchval("SELECT has_table_privilege($1, $2, 'DELETE')", role, table.full))
    return bool(await columns(sql, role, table, verb))


class TestEveryTable:
    async def test_has_rows_of_both_tenants_so_that_hiding_them_means_something(
        self, stack: Stack, tenants: Tenants, catalogue: Catalogue
    ) -> None:
        async with stack.sql() as sql:
            assert await tenant_tables(sql) == [t.full for t in catalogue.tables if t.has_tenant and not t.is_partition]
            for table in catalogue.tables:
                if not table.has_tenant:
                    assert {table.schema, table.name} & set(NO_TENANTS), f"{table.full}: whose rows are these?"
                    continue
                if table.is_partition:
                    continue
                for things in (tenants.a, tenants.b):
                    found = await sql.fetchval(
                        f"SELECT count(*) FROM {table.full} WHERE workspace_id = ANY($1)", things.tenants()
                    )
                    assert found, f"{table.full}: make the tenants of this test have a row in it"

    async def test_shows_and_lets_change_nothing_of_another_tenant(
        self, stack: Stack, tenants: Tenants, catalogue: Catalogue, tell: Callable[[str], None]
    ) -> None:
        """In a schema that is not its own a role has no right at all, whatever is set: there one setting is tried."""
        before = await tenants.footprint()
        count = 0
        for role in catalogue.roles:
            service = role.split("_")[1]
            assert service in topology.OWNERS, f"Whose role is {role}?"
            async with stack.sql(stack.database_url(role)) as connection, stack.sql() as sql:
                for table in catalogue.tables:
                    is_own = service == table.schema
                    for settings in scenarios(tenants) if is_own else scenarios(tenants)[:1]:
                        attempts = Attempts(connection, **settings)
                        findings = await findings_of(attempts, sql, role, table, tenants, settings)
                        assert not findings, f"{role} on {table.full} with {settings}: {findings}"
                        count += attempts.count
        assert await tenants.footprint() == before
        tell(
            f"isolation: {len(catalogue.tables)} tables, {len(catalogue.roles)} roles, {len(scenarios(tenants))} "
            f"settings: {count} statements, nothing of another tenant"
        )

    async def test_grants_no_right_that_row_security_does_not_cover(self, stack: Stack, catalogue: Catalogue) -> None:
        async with stack.sql() as sql:
            for role in catalogue.roles:
                for table in catalogue.tables:
                    for right in ("TRUNCATE", "REFERENCES", "TRIGGER"):
                        held = await sql.fetchval("SELECT has_table_privilege($1, $2, $3)", role, table.full, right)
                        emptied_by_relay = table.is_partition and role == f"causeloop_{table.schema}_relay"
                        assert held == (right == "TRUNCATE" and emptied_by_relay), (role, table.full, right)
                    sees = await sql.fetchval("SELECT has_schema_privilege($1, $2, 'USAGE')", role, table.schema)
                    assert sees == (role.split("_")[1] == table.schema), (role, table.schema)

    async def test_crosses_tenants_only_as_far_as_it_is_listed(self, stack: Stack, catalogue: Catalogue) -> None:
        async with stack.sql() as sql:
            for role in catalogue.roles:
                if role.count("_") == 1:
                    continue  # a service's own role: bound to the tenant
                for table in catalogue.tables:
                    held = {
                        verb
                        for verb in ("select", "insert", "update", "delete")
                        if await has_right(sql, role, table, verb)
                    }
                    assert held == may_cross(role, table), (role, table.full)
            for name, shown in (
                ("entries", ["service", "event_id", "digest", "action"]),
                ("checkpoints", ["size", "root"]),
                ("refused", ["size", "entries"]),
            ):
                table = Table("audit", name, has_tenant=True, is_partition=False)
                seen = await columns(sql, "causeloop_audit_writer", table, "SELECT")
                assert set(seen) == {"workspace_id", *shown}
            for service in ("auth", "tenancy", "vault", "audit"):
                table, role = Table(service, "jobs", has_tenant=True, is_partition=False), f"causeloop_{service}_jobs"
                seen = await columns(sql, role, table, "SELECT")
                assert seen == ["workspace_id", "id", "due_at", "lease_term", "lease_until", "expires_at"]
                assert await columns(sql, role, table, "UPDATE") == ["lease_term", "lease_until"]

    async def test_that_is_not_protected_is_found_by_this_very_test(self, stack: Stack, tenants: Tenants) -> None:
        table = Table("vault", "forgotten", has_tenant=True, is_partition=False)
        async with stack.sql() as sql, stack.sql(stack.database_url("causeloop_vault")) as connection:
            await sql.execute("CREATE TABLE vault.forgotten (workspace_id uuid NOT NULL, word text)")
            try:
                for tenant in (*tenants.a.tenants(), *tenants.b.tenants()):
                    await sql.execute("INSERT INTO vault.forgotten VALUES ($1, 'x')", tenant)
                for right, finding in {
                    "SELECT": "select shows rows",
                    "INSERT": "insert for a is accepted",
                    "UPDATE": "update moved a row to a",
                    "DELETE": "delete removed more",
                    "TRUNCATE": "truncate is allowed",
                }.items():
                    await sql.execute(f"GRANT {right} ON vault.forgotten TO causeloop_vault")
                    settings = scenarios(tenants)[0]
                    attempts = Attempts(connection, **settings)
                    findings = await findings_of(attempts, sql, "causeloop_vault", table, tenants, settings)
                    assert finding in " ".join(findings), findings
            finally:
                await sql.execute("DROP TABLE vault.forgotten")


def scenarios(tenants: Tenants) -> list[dict[str, str | None]]:
    """How a transaction of somebody else's could be bound: to b, to nobody, to a person."""
    workspace, realm = map(str, tenants.b.tenants())
    of_a = str(tenants.a.tenants()[1])
    return [
        {"tenant": workspace},
        {"tenant": realm},
        {},
        {"tenant": "", "person": ""},
        {"person": realm},
        {"tenant": workspace, "person": of_a},  # the one read by person must not add to a tenant's rows
    ]


async def findings_of(
    attempts: Attempts, sql: Any, role: str, table: Table, tenants: Tenants, settings: dict[str, str | None]
) -> list[str]:
    """What this role could see or do of a's in this table."""
    crosses = may_cross(role, table)
    selectable = await columns(sql, role, table, "SELECT")
    findings = []
    if not table.has_tenant:
        for verb, statement in {
            "select": f"SELECT * FROM {table.full}",
            "delete": f"DELETE FROM {table.full}",
            "insert": f"INSERT INTO {table.full} DEFAULT VALUES",
        }.items():
            if verb not in crosses and await attempts(statement) is not None:
                findings.append(f"{verb} is allowed")
        return findings

    owned = role == f"causeloop_{table.schema}" and not table.is_partition
    a, b = tenants.a.tenants(), tenants.b.tenants()
    if "select" not in crosses:
        # Reading: in bulk, by name, and locking.
        if "workspace_id" in selectable:
            seen = await attempts(f"SELECT workspace_id FROM {table.full}") or []
            if [row for row in seen if row["workspace_id"] in a]:
                findings.append("select shows rows")
            if owned and settings == {"tenant": str(b[0])}:
                there = await sql.fetchval(f"SELECT count(*) FROM {table.full} WHERE workspace_id = $1", b[0])
                if len(seen) != there:
                    findings.append(f"its own tenant sees {len(seen)} of {there} rows")
        elif await attempts(f"SELECT count(*) FROM {table.full}") is not None:
            findings.append("select is allowed without the column that would bind it")
        findings += [
            f"select by name{lock} shows rows"
            for lock in ("", " FOR UPDATE")
            if await attempts(f"SELECT workspace_id FROM {table.full} WHERE workspace_id = ANY($1){lock}", a)
        ]

    if "insert" not in crosses:
        (example,) = await sql.fetch(f"SELECT * FROM {table.full} WHERE workspace_id = ANY($1) LIMIT 1", a) or [None]
        fillable = await columns(sql, role, table, "INSERT")
        if example is not None and fillable:
            values = ", ".join(f"${n}" for n in range(1, len(fillable) + 1))
            names = ", ".join(f'"{name}"' for name in fillable)
            given = [example[name] for name in fillable]
            if "workspace_id" not in fillable:
                findings.append("insert cannot name the tenant, so this test cannot try")
            elif await attempts(f"INSERT INTO {table.full} ({names}) VALUES ({values})", *given) is not None:
                findings.append("insert for a is accepted")
            conflict = f"INSERT INTO {table.full} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"
            if await attempts(conflict, *given) is not None:
                findings.append("insert on conflict for a is accepted")
        elif not fillable and await attempts(f"INSERT INTO {table.full} DEFAULT VALUES") is not None:
            findings.append("insert is accepted")

    if "update" not in crosses:
        changeable = await columns(sql, role, table, "UPDATE")
        target = changeable[0] if changeable else "workspace_id"
        for where in ("", " WHERE workspace_id = ANY($1)"):
            status = await attempts(f"UPDATE {table.full} SET {target} = {target}{where}", *([a] if where else []))
            mine = await sql.fetchval(f"SELECT count(*) FROM {table.full} WHERE workspace_id = ANY($1)", b)
            if status is not None and int(status.split()[1]) > (0 if where else mine):
                findings.append(f"update{where} changed more than b's rows: {status}")
        moved = await attempts(f"UPDATE {table.full} SET workspace_id = $1", a[0])
        if moved not in (None, "UPDATE 0"):
            findings.append(f"update moved a row to a: {moved}")

    for where in ("", " WHERE workspace_id = ANY($1)") if (role, table.full) != _EMPTIES else ():
        status = await attempts(f"DELETE FROM {table.full}{where}", *([a] if where else []))
        mine = await sql.fetchval(f"SELECT count(*) FROM {table.full} WHERE workspace_id = ANY($1)", b)
        if status is not None and int(status.split()[1]) > (0 if where else mine):
            findings.append(f"delete{where} removed more than b's rows: {status}")
    if not (table.is_partition and role.endswith("_relay")) and await attempts(f"TRUNCATE {table.full}") is not None:
        findings.append("truncate is allowed")
    return findings
