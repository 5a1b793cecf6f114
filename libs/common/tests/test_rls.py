"""The start-up proof: break one thing at a time, in a transaction that is rolled back, and see it found and named."""

from importlib import import_module
from typing import NamedTuple

import asyncpg
import pytest
from sqlalchemy import MetaData

from causeloop_common import ids, rls
from causeloop_common.rls import Policy, Protection


def tables(schema: str) -> MetaData:
    metadata: MetaData = import_module(f"causeloop_{schema}.models").metadata
    return metadata


class Broken(NamedTuple):
    """What is broken in tenancy's schema, and the sentence that must name it."""

    what: str
    sql: str
    says: str


OPEN = "USING (true)"
ROLES = [
    Broken("the role bypasses row security", "ALTER ROLE causeloop_tenancy BYPASSRLS",
           "Role 'causeloop_tenancy' can bypass row security."),
    Broken("the role is a superuser", "ALTER ROLE causeloop_tenancy SUPERUSER",
           "Role 'causeloop_tenancy' is a superuser."),
    Broken("the role makes roles", "ALTER ROLE causeloop_tenancy CREATEROLE",
           "Role 'causeloop_tenancy' can create roles."),
    Broken("the role makes databases", "ALTER ROLE causeloop_tenancy CREATEDB",
           "Role 'causeloop_tenancy' can create databases."),
    Broken("the role replicates", "ALTER ROLE causeloop_tenancy REPLICATION",
           "Role 'causeloop_tenancy' can replicate."),
    Broken("the role is a member of another", "GRANT causeloop_tenancy_owner TO causeloop_tenancy",
           "Role 'causeloop_tenancy' is a member of causeloop_tenancy_owner."),
    Broken("the role may become another without inheriting",
           "GRANT pg_read_all_data TO causeloop_tenancy WITH INHERIT FALSE, SET TRUE",
           "Role 'causeloop_tenancy' is a member of pg_read_all_data."),
    Broken("the role owns a table", "ALTER TABLE tenancy.members OWNER TO causeloop_tenancy",
           "Role 'causeloop_tenancy' owns tenancy.members"),
    Broken("the role sees another schema", "GRANT USAGE ON SCHEMA vault TO causeloop_tenancy",
           "Role 'causeloop_tenancy' has rights on the schema vault."),
    Broken("everybody sees a schema", "GRANT USAGE ON SCHEMA public TO PUBLIC",
           "Role 'causeloop_tenancy' has rights on the schema public."),
    Broken("the role makes tables", "GRANT CREATE ON SCHEMA tenancy TO causeloop_tenancy",
           "Role 'causeloop_tenancy' can create in the schema tenancy."),
    Broken("the relay bypasses row security", "ALTER ROLE causeloop_tenancy_relay BYPASSRLS",
           "Role 'causeloop_tenancy_relay' can bypass row security."),
    Broken("the relay is a member of the service", "GRANT causeloop_tenancy TO causeloop_tenancy_relay",
           "Role 'causeloop_tenancy_relay' is a member of causeloop_tenancy."),
    Broken("every session of the role begins with a tenant",
           "ALTER ROLE causeloop_tenancy SET app.current_workspace = '00000000-0000-7000-8000-000000000001'",
           "The setting 'app.current_workspace' of causeloop_tenancy is made in the database: reset it."),
    Broken("every session of the database begins with a person",
           "ALTER DATABASE scratch SET app.current_person = '00000000-0000-8000-a000-000000000001'",
           "The setting 'app.current_person' of every role is made in the database: reset it."),
    Broken("the role's triggers do not fire",
           "ALTER ROLE causeloop_tenancy SET session_replication_role = replica",
           "The setting 'session_replication_role' of causeloop_tenancy is made in the database: reset it."),
    Broken("this session's triggers do not fire", "SET LOCAL session_replication_role = replica",
           "Triggers do not fire in this session: session_replication_role is not 'origin'."),
    Broken("the owner logs in", "ALTER ROLE causeloop_tenancy_owner LOGIN",
           "Role 'causeloop_tenancy_owner' can log in."),
]  # fmt: skip
TABLES = [
    Broken("a table nobody declared", "CREATE TABLE tenancy.forgotten (workspace_id uuid)",
           "Table or view tenancy.forgotten is not declared."),
    Broken("a view", "CREATE VIEW tenancy.everyone AS SELECT * FROM tenancy.members",
           "Table or view tenancy.everyone is not declared."),
    Broken("a materialised view", "CREATE MATERIALIZED VIEW tenancy.everyone AS SELECT * FROM tenancy.members",
           "Table or view tenancy.everyone is not declared."),
    Broken("a child by inheritance", "CREATE TABLE tenancy.more () INHERITS (tenancy.members)",
           "Table or view tenancy.more is not declared."),
    Broken("a missing table", "DROP TABLE tenancy.members",
           "Table tenancy.members is missing: run `causeloop migrate`."),
    Broken("row security off", "ALTER TABLE tenancy.members DISABLE ROW LEVEL SECURITY",
           "Table tenancy.members does not force row security."),
    Broken("row security not forced", "ALTER TABLE tenancy.members NO FORCE ROW LEVEL SECURITY",
           "Table tenancy.members does not force row security."),
    Broken("a partition without row security", "ALTER TABLE tenancy.outbox_1 DISABLE ROW LEVEL SECURITY",
           "Table tenancy.outbox_1 does not force row security."),
    Broken("one partition more", "CREATE TABLE tenancy.outbox_3 PARTITION OF tenancy.outbox FOR VALUES IN (3)",
           "Table or view tenancy.outbox_3 is not declared."),
]  # fmt: skip
POLICIES = [
    Broken("one permissive policy more", f"CREATE POLICY all_of_it ON tenancy.members FOR SELECT {OPEN}",
           "Table tenancy.members has a policy that is not declared: all_of_it for select to public"),
    Broken("one for everything", f"CREATE POLICY all_of_it ON tenancy.members TO causeloop_tenancy {OPEN}",
           "Table tenancy.members has a policy that is not declared: all_of_it for all to causeloop_tenancy"),
    Broken("a changed expression", f"ALTER POLICY tenant_select ON tenancy.members {OPEN}",
           "Table tenancy.members has a policy that is not declared: tenant_select for select to causeloop_tenancy "
           "using (true) check (None)."),
    Broken("a changed check", "ALTER POLICY tenant_insert ON tenancy.members WITH CHECK (true)",
           "Table tenancy.members has a policy that is not declared: tenant_insert for insert"),
    Broken("a policy for everybody", "ALTER POLICY tenant_select ON tenancy.members TO public",
           "Table tenancy.members has a policy that is not declared: tenant_select for select to public"),
    Broken("a policy of a partition", f"CREATE POLICY all_of_it ON tenancy.outbox_0 FOR SELECT {OPEN}",
           "Table tenancy.outbox_0 has a policy that is not declared: all_of_it"),
    Broken("a missing policy", "DROP POLICY tenant_select ON tenancy.members",
           "Table tenancy.members lacks its declared policy tenant_select for select to causeloop_tenancy."),
    Broken("a restrictive policy", f"CREATE POLICY less ON tenancy.members AS RESTRICTIVE {OPEN}",
           "Policy less on tenancy.members is restrictive, none is declared so."),
    Broken("the person's policy while a tenant is set",
           "ALTER POLICY member_self_select ON tenancy.members USING (person_id = tenancy.app_current_person())",
           "Table tenancy.members has a policy that is not declared: member_self_select"),
]  # fmt: skip
GRANTS = [
    Broken("one verb more", "GRANT UPDATE ON tenancy.members TO causeloop_tenancy",
           "Role 'causeloop_tenancy' has an undeclared right on tenancy.members: update."),
    Broken("truncate", "GRANT TRUNCATE ON tenancy.members TO causeloop_tenancy",
           "Role 'causeloop_tenancy' has an undeclared right on tenancy.members: truncate."),
    Broken("references", "GRANT REFERENCES ON tenancy.members TO causeloop_tenancy",
           "Role 'causeloop_tenancy' has an undeclared right on tenancy.members: references."),
    Broken("another column", "GRANT SELECT (data) ON tenancy.outbox TO causeloop_tenancy",
           "Role 'causeloop_tenancy' has an undeclared right on tenancy.outbox: select."),
    Broken("the whole table instead of columns", "GRANT SELECT ON tenancy.outbox TO causeloop_tenancy",
           "Role 'causeloop_tenancy' has an undeclared right on tenancy.outbox: select."),
    Broken("a partition", "GRANT SELECT ON tenancy.outbox_0 TO causeloop_tenancy",
           "Role 'causeloop_tenancy' has an undeclared right on tenancy.outbox_0: select."),
    Broken("another service", "GRANT SELECT ON tenancy.members TO causeloop_vault",
           "Role 'causeloop_vault' has an undeclared right on tenancy.members: select."),
    Broken("everybody", "GRANT SELECT ON tenancy.members TO PUBLIC",
           "Role 'public' has an undeclared right on tenancy.members: select."),
    Broken("a sequence without a grant", "REVOKE ALL ON SEQUENCE tenancy.outbox_seq FROM causeloop_tenancy",
           "Role 'causeloop_tenancy' lacks its right on tenancy.outbox_seq: usage."),
    Broken("a missing grant", "REVOKE INSERT ON tenancy.members FROM causeloop_tenancy",
           "Role 'causeloop_tenancy' lacks its right on tenancy.members: insert."),
]  # fmt: skip
FUNCTIONS = [
    Broken("another tenant function",
           "CREATE OR REPLACE FUNCTION tenancy.app_current_tenant() RETURNS uuid LANGUAGE sql STABLE "
           "RETURN '00000000-0000-0000-0000-000000000001'::uuid",
           "Function tenancy.app_current_tenant is not ours: RETURN"),
    Broken("another setting",
           "CREATE OR REPLACE FUNCTION tenancy.app_current_tenant() RETURNS uuid LANGUAGE sql STABLE "
           "RETURN (NULLIF(current_setting('app.current_person'::text, true), ''::text))::uuid",
           "Function tenancy.app_current_tenant is not ours: RETURN"),
    Broken("a guard that lets everything pass",
           "CREATE OR REPLACE FUNCTION tenancy.require_event() RETURNS trigger LANGUAGE plpgsql "
           "AS 'BEGIN RETURN NULL; END'",
           "Function tenancy.require_event is not ours: BEGIN RETURN NULL; END."),
    Broken("a function with its owner's rights", "ALTER FUNCTION tenancy.app_current_tenant() SECURITY DEFINER",
           "Function tenancy.app_current_tenant runs with its owner's rights."),
    Broken("a guard that looks elsewhere", "ALTER FUNCTION tenancy.require_event() SET search_path = tenancy",
           "Function tenancy.require_event does not have its declared settings."),
    Broken("a tenant function with settings", "ALTER FUNCTION tenancy.app_current_tenant() SET search_path = tenancy",
           "Function tenancy.app_current_tenant does not have its declared settings."),
    Broken("a function nobody declared", "CREATE FUNCTION tenancy.more() RETURNS int LANGUAGE sql RETURN 1",
           "Function tenancy.more is not declared."),
    Broken("one of the same name", "CREATE FUNCTION tenancy.app_current_tenant(int) RETURNS uuid LANGUAGE sql "
           "RETURN NULL::uuid", "Function tenancy.app_current_tenant is not"),
    Broken("a missing function", "DROP FUNCTION tenancy.require_event() CASCADE",
           "Function tenancy.require_event is missing."),
]  # fmt: skip
_GUARD = "CREATE CONSTRAINT TRIGGER require_event AFTER {} ON tenancy.members {} FOR EACH ROW {} EXECUTE FUNCTION {}()"
_DROP = "DROP TRIGGER require_event ON tenancy.members; "
_DEFERRED = "DEFERRABLE INITIALLY DEFERRED"
_ALWAYS = "INSERT OR UPDATE OR DELETE"
_UNGUARDED = "Table tenancy.members has no commit guard."
GUARDS = [
    Broken("no guard", _DROP, _UNGUARDED),
    Broken("a disabled guard", "ALTER TABLE tenancy.members DISABLE TRIGGER require_event", _UNGUARDED),
    Broken("a guard for replicas only", "ALTER TABLE tenancy.members ENABLE REPLICA TRIGGER require_event", _UNGUARDED),
    Broken("a guard that can be put off no more", _DROP + _GUARD.format(_ALWAYS, "", "", "tenancy.require_event"),
           _UNGUARDED),
    Broken("a guard of some verbs", _DROP + _GUARD.format("INSERT", _DEFERRED, "", "tenancy.require_event"),
           _UNGUARDED),
    Broken("a guard with a condition",
           _DROP + _GUARD.format(_ALWAYS, _DEFERRED, "WHEN (false)", "tenancy.require_event"), _UNGUARDED),
    Broken("another service's guard", _DROP + _GUARD.format(_ALWAYS, _DEFERRED, "", "vault.require_event"),
           _UNGUARDED),
    Broken("one trigger more",
           "CREATE TRIGGER more BEFORE INSERT ON tenancy.outbox FOR EACH ROW EXECUTE FUNCTION vault.require_event()",
           "Table tenancy.outbox has a trigger that is not declared: more."),
    Broken("a rule", "CREATE RULE hide AS ON DELETE TO tenancy.members DO INSTEAD NOTHING",
           "Table tenancy.members has a rule that is not declared: hide."),
]  # fmt: skip


