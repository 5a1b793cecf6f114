"""How the database becomes what the services expect: by an ordinary role, again and again."""

import base64
import re
from typing import Any

import asyncpg
import pytest

from causeloop_cli import services
from causeloop_common import migrations, rls
from causeloop_common.contracts import topology
from causeloop_common.settings import role_password


class TestScramVerifier:
    def test_is_that_of_rfc_7677(self) -> None:
        salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")

        assert migrations.scram_verifier("pencil", salt) == (
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
            "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        )

    def test_has_a_salt_of_its_own_each_time(self) -> None:
        assert migrations.scram_verifier("pencil") != migrations.scram_verifier("pencil")


@pytest.mark.parametrize("schema", services.schemas().values(), ids=services.schemas())
def test_migrations_of_a_service_follow_each_other_and_no_number_is_there_twice(schema: migrations.Schema) -> None:
    for number, file in enumerate(sorted((schema.folder / "versions").glob("*.py")), 1):
        before = f'"{number - 1:04}"' if number > 1 else None
        names = re.findall("^(?:down_)?revision = .*$", file.read_text(), re.MULTILINE)
        assert [file.name[:5], *names] == [f"{number:04}_", f'revision = "{number:04}"', f"down_revision = {before}"], (
            f"{file} comes as number {number} of {schema.name}, and its name, revision or down_revision has another "
            "number. Two branches took the same one: give the newer migration the next free number, in all three."
        )


class TestMigrate:
    async def test_again_changes_nothing_and_lets_the_services_in(
        self, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        shape = """
            SELECT c.relname, c.relkind::text, c.relacl::text, c.relrowsecurity, pg_get_userbyid(c.relowner)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = ANY($1) ORDER BY n.nspname, c.relname
        """
        before = await superuser.fetch(shape, list(topology.OWNERS))

        await migrations.migrate(scratch.url, scratch.secret, services.schemas().values())

        assert await superuser.fetch(shape, list(topology.OWNERS)) == before
        for service in topology.OWNERS:
            for role in rls.roles(services.tables(service)):
                connection = await asyncpg.connect(scratch.dsn(role))
                assert await connection.fetchval("SELECT current_user") == role
                await connection.close()

    async def test_needs_no_superuser(self, scratch: Any) -> None:
        connection = await asyncpg.connect(scratch.url)
        powers = await connection.fetchrow("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
        await connection.close()

        assert powers is not None
        assert tuple(powers) == (False, False)

    async def test_a_password_of_another_installation_lets_nobody_in(self, scratch: Any) -> None:
        wrong = scratch.dsn("causeloop_auth").replace(
            role_password(scratch.secret, "causeloop_auth"), role_password(b"another secret", "causeloop_auth")
        )

        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(wrong)

    async def test_nobody_else_may_connect_or_use_the_public_schema(
        self, scratch: Any, superuser: asyncpg.Connection
    ) -> None:
        rights = await superuser.fetchrow(
            "SELECT has_database_privilege('public', current_database(), 'CONNECT') AS connects, "
            "has_schema_privilege('public', 'public', 'USAGE') AS uses"
        )

        assert rights is not None
        assert tuple(rights) == (False, False)
