"""`causeloop migrate` in bad surroundings: one sentence, exit code 1, in bounded time; and success that is true."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from causeloop_cli import services
from causeloop_cli.embedded import Janitor
from causeloop_common import ids, migrations, rls
from causeloop_common.contracts import topology
from causeloop_common.database_url import DatabaseUrl
from causeloop_common.migrations.roles import schema_ddl
from causeloop_common.settings import DEVELOPMENT_SECRET, SettingsError, role_url
from causeloop_dev.postgres import EmbeddedPostgres
from causeloop_dev.testing import Servers
from tests.support.commands import causeloop
from tests.support.ports import free_port


class Place:
    """An empty database of the test's own, owned by a migrator of its own."""

    def __init__(self, servers: Servers, superuser: asyncpg.Connection, name: str) -> None:
        self.superuser = superuser
        self.secret = servers.jwt_secret
        self.migrator = f"causeloop_migrator_{name}"
        url = DatabaseUrl.read(servers.database_url).on(f"place_{name}")
        self.owned = url
        self.url = url.with_role(self.migrator, "pw").text()

    async def refusal(self, url: str | None = None, **environ: str) -> str:
        done = await causeloop("migrate", DATABASE_URL=url or self.url, JWT_SECRET=self.secret, **environ)
        return done.refusal()


@pytest.fixture
async def place(servers: Servers) -> AsyncIterator[Place]:
    root = await asyncpg.connect(servers.superuser_url)
    made = Place(servers, root, ids.uuid7().hex[-12:])
    await root.execute(f"CREATE ROLE {made.migrator} LOGIN CREATEROLE PASSWORD 'pw'")
    await root.execute(f"CREATE DATABASE {made.owned.database} OWNER {made.migrator}")
    inside = await asyncpg.connect(DatabaseUrl.read(servers.superuser_url).on(made.owned.database).text())
    made.superuser = inside
    yield made
    await inside.close()
    await root.execute(f"DROP DATABASE {made.owned.database} WITH (FORCE)")
    await root.execute(f"DROP OWNED BY {made.migrator}; DROP ROLE {made.migrator}")
    await root.close()


@pytest.fixture
def usual(servers: Servers, place: Place) -> Place:
    """The place, with the migrator that made the roles of this server."""
    migrator = DatabaseUrl.read(servers.database_url)
    place.url = place.owned.with_role(migrator.user or "", migrator.password or "").text()
    return place


@pytest.fixture
async def owned(usual: Place) -> Place:
    await usual.superuser.execute(f"ALTER DATABASE {usual.owned.database} OWNER TO causeloop_migrator")
    return usual