async def prove(connection: asyncpg.Connection, schema: str, *broken: str, role: str = "") -> list[str]:
    """What the service would find if this were its database; nothing of it stays."""
    change = connection.transaction()
    await change.start()
    try:
        for sql in broken:
            await connection.execute(sql)
        await connection.execute(f"SET LOCAL ROLE {role or f'causeloop_{schema}'}")
        return await rls.prove(connection, schema, tables(schema))
    finally:
        await change.rollback()


class TestProve:
    @pytest.mark.parametrize("schema", ["auth", "tenancy", "vault", "audit"])
    async def test_finds_nothing_in_a_database_as_declared(self, superuser: asyncpg.Connection, schema: str) -> None:
        assert await prove(superuser, schema) == []

    @pytest.mark.parametrize(
        "broken", [*ROLES, *TABLES, *POLICIES, *GRANTS, *FUNCTIONS, *GUARDS], ids=lambda broken: broken.what
    )
    async def test_finds_and_names(self, superuser: asyncpg.Connection, broken: Broken) -> None:
        findings = await prove(superuser, "tenancy", broken.sql)

        assert [shown for shown in findings if shown.startswith(broken.says)], findings

    async def test_finds_a_writer_of_the_log_that_may_change_it(self, superuser: asyncpg.Connection) -> None:
        findings = await prove(superuser, "audit", "GRANT UPDATE ON audit.entries TO causeloop_audit_writer")

        assert findings == ["Role 'causeloop_audit_writer' has an undeclared right on audit.entries: update."]

    async def test_finds_that_it_is_logged_in_as_somebody_else(self, superuser: asyncpg.Connection) -> None:
        findings = await prove(superuser, "tenancy", role="causeloop_tenancy_relay")

        assert "The service is logged in as 'causeloop_tenancy_relay', not as 'causeloop_tenancy'." in findings

    async def test_finds_a_superuser_who_would_see_everything(self, superuser: asyncpg.Connection) -> None:
        findings = await prove(superuser, "tenancy", role="postgres")

        assert "Role 'postgres' is a superuser." in findings
        assert "Role 'postgres' can bypass row security." in findings

    async def test_finds_rows_that_show_themselves_without_a_tenant(self, superuser: asyncpg.Connection) -> None:
        tenant = ids.uuid7()

        findings = await prove(
            superuser,
            "tenancy",
            f"SET LOCAL app.current_workspace = '{tenant}'",  # as ALTER ROLE … SET would leave it in every session
            "SET LOCAL session_replication_role = 'replica'",
            f"INSERT INTO tenancy.workspaces (name, slug, timezone, created_by) VALUES ('a', 'a', 'UTC', '{tenant}')",
            "SET LOCAL session_replication_role = 'origin'",
        )

        assert findings == ["Table tenancy.workspaces gives rows without a tenant."]

    async def test_finds_rows_that_a_table_gives_without_a_tenant(self, superuser: asyncpg.Connection) -> None:
        tenant = ids.uuid7()

        findings = await prove(
            superuser,
            "tenancy",
            "SET LOCAL session_replication_role = 'replica'",
            f"SET LOCAL app.current_workspace = '{tenant}'",  # as ALTER ROLE … SET would leave it in every session
            f"INSERT INTO tenancy.workspaces (name, slug, timezone, created_by) VALUES ('a', 'a', 'UTC', '{tenant}')",
            "SET LOCAL session_replication_role = 'origin'",
            "SET LOCAL session_replication_role = 'origin'",
        )

        assert findings == ["Table tenancy.workspaces gives rows without a tenant."]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("session_replication_role", "replica"), ("row_security", "off"), ("app.current_workspace", "'x'")],
    )
    @pytest.mark.parametrize("whose", ["ROLE causeloop_tenancy", "ROLE ALL"])
    async def test_finds_settings_that_the_database_makes_for_a_role(
        self, superuser: asyncpg.Connection, setting: str, value: str, whose: str
    ) -> None:
        findings = await prove(superuser, "tenancy", f"ALTER {whose} SET {setting} = {value}")

        role = "every role" if whose == "ROLE ALL" else "causeloop_tenancy"
        assert f"The setting '{setting}' of {role} is made in the database: reset it." in findings

    async def test_tells_everything_that_is_wrong_at_once(self, superuser: asyncpg.Connection) -> None:
        chosen = [TABLES[0], GRANTS[0], GUARDS[0]]

        findings = await prove(superuser, "tenancy", *(broken.sql for broken in chosen))

        assert {broken.says for broken in chosen} <= set(findings)


