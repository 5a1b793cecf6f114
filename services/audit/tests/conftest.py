"""The log as its use cases meet it: the service on real PostgreSQL, with a writer of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWriter
from causeloop_audit.service import LogService
from causeloop_audit.settings import AuditSettings
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.database import Database, role_connections
from causeloop_dev.testing import Servers


class Unled:
    """Transactions of the writer's role in no term: any number of tests append beside the intake."""

    def __init__(self, dsn: str) -> None:
        self._connections = role_connections(dsn, WRITER)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self._connections.borrowed() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        await self._connections.close(1)


@pytest.fixture(scope="module")
async def log(servers: Servers) -> AsyncIterator[LogService]:
    """The service, without its intake: tests append themselves."""
    settings = AuditSettings.load("audit", servers.environ["audit"])
    database = Database(settings.dsn("causeloop_audit"), "audit", metadata, workers=4)
    writer = Unled(settings.dsn(WRITER))
    await database.start()
    yield LogService(database, LogWriter(writer))
    await writer.close()
    await database.stop()


@pytest.fixture
async def superuser(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sees everything."""
    connection = await asyncpg.connect(servers.superuser_url)
    yield connection
    await connection.close()


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
        }
        return Announced(**{**fields, **given})

    return make
