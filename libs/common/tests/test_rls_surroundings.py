"""The proof's look around the tables: owners, members, rights, settings, ways out; and at a later version's tables."""

from importlib import import_module
from typing import Any

import asyncpg
import pytest
from sqlalchemy import MetaData

from causeloop_cli import services
from causeloop_common import migrations, rls
from causeloop_common.database import Database
from causeloop_common.errors import Unavailable
from causeloop_common.rls import protect
from causeloop_common.settings import SettingsError

OUTSIDER = "CREATE ROLE outsider LOGIN BYPASSRLS"


def tables(schema: str) -> MetaData:
    metadata: MetaData = import_module(f"causeloop_{schema}.models").metadata
    return metadata


async def prove(connection: asyncpg.Connection, *broken: str) -> list[str]:
    """The findings of tenancy if this were its database; nothing of it stays."""
    change = connection.transaction()
    await change.start()
    try:
        for sql in broken:
            await connection.execute(sql)
        await connection.execute("SET LOCAL ROLE causeloop_tenancy")
        return await rls.prove(connection, "tenancy", tables("tenancy"))
    finally:
        await change.rollback()


class TestOwners:
    @pytest.mark.parametrize(
        ("sql", "finding"),
        [
            ("ALTER TABLE tenancy.members OWNER TO outsider", "The owner of tenancy.members is 'outsider'"),
            ("ALTER TABLE tenancy.outbox_0 OWNER TO outsider", "The owner of tenancy.outbox_0 is 'outsider'"),
            ("ALTER SCHEMA tenancy OWNER TO outsider", "The owner of schema tenancy is 'outsider'"),
            (
                "ALTER FUNCTION tenancy.require_event() OWNER TO outsider",
                "The owner of function tenancy.require_event is 'outsider'",
            ),
            ("ALTER TABLE tenancy.members OWNER TO causeloop_vault_owner", "The owner of tenancy.members is 'cause"),
        ],
    )
    async def test_another_one_is_found(self, superuser: asyncpg.Connection, sql: str, finding: str) -> None:
        """D5: as after a restore with --no-owner."""
        findings = await prove(superuser, OUTSIDER, sql)

        assert [one for one in findings if one.startswith(finding)], findings

    async def test_a_role_that_owns_something_elsewhere_is_found(self, superuser: asyncpg.Connection) -> None:
        """D5: neither the owner nor a login role owns anything outside of the schema."""
        for role, made in (("causeloop_tenancy_owner", "public.more"), ("causeloop_tenancy_relay", "public.other")):
            findings = await prove(superuser, f"CREATE TABLE {made} ()", f"ALTER TABLE {made} OWNER TO {role}")

            assert f"Role '{role}' owns {made} (table)." in findings

    async def test_a_large_object_is_found(self, superuser: asyncpg.Connection) -> None:
        """D14: large objects know no row security."""
        findings = await prove(superuser, "SET LOCAL ROLE causeloop_tenancy", "SELECT lo_create(0)")

        assert [one for one in findings if one.startswith("Role 'causeloop_tenancy' owns ") and "large object" in one]


class TestMembers:
    @pytest.mark.parametrize("role", ["causeloop_tenancy_owner", "causeloop_tenancy", "causeloop_tenancy_relay"])
    @pytest.mark.parametrize("how", ["", " WITH INHERIT FALSE, SET TRUE", " WITH INHERIT TRUE, SET FALSE"])
    async def test_an_outsider_is_found(self, superuser: asyncpg.Connection, role: str, how: str) -> None:
        """D5: memberships are compared in both directions."""
        findings = await prove(superuser, OUTSIDER, f"GRANT {role} TO outsider{how}")

        assert f"Role 'outsider' is a member of '{role}': revoke that." in findings

    async def test_the_migrator_may_become_the_owner_and_no_login_role(self, superuser: asyncpg.Connection) -> None:
        findings = await prove(superuser, "GRANT causeloop_tenancy TO causeloop_migrator WITH SET TRUE")

        assert "Role 'causeloop_migrator' is a member of 'causeloop_tenancy': revoke that." in findings


