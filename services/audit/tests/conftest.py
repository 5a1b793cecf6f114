"""The log as its use cases meet it: the service on real PostgreSQL, with a writer of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWriter
from causeloop_audit.service import CheckpointService, LogService, Readers, Signing
from causeloop_audit.settings import AuditSettings
from causeloop_common import ids
from causeloop_common.application import Application
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced, new_salt
from causeloop_common.contracts.vault import GetAuditKey
from causeloop_common.database import Database, role_connections
from causeloop_common.messaging import Bus
from causeloop_dev.testing import Servers
from causeloop_log.tlog.note import VerifierKey
from causeloop_vault import app as vault_app
from tests.support.witnessed import Witnessed


class Unled:
    """Transactions of the writer's role in no term: any number of tests append beside the intake."""

    def __init__(self, dsn: str) -> None:
        self._connections = role_connections(dsn, WRITER)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._connections.borrowed() as connection, connection.transaction():
            yield connection

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        async with self._connections.borrowed() as connection:
            return list(await connection.fetch(statement, *values))

    async def close(self) -> None:
        await self._connections.close(1)


@pytest.fixture(scope="module")
async def database(servers: Servers) -> AsyncIterator[Database]:
    settings = AuditSettings.load("audit", servers.environ["audit"])
    made = Database(settings.dsn("causeloop_audit"), "audit", metadata, workers=4)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(scope="module")
async def log(servers: Servers, database: Database) -> AsyncIterator[LogService]:
    """The service, without its intake: tests append themselves."""
    writer = Unled(AuditSettings.load("audit", servers.environ["audit"]).dsn(WRITER))
    yield LogService(database, LogWriter(writer), bytes(32), Readers())
    await writer.close()


@pytest.fixture
async def superuser(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sees everything."""
    connection = await asyncpg.connect(servers.superuser_url)
    yield connection
    await connection.close()


@pytest.fixture(autouse=True, scope="module")
async def no_refused_logs(servers: Servers) -> AsyncIterator[None]:
    """Leave no log that the vault refuses: doctor, which other folders' tests run, would name it."""
    yield
    connection = await asyncpg.connect(servers.superuser_url)
    await connection.execute("DELETE FROM audit.refused")
    await connection.close()


@pytest.fixture(scope="module")
async def bus(servers: Servers, compose: Callable[..., Awaitable[Application]]) -> AsyncIterator[Bus]:
    """Audit's connection, beside a vault that is the witness."""
    await compose(vault_app.create, "vault")
    async with servers.connected("audit") as made:
        yield made


@pytest.fixture
def witnessed(
    servers: Servers, database: Database, log: LogService, bus: Bus, superuser: asyncpg.Connection,
    event: Callable[..., Announced], workspace: AuthContext,
) -> Witnessed:  # fmt: skip
    """The log of the test's workspace."""
    signing, away = Signing(database, bus), Signing(database, servers.bus("audit"))
    checkpoints = CheckpointService(database, signing)
    return Witnessed(log, checkpoints, signing, away, CheckpointService(database, away), superuser, event, workspace)


@pytest.fixture
async def key(servers: Servers, bus: Bus, workspace: AuthContext) -> VerifierKey:
    """The key that verifies the workspace's log."""
    async with servers.connected("gateway") as gateway:
        return VerifierKey.parse((await gateway.call(workspace, GetAuditKey())).key)


@pytest.fixture
def event(workspace: AuthContext) -> Callable[..., Announced]:
    """Make an event of the test's workspace; fields can be given."""

    def make(**given: Any) -> Announced:
        fields: dict[str, Any] = {
            "id": ids.new("evt"),
            "tenant": workspace.tenant,
            "type": "vault.secret_written",
            "occurred_at": datetime.now(UTC),
            "actor": workspace.principal,
            "credential": workspace.credential,
            "target": ids.new("sec"),
            "request_id": workspace.request_id,
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "data": b'{"version":1}',
            "salt": new_salt(),
        }
        return Announced(**{**fields, **given})

    return make
