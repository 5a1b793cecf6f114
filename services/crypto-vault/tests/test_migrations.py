"""Sessions from before the vault stored what it seals: the migration that moves their values, as the migrator."""

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import PURPOSES, OpenSealedValue
from causeloop_common.database import Database
from causeloop_common.memory import Memory
from causeloop_dev.testing import Servers
from causeloop_vault import models
from causeloop_vault.adapters.local_keys import LocalMasterKeys
from causeloop_vault.domain import envelope
from causeloop_vault.service import Keyrings, SealingService
from causeloop_vault.service.keyrings import Keyring
from tests.support.upgrades import upgrading

FIRST = {"auth": "0001", "vault": "0003"}
"""The newest migrations of revision d27513e."""


async def test_values_that_auth_had_kept_open_in_the_vault(servers: Servers) -> None:
    keeper, master = LocalMasterKeys([bytes(32)]), bytes(range(32))
    persons = {ids.realm("https://issuer.test", f"user_{number}"): ids.new("ses") for number in range(3)}
    async with upgrading(servers, **FIRST) as upgrade:
        superuser = upgrade.superuser
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

        await upgrade.rest()

        assert await superuser.fetchval("SELECT count(*) FROM auth.sessions WHERE sealed IS NULL") == len(persons)
        database = Database(upgrade.dsn("causeloop_vault"), "vault", models.metadata)
        await database.start()
        try:
            memory: Memory[str, Keyring | None] = Memory("data_keys", seconds=300, most=10)
            sealing = SealingService(database, Keyrings(database, keeper, memory), PURPOSES)
            for person, session in persons.items():
                ctx = AuthContext(tenant=person, principal=person, permissions=frozenset(), issuer="auth")
                answer = await sealing.open_sealed_value(ctx, OpenSealedValue(purpose="session", record=session))
                assert answer.plaintext.get_secret_value() == f"device of {person}"
        finally:
            await database.stop()
