"""A database as an earlier version left it, and its upgrade."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from alembic import command

from causeloop_cli import services
from causeloop_common import ids, migrations, rls
from causeloop_common.settings import role_password, with_role
from causeloop_dev.testing import Servers


@dataclass(frozen=True)
class Upgrade:
    """A database of the test's own, with the schemas of some services."""

    url: str
    superuser: asyncpg.Connection
    secret: bytes
    schemas: tuple[migrations.Schema, ...]

    def dsn(self, role: str) -> str:
        return with_role(self.url, role, role_password(self.secret, role))

    async def rest(self) -> None:
        """Migrate to this version, in which each service proves its isolation."""
        await migrations.migrate(self.url, self.secret, self.schemas)
        for schema in self.schemas:
            service: Any = await asyncpg.connect(self.dsn(f"causeloop_{schema.name}"))
            try:
                assert await rls.prove(service, schema.name, schema.tables) == []
            finally:
                await service.close()


@asynccontextmanager
async def upgrading(servers: Servers, **revisions: str) -> AsyncIterator[Upgrade]:
    """A database whose services have these revisions, as the ordinary role that migrates has made them."""
    name = f"upgrade_{ids.uuid7().hex}"
    url, superuser_url = (
        urlunsplit(urlsplit(address)._replace(path=f"/{name}"))
        for address in (servers.database_url, servers.superuser_url)
    )
    schemas = tuple(services.schemas()[service] for service in revisions)
    upgrade, of_folder = command.upgrade, {str(schema.folder): revisions[schema.name] for schema in schemas}
    outside = await asyncpg.connect(servers.superuser_url)
    await outside.execute(f"CREATE DATABASE {name} OWNER causeloop_migrator")
    try:
        secret = servers.jwt_secret.encode()
        with mock.patch.object(
            command,
            "upgrade",
            lambda config, _: upgrade(config, of_folder[str(config.get_main_option("script_location"))]),
        ):
            await migrations.migrate(url, secret, schemas)
        superuser = await asyncpg.connect(superuser_url)
        try:
            yield Upgrade(url, superuser, secret, schemas)
        finally:
            await superuser.close()
    finally:
        await outside.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await outside.close()
