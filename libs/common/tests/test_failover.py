"""A server that accepts no writes, and a table that is altered, while a service works."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Database, role_connections
from causeloop_common.errors import Unavailable
from causeloop_common.statements import Statement

Probe = Callable[..., Awaitable[Database]]

ADD = Statement.raw("INSERT INTO probe.things (name) VALUES ($1)", "name")
ALL = Statement.raw("SELECT * FROM probe.things")
SOMETHING = MemberAdded(person_id=ids.INSTALLATION, role="owner")


async def add(database: Database, ctx: AuthContext, name: str) -> None:
    async with database.transaction(ctx) as tx:
        await tx.execute(ADD, name=name)
        tx.publish(SOMETHING)


class Server:
    """The mode of the server."""

    def __init__(self, superuser: asyncpg.Connection, url: str) -> None:
        self._superuser = superuser
        self._url = url

    async def read_only(self, mode: str) -> None:
        await self._superuser.execute("SET default_transaction_read_only = off")
        await self._superuser.execute(f"ALTER SYSTEM SET default_transaction_read_only = {mode}")
        await self._superuser.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(10):
            while await self._mode() != mode:  # noqa: ASYNC110  the server reads its file when it likes
                await asyncio.sleep(0.02)

    async def _mode(self) -> str:
        other = await asyncpg.connect(self._url)
        try:
            return str(await other.fetchval("SHOW default_transaction_read_only"))
        finally:
            await other.close()


@pytest.fixture
async def server(superuser: asyncpg.Connection, scratch: Any) -> AsyncIterator[Server]:
    made = Server(superuser, scratch.superuser_url)
    yield made
    await made.read_only("off")


class TestReadOnly:
    async def test_acts_are_unavailable_and_the_service_recovers_by_itself(
        self, probe: Probe, server: Server, workspace: AuthContext
    ) -> None:
        """D18: 503 while the server accepts no writes, also on new connections; then all is as before."""
        database = await probe(workers=2)
        await add(database, workspace, "before")
        before = database.connected()._idle[0]

        await server.read_only("on")
        for _ in range(3):
            with pytest.raises(Unavailable, match="accepts no writes"):
                await add(database, workspace, "meanwhile")
        with pytest.raises(Unavailable, match="The database accepts no writes"):
            await database.ping()
        assert before.is_closed()

        await server.read_only("off")
        await database.ping()
        await add(database, workspace, "after")

    async def test_idle_connections_are_given_up_too(
        self, probe: Probe, server: Server, workspace: AuthContext
    ) -> None:
        """D18: the address may lead to another server by now."""
        database = await probe(workers=3)
        await asyncio.gather(*(add(database, workspace, f"{n}") for n in range(3)))
        idle = list(database.connected()._idle)

        await server.read_only("on")
        with pytest.raises(Unavailable, match="accepts no writes"):
            await add(database, workspace, "meanwhile")

        assert all(connection.is_closed() for connection in idle)

    async def test_a_leaders_connections_are_given_up(self, scratch: Any, server: Server) -> None:
        """D18: so do the roles that work across tenants."""
        connections = role_connections(scratch.dsn("causeloop_probe_jobs"), "causeloop_probe_jobs")
        async with connections.borrowed() as connection:
            await connection.execute("SELECT 1")
        await server.read_only("on")
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with connections.borrowed() as connection:
                await connection.execute("UPDATE probe.schedules SET done_at = now()")

        assert connection.is_closed()
        await connections.close(1)


class TestAltered:
    async def test_a_statement_whose_table_was_altered_did_nothing(
        self, probe: Probe, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        """E29: a plan that an altered column made stale is no fault of the service, and the next try works."""
        database = await probe(workers=1)
        await add(database, workspace, "one")
        async with database.transaction(workspace) as tx:
            await tx.fetch(ALL)
        try:
            await superuser.execute("ALTER TABLE probe.things ADD COLUMN more integer")
            await superuser.execute("ALTER TABLE probe.things ALTER COLUMN more TYPE bigint")
            with pytest.raises(Unavailable, match="Nothing was done; try again"):
                async with database.transaction(workspace) as tx:
                    await tx.fetch(ALL)
            async with database.transaction(workspace) as tx:
                assert len(await tx.fetch(ALL)) == 1
        finally:
            await superuser.execute("ALTER TABLE probe.things DROP COLUMN more")
