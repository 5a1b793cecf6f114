"""The form of tables as `migrate` left them: change one thing by hand, and see it found and named."""

from importlib import import_module
from typing import Any

import asyncpg
import pytest
from sqlalchemy import MetaData

from causeloop_cli import services
from causeloop_common import migrations, rls
from causeloop_common.settings import SettingsError

OLDER = "COMMENT ON TABLE tenancy.members IS 'As `causeloop migrate` made it (form 1, PostgreSQL 15):'"


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


async def migrate(scratch: Any) -> None:
    await migrations.migrate(scratch.url, scratch.secret, services.schemas().values())


class TestForms:
    @pytest.mark.parametrize(
        ("sql", "finding"),
        [
            (
                "ALTER TABLE tenancy.outbox DROP CONSTRAINT can_be_announced",
                "outbox lacks: constraint can_be_announced",
            ),
            ("ALTER TABLE tenancy.members ADD CHECK (false) NOT VALID", "members was given: constraint members_check"),
            ("ALTER TABLE tenancy.members DROP CONSTRAINT members_pkey", "members lacks: constraint members_pkey PRIM"),
            (
                "ALTER TABLE tenancy.members DROP CONSTRAINT members_workspace_id_fkey",
                "members lacks: constraint members_workspace_id_fkey FOREIGN KEY",
            ),
            ("ALTER TABLE tenancy.members RENAME COLUMN role TO part", "members lacks: column role text NOT NULL."),
            ("ALTER TABLE tenancy.members RENAME COLUMN role TO part", "members was given: column part text NOT NULL."),
            (
                "ALTER TABLE tenancy.members DROP COLUMN joined_at",
                "members lacks: column joined_at timestamp with time",
            ),
            (
                "ALTER TABLE tenancy.members ALTER COLUMN role TYPE varchar(2)",
                "members was given: column role character",
            ),
            (
                "ALTER TABLE tenancy.members ADD COLUMN more text NOT NULL",
                "members was given: column more text NOT NULL",
            ),
            ("ALTER TABLE tenancy.members ALTER COLUMN role DROP NOT NULL", "members was given: column role text."),
            (
                "ALTER TABLE tenancy.members ALTER COLUMN workspace_id DROP DEFAULT",
                "members was given: column workspace",
            ),
            ("CREATE UNIQUE INDEX one ON tenancy.members (role)", "members was given: index CREATE UNIQUE INDEX one"),
            ("ALTER TABLE tenancy.outbox DETACH PARTITION tenancy.outbox_1", "outbox_1 lacks: partition FOR VALUES IN"),
            ("ALTER TABLE tenancy.members SET UNLOGGED", "members was given: not logged."),
            ("ALTER TABLE tenancy.members DISABLE TRIGGER ALL", "members was given: some constraints are not enforced"),
            (
                "ALTER SEQUENCE tenancy.outbox_seq MAXVALUE 9999999",
                "outbox_seq was given: numbers from 1 to 9999999 by",
            ),
            (
                "ALTER SEQUENCE tenancy.outbox_seq CYCLE",
                "outbox_seq was given: numbers from 1 to 9223372036854775807 by",
            ),
            (
                "ALTER TABLE tenancy.outbox_set_aside ALTER COLUMN number DROP IDENTITY",
                "outbox_set_aside lacks: column n",
            ),
        ],
    )
    async def test_what_was_changed_by_hand_is_found(
        self, superuser: asyncpg.Connection, sql: str, finding: str
    ) -> None:
        """D5: a constraint that is dropped or added, or a renamed column, lets statements fail while all is green."""
        findings = await prove(superuser, sql)

        assert [one for one in findings if one.startswith(f"tenancy.{finding}")], findings

    async def test_an_index_for_speed_is_the_operators_choice(self, superuser: asyncpg.Connection) -> None:
        assert await prove(superuser, "CREATE INDEX ON tenancy.members (joined_at)") == []

    @pytest.mark.parametrize("comment", ["NULL", "'the members'"])
    async def test_a_form_that_nobody_kept_is_found(self, superuser: asyncpg.Connection, comment: str) -> None:
        findings = await prove(superuser, f"COMMENT ON TABLE tenancy.members IS {comment}")

        assert findings == ["The form of tenancy.members is not known: run `causeloop migrate`."]

    @pytest.mark.parametrize(
        "setting",
        ["TimeZone = 'Asia/Kolkata'", "DateStyle = 'German'", "search_path = tenancy", "quote_all_identifiers = on"],
    )
    async def test_settings_of_a_session_are_no_change(self, superuser: asyncpg.Connection, setting: str) -> None:
        change = superuser.transaction()
        await change.start()
        try:
            await superuser.execute(f"SET LOCAL {setting}")
            assert await rls.changed(superuser, "tenancy") == []
        finally:
            await change.rollback()

    async def test_the_form_of_another_major_version_is_not_compared(self, superuser: asyncpg.Connection) -> None:
        assert await prove(superuser, OLDER, "ALTER TABLE tenancy.members ALTER COLUMN role DROP NOT NULL") == []


class TestMigrate:
    async def test_does_not_take_for_right_what_was_changed(self, scratch: Any, superuser: asyncpg.Connection) -> None:
        """D5: the next migration would keep the changed form as its own."""
        await superuser.execute("ALTER TABLE tenancy.members ALTER COLUMN role DROP NOT NULL")
        try:
            with pytest.raises(
                SettingsError, match=r"^Since the last `causeloop migrate`, tenancy\.members lacks: column"
            ):
                await migrate(scratch)
        finally:
            await superuser.execute("ALTER TABLE tenancy.members ALTER COLUMN role SET NOT NULL")
        await migrate(scratch)
        assert await prove(superuser) == []

    async def test_takes_what_is_meant(self, scratch: Any, superuser: asyncpg.Connection) -> None:
        await superuser.execute("ALTER TABLE tenancy.members ALTER COLUMN role SET DEFAULT 'owner'")
        await superuser.execute("COMMENT ON TABLE tenancy.members IS NULL")
        try:
            await migrate(scratch)
            assert await prove(superuser) == []
        finally:
            await superuser.execute("ALTER TABLE tenancy.members ALTER COLUMN role DROP DEFAULT")
            await superuser.execute("COMMENT ON TABLE tenancy.members IS NULL")
            await migrate(scratch)