class TestRights:
    @pytest.mark.parametrize(
        ("sql", "finding"),
        [
            (
                "GRANT CREATE ON DATABASE scratch TO PUBLIC",
                "Role 'public' HAS the database: create.",
            ),
            (
                "GRANT CONNECT ON DATABASE scratch TO PUBLIC",
                "Role 'public' HAS the database: conn",
            ),
            (
                "GRANT CREATE ON DATABASE scratch TO outsider",
                "Role 'outsider' HAS the database: c",
            ),
            (
                "GRANT TEMPORARY ON DATABASE scratch TO causeloop_tenancy",
                "Role 'causeloop_tenancy' HAS the database: temporary.",
            ),
            (
                "GRANT USAGE ON SCHEMA tenancy TO outsider",
                "Role 'outsider' HAS the schema tenancy",
            ),
            (
                "GRANT CREATE ON SCHEMA tenancy TO outsider",
                "Role 'outsider' HAS the schema tenancy",
            ),
            (
                "GRANT USAGE ON SCHEMA tenancy TO PUBLIC",
                "Role 'public' HAS the schema tenancy: us",
            ),
            (
                "GRANT SELECT ON tenancy.members TO outsider",
                "Role 'outsider' HAS tenancy.members",
            ),
            (
                "GRANT SELECT ON tenancy.members TO causeloop_tenancy WITH GRANT OPTION",
                "Role 'causeloop_tenancy' HAS tenancy.members: select, which it can pass on.",
            ),
            (
                "GRANT USAGE ON SCHEMA tenancy TO causeloop_tenancy WITH GRANT OPTION",
                "Role 'causeloop_tenancy' HAS the schema tenancy: usage, which it can pass on.",
            ),
            (
                "GRANT CONNECT ON DATABASE scratch TO causeloop_tenancy WITH GRANT OPTION",
                "Role 'causeloop_tenancy' HAS the database: connect, which it can pass on.",
            ),
            (
                "GRANT SET ON PARAMETER session_replication_role TO causeloop_tenancy",
                "Role 'causeloop_tenancy' HAS the parameter session_replication_role: set.",
            ),
            (
                "GRANT SET ON PARAMETER session_replication_role TO PUBLIC",
                "Role 'public' HAS the parameter session_replication_role: set.",
            ),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE causeloop_tenancy_owner GRANT SELECT ON TABLES TO outsider",
                "Default privileges give rights on new objects of tenancy: revoke them.",
            ),
        ],
    )
    async def test_more_than_declared_are_found(self, superuser: asyncpg.Connection, sql: str, finding: str) -> None:
        """D5: rights on database, schema and parameters, and grant options."""
        findings = await prove(superuser, OUTSIDER, sql)

        sentence = finding.replace("HAS", "has an undeclared right on")
        assert [one for one in findings if one.startswith(sentence)], findings


