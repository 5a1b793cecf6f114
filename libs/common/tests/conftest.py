"""Fixtures of the parts of common: a database and a bus that no other test shares.

scratch       a database beside the one of `servers`: every service's schema, and the probe's
superuser     a connection to it that sees everything
probe         the probe's Database: a schema with everything a transaction can carry (assets/probe)
house         a NATS server with every service's credential and the declared streams
bus           connects a service to it
serve         answers commands there with a router of the test's own
database      tenancy's Database, and `replica` as another process of the service has it
run           starts a relay of tenancy: `await run()`; `hurried` has it poll often
counting      a vault whose one job counts
world         servers on the loopback, names of the test's own, and the way out to them
counted       how often an outcome of the way out was counted since the test began
authority     a private certificate authority, for the servers of `world`
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import nats
import pytest
from nats.aio.client import Client
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import UUID

from causeloop_cli import services, streams
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_common import idempotency, inbox, leader, leases, migrations, outbox, rls, schedules
from causeloop_common.contracts import topology
from causeloop_common.contracts.tenancy import Resolve
from causeloop_common.contracts.topology import Consumer
from causeloop_common.database import Database
from causeloop_common.messaging import Bus, CommandRouter
from causeloop_common.migrations import Schema
from causeloop_common.outbound import Client as OutboundClient, Limits, Outbound
from causeloop_common.relay import work
from causeloop_common.settings import Settings, role_password, with_role
from causeloop_common.telemetry import UNTRACED, Tracer, metrics
from causeloop_dev.authority import Authority
from causeloop_dev.installation import Installation
from causeloop_dev.testing import Servers
from tests.support.counting import Counting, hurry
from tests.support.relaying import ROLE, Run, connected, relays

LISTENER = Consumer("auth_listener", "EVENTS", "auth", ("evt.*.*.tenancy.*",))
SECOND = Consumer("auth_second", "EVENTS", "auth", ("evt.*.*.tenancy.*",))


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
    schedules.table(metadata)
    leaders = {"relay": "causeloop_probe_relay", "schedule": "causeloop_probe_jobs", "other": "causeloop_probe"}
    leases.table(metadata, leaders)
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
async def database(scratch: Scratch) -> AsyncIterator[Database]:
    async with connected(scratch) as database:
        yield database


@pytest.fixture
async def replica(scratch: Scratch) -> AsyncIterator[Database]:
    async with connected(scratch) as database:
        yield database


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(leader, "MEASURE_SECONDS", 0.05)


@pytest.fixture
async def run(scratch: Scratch, bus: Callable[[str], Awaitable[Bus]], database: Database) -> AsyncIterator[Run]:
    async with relays(scratch.dsn(ROLE), await bus("tenancy"), database) as start:
        yield start


@pytest.fixture
async def counting(
    scratch: Scratch, superuser: asyncpg.Connection, bus: Callable[[str], Awaitable[Bus]],
    serve: Callable[..., Awaitable[Bus]], monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Counting]:  # fmt: skip
    hurry(monkeypatch)
    database = Database(scratch.dsn("causeloop_vault"), "vault", services.tables("vault"))
    made = Counting(database, superuser, scratch.dsn("causeloop_vault_jobs"), bus)
    await superuser.execute("TRUNCATE vault.jobs")  # no job of another test is due
    await database.start()
    await serve("tenancy", CommandRouter({Resolve: made.resolve}))
    yield made
    for replica in made.replicas:
        await replica.end()
    await database.stop()
    await superuser.execute("TRUNCATE vault.jobs")


@pytest.fixture
async def serve(bus: Callable[[str], Awaitable[Bus]]) -> Callable[..., Awaitable[Bus]]:
    """Answers commands with a router: `await serve("vault", router, workers=1)`."""

    async def start(service: str, router: CommandRouter, workers: int = 4) -> Bus:
        owner = await bus(service)
        await router.start(owner, workers=workers)
        await owner.flush()
        return owner

    return start


# The way out: servers on the loopback, names of the test's own, and a private authority

QUICK = Limits(total=0.6, resolve=0.2, connect=0.3, idle=0.3, largest=64 * 1024, per_host=2)
"""Deadlines that tests can wait for."""
OPEN = {"OUTBOUND_TENANT_RANGES": "127.0.0.0/8", "OUTBOUND_HTTP": "all"}
"""The loopback, opened to tenants' destinations, where the tests' servers are."""
FINE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server on the loopback. `heads` are the requests that came, without their bodies."""

    port: int
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    open: int = 0


@dataclass
class World:
    """Names, servers, and the way to them."""

    authority: Authority
    names: dict[str, list[Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def lookup(self, name: str) -> list[str]:
        """What a name resolves to: always the same, or each time the next."""
        self.asked.append(name)
        if name in self.silent:
            time.sleep(1)
        found = self.names.get(name)
        if found is None:
            raise OSError("unknown name")
        if found and isinstance(found[0], list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found

    def outbound(self, environ: Mapping[str, str] | None = None, tracer: Tracer = UNTRACED) -> Outbound:
        return Outbound(Settings.load("auth", environ or {}), tracer, lookup=self.lookup)

    def operators(
        self, environ: Mapping[str, str] | None = None, limits: Limits = QUICK, **more: str
    ) -> OutboundClient:
        return self.outbound({**(environ or {}), **more}).operators("test", limits)

    def tenants(self, environ: Mapping[str, str] | None = None, limits: Limits = QUICK, **more: str) -> OutboundClient:
        return self.outbound({**(environ or {}), **more}).tenants("test", limits)

    async def serve(
        self, handler: Handler | bytes = FINE, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> Server:
        """A server that reads a request's head and then does what the handler does, or answers bytes."""
        made = Server(0)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made.connections += 1
            made.open += 1
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with suppress(OSError, asyncio.IncompleteReadError):
                    made.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                    if isinstance(handler, bytes):
                        writer.write(handler)
                        await writer.drain()
                    else:
                        await handler(reader, writer)
            finally:
                made.open -= 1
                self._tasks.discard(task)
                writer.close()

        listening = await asyncio.start_server(connected, host, port, ssl=tls)
        self._servers.append(listening)
        made.port = listening.sockets[0].getsockname()[1]
        return made

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def world(authority: Authority) -> AsyncIterator[World]:
    made = World(authority)
    yield made
    await made.close()


@pytest.fixture
def counted() -> Callable[[str], float]:
    """How often an outcome was counted since the test began."""

    def count(outcome: str) -> float:
        return float(metrics.OUTBOUND_REQUESTS.labels("test", outcome)._value.get())

    before: dict[str, float] = {}

    def since(outcome: str) -> float:
        return count(outcome) - before.setdefault(outcome, 0.0)

    for metric in metrics.OUTBOUND_REQUESTS.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total") and sample.labels["purpose"] == "test":
                before[sample.labels["outcome"]] = sample.value
    return since