class TestDeclarations:
    def test_what_is_not_audited_needs_a_reason(self) -> None:
        with pytest.raises(ValueError, match="A table that is not audited needs a reason"):
            Protection(audited=False)
        with pytest.raises(ValueError, match="A table that is not audited needs a reason"):
            rls.protected(audited=False)

    def test_only_bookkeeping_and_the_log_may_change_without_an_event(self) -> None:
        unaudited = {table for schema in ("auth", "tenancy", "vault", "audit") for table, _ in _unaudited(schema)}

        carried = ("outbox", "outbox_set_aside", "idempotency", "relay_state", "leases", "schedules")
        bookkeeping = {f"{schema}.{table}" for schema in ("auth", "tenancy", "vault", "audit") for table in carried}
        bookkeeping |= {f"{schema}.jobs" for schema in ("auth", "tenancy", "vault", "audit")}
        log = {f"audit.{table}" for table in ("checkpoints", "entries", "heads", "held", "intake", "nodes", "refused")}
        assert unaudited == bookkeeping | log | {"vault.checkpoints", "vault.inbox"}

    def test_every_exception_has_its_reason(self) -> None:
        assert all(reason for schema in ("auth", "tenancy", "vault", "audit") for _, reason in _unaudited(schema))

    def test_a_policys_ddl_has_the_clauses_it_declares(self) -> None:
        assert Policy("p", "update", "r", using="a", check="b").ddl("s.t") == (
            "CREATE POLICY p ON s.t FOR UPDATE TO r USING (a) WITH CHECK (b)"
        )
        assert (
            Policy("p", "insert", "r", check="b").ddl("s.t") == "CREATE POLICY p ON s.t FOR INSERT TO r WITH CHECK (b)"
        )

    def test_a_schemas_roles_are_its_own_and_those_its_policies_name(self) -> None:
        assert rls.roles(tables("vault")) == ("causeloop_vault", "causeloop_vault_jobs", "causeloop_vault_relay")
        assert rls.roles(tables("audit")) == (
            "causeloop_audit", "causeloop_audit_jobs", "causeloop_audit_relay", "causeloop_audit_writer",
        )  # fmt: skip

    def test_a_refusal_to_start_names_the_service_and_every_finding(self) -> None:
        error = rls.IsolationError("vault", ["One.", "Two."])

        assert str(error) == "vault refuses to run: tenant isolation is not as declared. One. Two."


def _unaudited(schema: str) -> list[tuple[str, str]]:
    return rls.unaudited(tables(schema))