class TestSettings:
    @pytest.mark.parametrize(
        "sql",
        [
            "ALTER ROLE causeloop_tenancy SET default_transaction_read_only = on",
            "ALTER ROLE causeloop_tenancy IN DATABASE scratch SET default_transaction_read_only = on",
            "ALTER ROLE causeloop_tenancy SET statement_timeout = '1ms'",
            "ALTER ROLE causeloop_tenancy RESET statement_timeout",
            "ALTER ROLE causeloop_tenancy_relay RESET ALL",
            "ALTER DATABASE scratch SET default_transaction_read_only = on",
            "ALTER DATABASE scratch SET default_transaction_isolation = 'serializable'",
            "ALTER ROLE ALL SET synchronous_commit = off",
            "ALTER ROLE causeloop_tenancy CONNECTION LIMIT -1",
            "ALTER ROLE causeloop_tenancy_relay CONNECTION LIMIT 0",
        ],
    )
    async def test_that_are_not_declared_are_found(self, superuser: asyncpg.Connection, sql: str) -> None:
        """D14: a role's settings and its limit of connections are compared."""
        assert await prove(superuser, sql) != []

    async def test_migrate_puts_right_what_a_role_can_do_to_itself(
        self, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        """D14: a role changes its own password and settings; migrate brings both back."""
        role = "causeloop_tenancy_jobs"
        own = await asyncpg.connect(scratch.dsn(role))
        try:
            await own.execute(f"ALTER ROLE {role} PASSWORD 'other'")
            await own.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
            await own.execute(f"ALTER ROLE {role} IN DATABASE scratch SET work_mem = '1GB'")
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(scratch.dsn(role))
            assert len(await prove(superuser)) == 2
        finally:
            await own.close()
            await migrations.migrate(scratch.url, scratch.secret, services.schemas().values())

        assert await prove(superuser) == []
        await (await asyncpg.connect(scratch.dsn(role))).close()


class TestLockedOut:
    @pytest.mark.parametrize("role", ["causeloop_tenancy", "causeloop_tenancy_relay", "causeloop_tenancy_jobs"])
    @pytest.mark.parametrize(
        ("sql", "what"),
        [
            ("ALTER ROLE {} NOLOGIN", "cannot log in"),
            ("ALTER ROLE {} VALID UNTIL '2020-01-01'", "has a password whose time is over (VALID UNTIL)"),
            ("ALTER ROLE {} CONNECTION LIMIT 1", "may open 1 connections"),
            ("REVOKE CONNECT ON DATABASE scratch FROM {}", "may not connect to the database"),
            ("REVOKE USAGE ON SCHEMA tenancy FROM {}", "may not use its schema"),
        ],
    )
    async def test_a_role_is_found(self, superuser: asyncpg.Connection, role: str, sql: str, what: str) -> None:
        """D14: the connections that it has go on, and nothing was red until the next one was needed."""
        assert f"Role '{role}' {what}: run `causeloop migrate`." in await prove(superuser, sql.format(role))

    async def test_the_whole_database_is_found(self, superuser: asyncpg.Connection) -> None:
        """D14: a database that takes no connection more."""
        findings = await prove(superuser, "ALTER DATABASE scratch CONNECTION LIMIT 0")

        assert findings == ["The database takes no new connections (ALLOW_CONNECTIONS, CONNECTION LIMIT)."]

    async def test_a_password_that_is_none_any_more_is_found(self, scratch: Any, superuser: asyncpg.Connection) -> None:
        """D14: no catalog shows a password, so the proof is made on a new connection."""
        database = Database(scratch.dsn("causeloop_tenancy"), "tenancy", tables("tenancy"), workers=1)
        await database.start()
        try:
            await superuser.execute("ALTER ROLE causeloop_tenancy PASSWORD 'other'")
            with pytest.raises(Unavailable, match=r"^PostgreSQL does not let tenancy in\. The server refuses the pass"):
                await database.prove()
        finally:
            await migrations.migrate(scratch.url, scratch.secret, services.schemas().values())
            assert await database.prove() == []
            await database.stop()

    async def test_migrate_lets_it_in_again(self, scratch: Any, superuser: asyncpg.Connection) -> None:
        """D14: all that migrate made of a role is made again."""
        role = "causeloop_tenancy_relay"
        await superuser.execute(f"ALTER ROLE {role} NOLOGIN VALID UNTIL '2020-01-01' CONNECTION LIMIT 0")
        await superuser.execute(f"REVOKE CONNECT ON DATABASE scratch FROM {role}")
        await superuser.execute(f"REVOKE USAGE ON SCHEMA tenancy FROM {role}")
        await migrations.migrate(scratch.url, scratch.secret, services.schemas().values())

        assert await prove(superuser) == []
        await (await asyncpg.connect(scratch.dsn(role))).close()

    async def test_where_all_are_locked_nobody_is_sent_for_another_secret(
        self, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        """D14: with every password at its end, migrate found JWT_SECRET to be wrong, which it was not."""
        every = [role for schema in services.schemas().values() for role in rls.roles(schema.tables)]
        try:
            for role in every:
                await superuser.execute(f"ALTER ROLE {role} VALID UNTIL '2020-01-01'")
            with pytest.raises(SettingsError, match=r"^All roles are locked.* LOGIN VALID UNTIL 'inf"):
                await migrations.migrate(scratch.url, scratch.secret, services.schemas().values())
        finally:
            await superuser.execute(f"ALTER ROLE {every[0]} VALID UNTIL 'infinity'")
            await migrations.migrate(scratch.url, scratch.secret, services.schemas().values())


NEXT = [
    "CREATE TABLE tenancy.later (workspace_id uuid NOT NULL DEFAULT tenancy.app_current_tenant(), name text)",
    *protect("tenancy", "later", "select", "insert"),
    "ALTER TABLE tenancy.members ADD COLUMN later text",
    "GRANT UPDATE (later) ON tenancy.members TO causeloop_tenancy",
    "CREATE FUNCTION tenancy.later() RETURNS int LANGUAGE sql SET search_path = pg_catalog AS 'SELECT 1'",
    "CREATE INDEX members_later ON tenancy.members (later)",
    rls.note("tenancy"),
]
AS_OWNER = "SET LOCAL ROLE causeloop_tenancy_owner"


class TestLaterVersion:
    async def test_what_it_added_is_no_harm_if_it_is_protected(self, superuser: asyncpg.Connection) -> None:
        """D17: expand first; this version goes on beside, and starts anew."""
        assert await prove(superuser, AS_OWNER, *NEXT) == []

    @pytest.mark.parametrize(
        "sql",
        [
            "ALTER TABLE tenancy.later NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE tenancy.later DISABLE ROW LEVEL SECURITY",
            "CREATE POLICY more ON tenancy.later FOR SELECT TO PUBLIC USING (true)",
            "CREATE POLICY more ON tenancy.later FOR SELECT TO causeloop_tenancy USING (true)",
            "CREATE POLICY more ON tenancy.later FOR SELECT TO causeloop_vault USING (true)",
            "GRANT SELECT ON tenancy.later TO PUBLIC",
            "GRANT SELECT (name) ON tenancy.later TO causeloop_vault",
            "GRANT TRUNCATE ON tenancy.later TO causeloop_tenancy",
            "GRANT REFERENCES ON tenancy.later TO causeloop_tenancy_relay",
            "GRANT SELECT ON tenancy.later TO causeloop_tenancy WITH GRANT OPTION",
            "CREATE VIEW tenancy.shown AS SELECT * FROM tenancy.later",
            "ALTER FUNCTION tenancy.later() SECURITY DEFINER",
            "ALTER FUNCTION tenancy.later() RESET search_path",
            "GRANT UPDATE (role) ON tenancy.members TO causeloop_tenancy",
            "GRANT UPDATE ON tenancy.members TO causeloop_tenancy",
        ],
    )
    async def test_what_it_left_open_is_found(self, superuser: asyncpg.Connection, sql: str) -> None:
        """D17: unknown and unprotected is not unknown but protected."""
        assert await prove(superuser, AS_OWNER, *NEXT, sql) != []

    async def test_a_running_service_stays_ready_while_it_is_migrated(
        self, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        """D17: the tables of the next version are there while this one runs, and when they go again."""
        database = Database(scratch.dsn("causeloop_tenancy"), "tenancy", tables("tenancy"), workers=1)
        await database.start()
        try:
            async with superuser.transaction():
                for sql in (AS_OWNER, *NEXT):
                    await superuser.execute(sql)
            assert await database.prove() == []
        finally:
            await superuser.execute("DROP TABLE tenancy.later; DROP FUNCTION tenancy.later()")
            await superuser.execute("ALTER TABLE tenancy.members DROP COLUMN later")
            await superuser.execute(rls.note("tenancy"))
            assert await database.prove() == []
            await database.stop()
