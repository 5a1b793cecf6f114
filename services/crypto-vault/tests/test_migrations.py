"""Sessions from before the vault stored what it seals: the migration that moves their values, as the migrator."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from alembic import command
from alembic.config import Config

from causeloop_auth import models as auth_models
from causeloop_cli import services
from causeloop_common import ids, migrations, rls
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import PURPOSES, OpenSealedValue
from causeloop_common.database import Database
from causeloop_common.memory import Memory
from causeloop_common.settings import role_password, with_role
from causeloop_dev.testing import Servers
from causeloop_vault import models
from causeloop_vault.adapters.local_keys import LocalMasterKeys
from causeloop_vault.domain import envelope
from causeloop_vault.service import Keyrings, SealingService
from causeloop_vault.service.keyrings import Keyring

FIRST = {"auth": "0001", "vault": "0003"}
"""The newest migrations of revision d27513e."""


@pytest.fixture
async def urls(servers: Servers) -> AsyncIterator[tuple[str, str]]:
    """An empty database: its migrator's address, and a superuser's."""
    name = f"upgrade_{ids.uuid7().hex}"
    connection = await asyncpg.connect(servers.superuser_url)
    await connection.execute(f"CREATE DATABASE {name} OWNER causeloop_migrator")
    yield (
        urlunsplit(urlsplit(servers.database_url)._replace(path=f"/{name}")),
        urlunsplit(urlsplit(servers.superuser_url)._replace(path=f"/{name}")),
    )
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


def _folder(config: Config) -> str:
    return str(config.get_main_option("script_location"))


async def test_values_that_auth_had_kept_open_in_the_vault(
    servers: Servers, urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, superuser_url = urls
    secret = servers.jwt_secret.encode()
    schemas = [services.schemas()[name] for name in FIRST]
    upgrade, revisions = command.upgrade, {str(schema.folder): FIRST[schema.name] for schema in schemas}
    with monkeypatch.context() as first:
        first.setattr(command, "upgrade", lambda config, _: upgrade(config, revisions[_folder(config)]))
        await migrations.migrate(url, secret, schemas)

    keeper, master = LocalMasterKeys([bytes(32)]), bytes(range(32))
    persons = {ids.realm("https://issuer.test", f"user_{number}"): ids.new("ses") for number in range(3)}
    superuser = await asyncpg.connect(superuser_url)
    try:
        await superuser.execute("SET session_replication_role = replica")
        for person, session in persons.items():
            wrapped, fingerprint = await keeper.wrap(master, person, 1)
            at = envelope.place(person, "auth/session", session, 1)
            sealed = envelope.seal(master, 1, f"device of {person}".encode(), at, bytes(envelope.ENTROPY_BYTES))
            await superuser.execute(
                "INSERT INTO vault.keyrings (workspace_id, version, wrapped, master) VALUES ($1, 1, $2, $3)",
                ids.tenant_uuid(person), wrapped, fingerprint,
            )  # fmt: skip
            await superuser.execute(
                "INSERT INTO auth.sessions (workspace_id, id, current, rotated_at, sealed, created_at, expires_at) "
                "VALUES ($1, $2, '', now(), $3, now(), now())",
                ids.tenant_uuid(person), ids.decode(session, "ses"), sealed,
            )  # fmt: skip

        await migrations.migrate(url, secret, schemas)

        assert await superuser.fetchval("SELECT count(*) FROM auth.sessions WHERE sealed IS NULL") == len(persons)
    finally:
        await superuser.close()

    for schema, metadata in (("auth", auth_models.metadata), ("vault", models.metadata)):
        role = f"causeloop_{schema}"
        service: Any = await asyncpg.connect(with_role(url, role, role_password(secret, role)))
        try:
            assert await rls.prove(service, schema, metadata) == []
        finally:
            await service.close()

    role = "causeloop_vault"
    database = Database(with_role(url, role, role_password(secret, role)), "vault", models.metadata)
    await database.start()
    try:
        memory: Memory[str, Keyring | None] = Memory("data_keys", seconds=300, most=10)
        sealing = SealingService(database, Keyrings(database, keeper, memory), PURPOSES)
        for person, session in persons.items():
            ctx = AuthContext(tenant=person, principal=person, permissions=frozenset(), issuer="auth", request_id="r")
            answer = await sealing.open_sealed_value(ctx, OpenSealedValue(purpose="session", record=session))
            assert answer.plaintext.get_secret_value() == f"device of {person}"
    finally:
        await database.stop()