class TestRefusals:
    async def test_of_connections(self, place: Place) -> None:
        """D9: wrong password, no such database, nobody there, a name that is none."""
        url = DatabaseUrl.read(place.url)
        assert "The server refuses the password." in await place.refusal(url.with_role(place.migrator, "no").text())
        assert "no database of this name" in await place.refusal(url.on("nowhere").text())
        assert "Nothing listens" in await place.refusal(f"postgresql://u:p@127.0.0.1:{free_port()}/x")
        assert "cannot be resolved" in await place.refusal("postgresql://u:p@nowhere.invalid/x?connect_timeout=20")
        assert "no server's socket" in await place.refusal("postgresql://u:p@/x?host=/not/there")

    async def test_of_a_role_without_the_right_to_make_roles(self, place: Place) -> None:
        """D9: no CREATEROLE."""
        await place.superuser.execute(f"ALTER ROLE {place.migrator} NOCREATEROLE")

        assert f"ALTER ROLE {place.migrator} CREATEROLE" in await place.refusal()

    async def test_of_another_ones_database(self, place: Place) -> None:
        """D9: the migrator does not own the database."""
        await place.superuser.execute(f"ALTER DATABASE {place.owned.database} OWNER TO postgres")

        refused = await place.refusal()
        assert f"does not own the database {place.owned.database}, which belongs to postgres" in refused
        assert "ALTER DATABASE" not in refused

    async def test_of_a_services_role(self, servers: Servers) -> None:
        """D9: the address of a service gives nobody's database to its role."""
        environ = {"DATABASE_URL": servers.environ["auth"]["DATABASE_URL_AUTH"], "JWT_SECRET": servers.jwt_secret}
        refused = (await causeloop("migrate", **environ)).refusal()
        assert "the address of causeloop_auth, a service's role: use the migrator's" in refused
        assert "ALTER" not in refused

    async def test_of_another_migrators_roles(self, place: Place) -> None:
        """D8: a second installation with another migrator."""
        assert "belong to another installation, in the database causeloop" in await place.refusal()

    async def test_of_a_second_installation(self, owned: Place) -> None:
        """D8: a second installation in the same server would replace the passwords of the first one."""
        owned.secret = "another installation's root secret, long enough"

        assert "whose passwords would be replaced" in await owned.refusal()

    async def test_of_a_schema_that_is_there(self, owned: Place) -> None:
        """D9: another product's schema auth."""
        await owned.superuser.execute("CREATE SCHEMA auth")

        assert "The schema auth is there and belongs to postgres" in await owned.refusal()

    async def test_of_an_open_public_schema_of_another_owner(self, owned: Place) -> None:
        """D9: success that services would refuse."""
        await owned.superuser.execute("ALTER SCHEMA public OWNER TO postgres; GRANT USAGE ON SCHEMA public TO PUBLIC")

        assert "REVOKE ALL ON SCHEMA public FROM PUBLIC" in await owned.refusal()

    async def test_of_a_database_that_accepts_no_writes(self, owned: Place) -> None:
        """D9: a standby, or a read-only mode."""
        await owned.superuser.execute(f"ALTER DATABASE {owned.owned.database} SET default_transaction_read_only = on")

        assert "accepts no writes" in await owned.refusal()

    async def test_of_a_later_versions_revision(self, owned: Place) -> None:
        """D9: older code does not migrate what a later version migrated."""
        await owned.superuser.execute(
            "CREATE SCHEMA migrations AUTHORIZATION causeloop_migrator; "
            "CREATE TABLE migrations.vault (version_num text); INSERT INTO migrations.vault VALUES ('9999'); "
            "GRANT SELECT ON migrations.vault TO causeloop_migrator"
        )

        assert "at revision 9999, which this version does not have" in await owned.refusal()

    @pytest.mark.slow
    async def test_of_a_lock_that_somebody_holds(self, owned: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """D9: another run's lock is waited for, and not for ever."""
        monkeypatch.setattr(migrations, "TURN_SECONDS", 1)
        await owned.superuser.execute(
            "CREATE SCHEMA migrations AUTHORIZATION causeloop_migrator; "
            f"CREATE TABLE {migrations.TURN} (); ALTER TABLE {migrations.TURN} OWNER TO causeloop_migrator"
        )
        async with owned.superuser.transaction():
            await owned.superuser.execute(f"LOCK TABLE {migrations.TURN}")
            with pytest.raises(SettingsError, match="Another `causeloop migrate` has been at work for 1 seconds"):
                await migrations.migrate(owned.url, owned.secret.encode(), services.schemas().values())

    async def test_of_the_bus(self, servers: Servers) -> None:
        """D9: NATS is down, or refuses, after the database was migrated."""
        environ = {"DATABASE_URL": servers.database_url, "JWT_SECRET": servers.jwt_secret}
        nobody = f"nats://127.0.0.1:{free_port()}"
        seed = servers.seeds["operator"]

        down = await causeloop("migrate", **environ, NATS_URL=nobody, NATS_NKEY_SEED_OPERATOR=seed)
        other = {"NATS_URL": servers.nats_url, "NATS_NKEY_SEED_OPERATOR": servers.seeds["auth"]}
        refused = await causeloop("migrate", **environ, **other)
        broken = await causeloop("migrate", **environ, NATS_URL=servers.nats_url, NATS_NKEY_SEED_OPERATOR="SU")

        assert "Nothing listens at NATS_URL" in down.refusal()
        assert "NATS_NKEY_SEED_OPERATOR is another credential than the operator's" in refused.refusal()
        assert "NATS_NKEY_SEED_OPERATOR is not the seed of a user's nkey" in broken.refusal()

    async def test_of_another_credential_on_the_bus(self, servers: Servers) -> None:
        """E33: another's credential is named as such, by the operator's commands and by `migrate`."""
        other = {"NATS_URL": servers.nats_url, "NATS_NKEY_SEED_OPERATOR": servers.seeds["auth"]}
        listed = await causeloop("dead", "list", **other)
        assert "NATS_NKEY_SEED_OPERATOR is another credential than the operator's" in listed.refusal()


class TestSuccess:
    async def test_is_kept_by_no_role_of_a_service(self, servers: Servers) -> None:
        """D3: no number that a service's role holds stops a migration."""
        url = role_url(servers.database_url, "causeloop_tenancy", servers.jwt_secret.encode())
        stranger = await asyncpg.connect(url)
        try:
            await stranger.execute("SELECT pg_advisory_lock(54246506496)")  # the number of d27513e
            for forbidden in (f"LOCK TABLE {migrations.TURN}", "CREATE TABLE migrations.other ()"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with stranger.transaction():
                        await stranger.execute(forbidden)
            done = await causeloop("migrate", DATABASE_URL=servers.database_url, JWT_SECRET=servers.jwt_secret)
        finally:
            await stranger.close()

        assert (done.code, done.errors) == (0, "")

    def test_leaves_no_state_in_its_session(self) -> None:
        """D4: a pooler gives the session to others, who would go on under the role that a migration took."""
        statements = re.compile(
            r"\b(SET (?!LOCAL\b)(SESSION )?\w+ *(=|TO|causeloop_)|pg_advisory_lock|SET SESSION|LISTEN )"
        )
        for schema in services.schemas().values():
            for file in sorted(schema.folder.rglob("*.py")):
                text = re.sub(
                    r"(?s)UPDATE .*?SET |ALTER (ROLE|TABLE|DATABASE) .*?SET |DO UPDATE SET ", "", file.read_text()
                )
                assert statements.findall(text) == [], file

    async def test_comes_to_runs_that_begin_together(self, owned: Place) -> None:
        """D9: two first runs at the same moment."""
        environ = {"DATABASE_URL": owned.url, "JWT_SECRET": owned.secret}
        for done in await asyncio.gather(*(causeloop("migrate", **environ) for _ in range(2))):
            assert (done.code, done.errors) == (0, "")

    async def test_is_proven_before_it_is_announced(self, owned: Place) -> None:
        """D9: what the services would refuse is no success."""
        await owned.superuser.execute(f"CREATE PUBLICATION p FOR ALL TABLES; GRANT CREATE ON DATABASE "
                                      f"{owned.owned.database} TO causeloop_audit")  # fmt: skip
        refused = await owned.refusal()
        assert "tenant isolation is not as declared" in refused

        await owned.superuser.execute("DROP PUBLICATION p; REVOKE CREATE ON DATABASE "
                                      f"{owned.owned.database} FROM causeloop_audit")  # fmt: skip
        done = await causeloop("migrate", DATABASE_URL=owned.url, JWT_SECRET=owned.secret)
        assert (done.code, done.errors) == (0, "")

    async def test_without_a_public_schema(self, owned: Place) -> None:
        """D9: `public` is locked down, or gone."""
        await owned.superuser.execute("DROP SCHEMA public")

        done = await causeloop("migrate", DATABASE_URL=owned.url, JWT_SECRET=owned.secret)

        assert (done.code, done.errors) == (0, "")


SECRET, OTHER = "the root secret of an installation, long enough", "another root secret of it, and long enough, too"


class TestSecrets:
    @pytest.fixture
    def alone(self) -> Iterator[str]:
        """The migrator's address on a server of the test's own, whose roles it may lock out."""
        with Janitor() as janitor, EmbeddedPostgres(janitor=janitor) as postgres:
            yield postgres.prepare()

    @pytest.mark.parametrize("secret", ["", "short", DEVELOPMENT_SECRET], ids=["none", "short", "development"])
    async def test_that_others_could_guess_are_refused(self, servers: Servers, secret: str) -> None:
        """D2: without a secret of its own no database gets passwords, on this host neither."""
        refused = await causeloop("migrate", DATABASE_URL=servers.database_url, JWT_SECRET=secret)

        assert "JWT_SECRET is missing, shorter than 32 characters or guessable" in refused.refusal()
        await self.log_in(servers.database_url, servers.jwt_secret)

    @pytest.mark.slow
    async def test_of_another_installation_lock_nobody_out(self, alone: str) -> None:
        """D8: passwords of roles that are there stay, unless an option replaces them; those that changed come back."""
        assert (await causeloop("migrate", DATABASE_URL=alone, JWT_SECRET=SECRET)).code == 0
        refused = await causeloop("migrate", DATABASE_URL=alone, JWT_SECRET=OTHER)
        assert "JWT_SECRET is not the secret that their passwords were derived from" in refused.refusal()
        assert SECRET not in refused.errors
        await self.log_in(alone, SECRET)

        migrator = await asyncpg.connect(alone)
        await migrator.execute("ALTER ROLE causeloop_audit PASSWORD 'its own'")
        assert (await causeloop("migrate", DATABASE_URL=alone, JWT_SECRET=SECRET)).code == 0
        await self.log_in(alone, SECRET)

        for service in topology.OWNERS:
            for role in rls.roles(services.tables(service)):
                await migrator.execute(f"ALTER ROLE {role} PASSWORD NULL")
        await migrator.close()
        restored = await causeloop("migrate", DATABASE_URL=alone, JWT_SECRET=SECRET)
        assert "add --replace-passwords" in restored.refusal()

        replaced = await causeloop("migrate", "--replace-passwords", DATABASE_URL=alone, JWT_SECRET=OTHER)
        assert (replaced.code, replaced.errors) == (0, "")
        await self.log_in(alone, OTHER)

    async def test_of_one_that_is_not_seen_change_nothing(self, owned: Place) -> None:
        """D8: two first runs at once with two secrets: the second finds roles that were not there, and keeps them."""
        schema = services.schemas()["auth"]

        statements = [one for one in schema_ddl(schema, OTHER.encode(), ()) if "PASSWORD" in one]

        assert all("IF NOT EXISTS" in one for one in statements)
        for one in statements:
            await owned.superuser.execute(one)
        await self.log_in(owned.owned.on("causeloop").text(), owned.secret)

    async def log_in(self, url: str, secret: str) -> None:
        """Each role opens with the passwords of this secret."""
        for service in topology.OWNERS:
            for role in rls.roles(services.tables(service)):
                await (await asyncpg.connect(role_url(url, role, secret.encode()))).close()
