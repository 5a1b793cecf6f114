"""The vault as its use cases meet it: the service on real PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from causeloop_common.contracts.purpose import Purpose
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.contracts.vault import PURPOSES
from causeloop_common.database import Database
from causeloop_common.memory import Memory
from causeloop_dev.testing import Servers
from causeloop_vault.adapters.local_keys import LocalMasterKeys
from causeloop_vault.models import metadata
from causeloop_vault.service import CheckpointService, Keyrings, KeyService, SealingService, SecretService
from causeloop_vault.service.keyrings import MasterKeys
from causeloop_vault.settings import VaultSettings

PROBE = Purpose("probe", issuer="tenancy", ends=MemberAdded)
"""A purpose that only tests have."""


@dataclass(frozen=True)
class Vault:
    """The vault's use cases, over keyrings of their own."""

    data_keys: Memory[Any, Any]
    named_keys: Memory[Any, Any]
    keyrings: Keyrings
    secrets: SecretService
    keys: KeyService
    sealing: SealingService
    checkpoints: CheckpointService


@pytest.fixture(scope="session")
async def database(servers: Servers) -> AsyncIterator[Database]:
    """The vault's database, as the service's own role."""
    settings = VaultSettings.load("vault", servers.environ["vault"])
    made = Database(settings.dsn("causeloop_vault"), "vault", metadata, workers=8)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(scope="session")
def new_vault(database: Database, servers: Servers) -> Callable[..., Vault]:
    """Make a vault that remembers nothing yet, with the installation's master keys, others, or another keeper."""
    settings = VaultSettings.load("vault", servers.environ["vault"])

    def make(*keys: bytes, keeper: MasterKeys | None = None, **given: Any) -> Vault:
        data_keys: Memory[Any, Any] = Memory("data_keys", seconds=300, most=100)
        named_keys: Memory[Any, Any] = Memory("named_keys", seconds=300, most=100)
        keyrings = Keyrings(database, keeper or LocalMasterKeys(keys or settings.keys()), data_keys, **given)
        return Vault(
            data_keys,
            named_keys,
            keyrings,
            SecretService(database, keyrings),
            KeyService(database, keyrings, named_keys, **given),
            SealingService(database, keyrings, (*PURPOSES, PROBE)),
            CheckpointService(database, keyrings, settings.origin),
        )

    return make


@pytest.fixture
def vault(new_vault: Callable[..., Vault]) -> Vault:
    """A vault of the test's own."""
    return new_vault()


@pytest.fixture
async def superuser(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sees everything."""
    connection = await asyncpg.connect(servers.superuser_url)
    yield connection
    await connection.close()
