"""Fixtures of tenancy's tests: its use cases on the real database, and the service on the bus.

house     tenancy's service as its app composes it, and a look at what it stored
asker     the gateway's place on the bus, with tenancy to answer it
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.database import Database
from causeloop_common.messaging import Bus
from causeloop_common.permissions import REALM_PERMISSIONS
from causeloop_dev.testing import Servers, person
from causeloop_tenancy import app
from causeloop_tenancy.models import metadata
from causeloop_tenancy.service import TenancyService
from causeloop_tenancy.settings import TenancySettings


class Announcement(NamedTuple):
    """An event in the outbox."""

    type: str
    target: str
    actor: str
    data: str


@dataclass
class House:
    """Tenancy's use cases, and what they left behind."""

    service: TenancyService
    superuser: asyncpg.Connection

    def creator(self, workspace: str | None = None, principal: str | None = None, key: str = "") -> AuthContext:
        """A person about to make a workspace, as the gateway sends them: in the tenant to be."""
        return AuthContext(
            tenant=workspace or ids.new("ws"),
            principal=principal or person(),
            permissions=REALM_PERMISSIONS,
            credential=ids.new("ses"),
            issuer="gateway",
            request_id=ids.new("req"),
            idempotency=Idempotency(key, "print") if key else None,
        )

    async def announced(self, tenant: str) -> list[Announcement]:
        rows = await self.superuser.fetch(
            "SELECT type, target, actor, data FROM tenancy.outbox WHERE workspace_id = $1 ORDER BY seq",
            ids.tenant_uuid(tenant),
        )
        return [Announcement(*row) for row in rows]

    async def rows(self, table: str, tenant: str) -> list[dict[str, Any]]:
        found = await self.superuser.fetch(
            f"SELECT * FROM tenancy.{table} WHERE workspace_id = $1", ids.tenant_uuid(tenant)
        )
        return [dict(row) for row in found]

    async def add_member(self, workspace: str, person: str, role: str) -> None:
        """Let somebody belong, past the commit guard: tenancy has no use case for it yet."""
        async with self.superuser.transaction():
            await self.superuser.execute("SET LOCAL session_replication_role = replica")
            await self.superuser.execute(
                "INSERT INTO tenancy.members (workspace_id, person_id, role) VALUES ($1, $2, $3)",
                ids.tenant_uuid(workspace),
                ids.decode(person, "usr"),
                role,
            )


@pytest.fixture(scope="module")
async def superuser(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(servers.superuser_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def house(servers: Servers, superuser: asyncpg.Connection) -> AsyncIterator[House]:
    settings = TenancySettings.load("tenancy", servers.environ["tenancy"])
    database = Database(settings.dsn("causeloop_tenancy"), "tenancy", metadata)
    await database.start()
    yield House(TenancyService(database), superuser)
    await database.stop()


@pytest.fixture(scope="module")
async def asker(servers: Servers, compose: Callable[..., Any]) -> AsyncIterator[Bus]:
    tenancy = await compose(app.create, "tenancy")
    async with servers.connected("gateway") as bus:
        await tenancy.bus.client.flush()
        yield bus
