"""Fixtures of the parts of common: a database and a bus that no other test shares.

scratch       a database beside the one of `servers`: every service's schema, and the probe's
superuser     a connection to it that sees everything
probe         the probe's Database: a schema with everything a transaction can carry (assets/probe)
house         a NATS server with every service's credential and the declared streams
bus           connects a service to it
serve         answers commands there with a router of the test's own
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import nats
import pytest
from nats.aio.client import Client
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_cli import services, streams
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_common import idempotency, inbox, migrations, outbox, rls
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import Consumer
from causeloop_common.database import Database
from causeloop_common.messaging import Bus, CommandRouter
from causeloop_common.migrations import Schema
from causeloop_common.settings import Settings, role_password, with_role
from causeloop_dev.installation import Installation
from causeloop_dev.testing import Servers

LISTENER = Consumer("auth_listener", "EVENTS", "auth", ("evt.*.tenancy.>",))
SECOND = Consumer("auth_second", "EVENTS", "auth", ("evt.*.tenancy.>",))


@dataclass(frozen=True)
class Scratch:
    """A database of the tests' own."""

    url: str
    superuser_url: str
    secret: bytes

    def dsn(self, role: str) -> str:
        return with_role(self.url, role, role_password(self.secret, role))


def _on(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


@pytest.fixture(scope="session")
async def scratch(servers: Servers) -> Scratch:
    connection = await asyncpg.connect(servers.superuser_url)
    try:
        await connection.execute("CREATE DATABASE scratch OWNER causeloop_migrator")
    finally:
        await connection.close()
    made = Scratch(
        _on(servers.database_url, "scratch"), _on(servers.superuser_url, "scratch"), servers.jwt_secret.encode()
    )
    await migrations.migrate(made.url, made.secret, schemas())
    return made


@pytest.fixture(scope="session")
async def superuser(scratch: Scratch) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(scratch.superuser_url)
    yield connection
    await connection.close()


def schemas() -> list[Schema]:
    """Every service's schema, and the probe's."""
    return [*services.schemas().values(), Schema(_probe_tables(), Path(__file__).parent / "assets" / "probe")]


def _probe_tables() -> MetaData:
    metadata = MetaData(schema="probe")
    outbox.tables(metadata)
    idempotency.table(metadata)
    inbox.table(metadata)
    things = (rls.tenant_column(), Column("name", Text, primary_key=True), Column("owner", UUID))
    Table("things", metadata, *things, info=rls.protected())
    return metadata


@pytest.fixture
async def probe(scratch: Scratch) -> AsyncIterator[Callable[..., Awaitable[Database]]]:
    """Connects to the probe's schema: `await probe(workers=1)`."""
    started: list[Database] = []

    async def connect(workers: int = 4) -> Database:
        database = Database(scratch.dsn("causeloop_probe"), "probe", _probe_tables(), workers=workers)
        await database.start()
        started.append(database)
        return database

    yield connect
    for database in started:
        await database.stop()


@dataclass
class House:
    """A NATS server, and what its services are let in with."""

    nats: EmbeddedNats
    installation: Installation
    _operators: list[Client] = field(default_factory=list)

    def settings(self, service: str, database_url: str = "postgresql:///nowhere") -> Settings:
        return Settings.load(service, self.environ(service, database_url))

    def environ(self, service: str, database_url: str = "postgresql:///nowhere") -> dict[str, str]:
        return self.installation.environ(service, database_url, self.nats.url)

    async def declare(self) -> None:
        """Make the streams and the consumers, those of the tests included."""
        await streams.declare(self.nats.url, self.installation.seeds[topology.OPERATOR])

    async def operator(self) -> Client:
        """A connection that may do everything to streams."""
        if not self._operators:
            seed, inbox_prefix = self.installation.seeds[topology.OPERATOR], topology.inbox(topology.OPERATOR)
            self._operators.append(await nats.connect(self.nats.url, nkeys_seed_str=seed, inbox_prefix=inbox_prefix))
        return self._operators[0]

    async def leave(self) -> None:
        for client in self._operators:
            await client.close()


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


@pytest.fixture(scope="module")
async def house(janitor: Janitor) -> AsyncIterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topology, "CONSUMERS", (*topology.CONSUMERS, LISTENER, SECOND))
        installation = Installation.new()
        with EmbeddedNats(installation.nats_config(), janitor=janitor) as server:
            made = House(server, installation)
            await made.declare()
            yield made
            await made.leave()


@pytest.fixture
async def bus(house: House) -> AsyncIterator[Callable[[str], Awaitable[Bus]]]:
    """Connects a service to the bus: `await bus("gateway")`."""
    connected: list[Bus] = []

    async def connect(service: str) -> Bus:
        settings = house.settings(service)
        made = Bus(settings, settings.keyring())
        connected.append(made)
        await made.connect()
        return made

    yield connect
    for one in connected:
        await one.close()


@pytest.fixture
async def serve(bus: Callable[[str], Awaitable[Bus]]) -> Callable[..., Awaitable[Bus]]:
    """Answers commands with a router: `await serve("vault", router, workers=1)`."""

    async def start(service: str, router: CommandRouter, workers: int = 4) -> Bus:
        owner = await bus(service)
        await router.start(owner, workers=workers)
        await owner.flush()
        return owner

    return start
