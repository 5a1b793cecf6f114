"""A pooler between services and database: it works, or is refused at the start with a sentence."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from causeloop_cli import services
from causeloop_common import migrations, rls
from causeloop_common.application import Application
from causeloop_common.contracts.topology import OWNERS
from causeloop_common.database import Database
from causeloop_common.database_url import DatabaseUrl
from causeloop_common.settings import SettingsError, role_password
from causeloop_dev.testing import Servers
from tests.support.commands import causeloop
from tests.support.pgbouncer import needs_pgbouncer, pooler, version

pytestmark = needs_pgbouncer

UNFIT = "A pooler between here and the database gives each transaction another session"


def modes(*, fit: bool) -> list[Any]:
    """The modes of this PgBouncer that keep our statements, or those that do not."""
    followed = {"max_prepared_statements": 200}
    if needs_pgbouncer.args[0]:
        return []
    if version() < (1, 21):
        return [("session", {})] if fit else [("statement", {}), ("transaction", {})]
    if fit:
        return [("session", {}), ("transaction", followed)]
    return [("statement", {}), ("transaction", {"max_prepared_statements": 0})]


class Pooled:
    """Addresses through a pooler."""

    def __init__(self, servers: Servers, url: DatabaseUrl) -> None:
        self._secret = servers.jwt_secret.encode()
        self._url = url
        migrator = DatabaseUrl.read(servers.database_url)
        self.migrator = url.with_role(migrator.user or "", migrator.password or "").text()

    def role(self, role: str) -> str:
        return self._url.with_role(role, role_password(self._secret, role)).text()


@contextmanager
def pooled(servers: Servers, folder: Path, mode: str, settings: dict[str, object]) -> Iterator[Pooled]:
    server, secret = DatabaseUrl.read(servers.database_url), servers.jwt_secret.encode()
    roles = [role for owner in OWNERS for role in rls.roles(services.tables(owner))]
    passwords = {role: role_password(secret, role) for role in roles} | {server.user or "": server.password or ""}
    with pooler(folder, server, passwords, mode, **settings) as url:
        yield Pooled(servers, url)


@pytest.mark.parametrize(("mode", "settings"), modes(fit=True))
class TestThatIsFit:
    async def test_serves_migrate_and_a_whole_service(
        self, servers: Servers, tmp_path: Path, mode: str, settings: dict[str, object]
    ) -> None:
        """D4: through it the service is proven and ready, its settings are in force, and no lock is left."""
        with pooled(servers, tmp_path, mode, settings) as through:
            done = await causeloop("migrate", DATABASE_URL=through.migrator, JWT_SECRET=servers.jwt_secret)
            assert (done.code, done.errors) == (0, "")

            environ = dict(servers.environ["tenancy"])
            for role in ("", "_RELAY", "_JOBS"):
                environ[f"DATABASE_URL_TENANCY{role}"] = through.role(f"causeloop_tenancy{role.lower()}")
            application = services.create("tenancy", environ)
            await application.start()
            try:
                await _ready(application)
            finally:
                await application.stop()

            connection = await asyncpg.connect(through.role("causeloop_tenancy"))
            assert await connection.fetchval("SHOW statement_timeout") == "10s"
            assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
            await connection.close()
        superuser = await asyncpg.connect(servers.superuser_url)
        held = await superuser.fetch(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' OR relation = to_regclass($1)", migrations.TURN
        )
        await superuser.close()
        assert held == []


@pytest.mark.parametrize(("mode", "settings"), modes(fit=False))
class TestThatIsNotFit:
    async def test_is_refused_at_the_start(
        self, servers: Servers, tmp_path: Path, mode: str, settings: dict[str, object]
    ) -> None:
        """D4: migrate and services name the pooler and the remedy."""
        with pooled(servers, tmp_path, mode, settings) as through:
            done = await causeloop("migrate", DATABASE_URL=through.migrator, JWT_SECRET=servers.jwt_secret)
            assert UNFIT in done.refusal()
            database = Database(through.role("causeloop_tenancy"), "tenancy", services.tables("tenancy"))
            with pytest.raises(SettingsError, match=UNFIT):
                await database.start()

    async def test_is_refused_at_the_start_where_one_role_alone_goes_through_it(
        self, servers: Servers, tmp_path: Path, mode: str, settings: dict[str, object]
    ) -> None:
        """D4: the address of a relay, or of a worker, is looked at before the service serves."""
        with pooled(servers, tmp_path, mode, settings) as through:
            for role in ("RELAY", "JOBS"):
                own = {f"DATABASE_URL_TENANCY_{role}": through.role(f"causeloop_tenancy_{role.lower()}")}
                application = services.create("tenancy", servers.environ["tenancy"] | own)
                with pytest.raises(SettingsError, match=UNFIT):
                    await application.start()
                await application.stop()


async def _ready(application: Application) -> None:
    async with asyncio.timeout(20):
        while set((await application.readiness()).values()) != {"ok"}:  # noqa: ASYNC110  its state lies elsewhere
            await asyncio.sleep(0.1)
