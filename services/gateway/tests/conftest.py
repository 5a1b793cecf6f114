"""Fixtures of the gateway's tests: the gateway on a port of its own, and every service it asks.

house       the gateway as an HTTP server, and people who sign in to it
security    `Security` on a connection of its own
wire        bytes over a socket, as no client library would send them
until       asks again and again until the answer is true

For the stream of the log:

log         audit, which has it
announce    puts events into it: `await announce(tenant, 5)`
owner       somebody whose log gets nothing more by itself
token       their personal access token that may do nothing but stream
streams     those that the gateway has open
"""

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import asyncpg
import httpx
import pytest

from causeloop_audit import app as audit
from causeloop_auth import app as auth
from causeloop_common import ids
from causeloop_common.application import Application, Listener
from causeloop_common.contracts.announced import Announced
from causeloop_common.memory import Memories
from causeloop_common.messaging import Bus, event_headers
from causeloop_common.settings import Settings
from causeloop_dev.issuer import create_issuer
from causeloop_dev.testing import Servers
from causeloop_gateway import app
from causeloop_gateway.limits import Limits
from causeloop_gateway.security import Security
from causeloop_gateway.streams.registry import Streams
from causeloop_tenancy import app as tenancy
from causeloop_vault import app as vault
from tests.support.documented import check_documented
from tests.support.listeners import route_of, size, so

PARTY = "http://app.causeloop.test"
PATIENCE = 5.0

T = TypeVar("T")


async def _until(ask: Callable[[], Awaitable[T]]) -> T:
    deadline = time.monotonic() + PATIENCE
    while not (answer := await ask()):
        assert time.monotonic() < deadline, f"It is still not so; the last answer was {answer!r}."
        await asyncio.sleep(0.005)
    return answer


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[T]]], Awaitable[T]]:
    return _until


@asynccontextmanager
async def served(listener: Listener, listening: socket.socket) -> AsyncIterator[None]:
    serving = asyncio.create_task(listener.serve(sockets=[listening]))
    try:
        yield  # the socket listens: a client waits until it is accepted
    finally:
        listener.should_exit = True
        await serving


def listening() -> tuple[socket.socket, str]:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio asks for all three
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made, f"http://127.0.0.1:{made.getsockname()[1]}"


@dataclass
class Person:
    """Somebody who signed in and has a workspace."""

    id: str
    workspace: str
    realm_token: str
    token: str
    refresh_token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclass
class House:
    """The gateway's address, and what is around it."""

    http: httpx.AsyncClient
    issuer: httpx.AsyncClient
    port: int
    superuser: asyncpg.Connection
    application: Application
    listener: Listener

    async def subject_token(self, subject: str | None = None) -> str:
        opened = await self.issuer.post("/v1/sessions", json={"subject": subject or f"user_{secrets.token_hex(8)}"})
        return str(opened.json()["token"])

    async def sign_up(self) -> Person:
        """A new person in a new workspace of theirs."""
        first = await self.body("POST", "/auth/exchange", json={"subject_token": await self.subject_token()})
        realm_token = first["access_token"]
        made = await self.body("POST", "/workspaces", realm_token, json={"name": "Acme", "slug": "acme"})
        moving = {"refresh_token": first["refresh_token"], "workspace_id": made["id"]}
        moved = await self.body("POST", "/auth/refresh", json=moving)
        return Person(made["created_by"], made["id"], realm_token, moved["access_token"], moved["refresh_token"])

    async def call(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return await self.http.request(method, f"/v1{path}", headers={**headers, **more.pop("headers", {})}, **more)

    async def body(self, method: str, path: str, token: str | None = None, **more: Any) -> dict[str, Any]:
        """The body of an answer that is none of a refusal."""
        answer = await self.call(method, path, token, **more)
        assert answer.is_success, answer.text
        body: dict[str, Any] = answer.json() if answer.content else {}
        return body

    async def refused(
        self, status: int, code: str, method: str, path: str, token: str | None = None, **more: Any
    ) -> Any:
        """The body of a refusal."""
        answer = await self.call(method, path, token, **more)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        return answer.json()

    async def personal_token(self, person: Person, *scopes: str) -> dict[str, Any]:
        return await self.body("POST", "/api-tokens", person.token, json={"name": "ci", "scopes": list(scopes)})

    async def set_role(self, person: Person, role: str) -> None:
        """Give a member another role, past the commit guard: tenancy has no use case for it yet."""
        async with self.superuser.transaction():
            await self.superuser.execute("SET LOCAL session_replication_role = replica")
            changed = await self.superuser.execute(
                "UPDATE tenancy.members SET role = $1 WHERE workspace_id = $2",
                role,
                ids.tenant_uuid(person.workspace),
            )
        assert changed == "UPDATE 1"


@pytest.fixture(scope="module")
async def neighbours(compose: Callable[..., Any]) -> None:
    await compose(tenancy.create, "tenancy")
    await compose(vault.create, "vault")


@pytest.fixture(scope="module")
def gateway_environ() -> dict[str, str]:
    """More of the gateway's environment, for a module that needs another one."""
    return {}


@pytest.fixture(scope="module")
async def house(servers: Servers, neighbours: None, gateway_environ: dict[str, str]) -> AsyncIterator[House]:
    at_issuer, issuer_url = listening()
    at_gateway, url = listening()
    issuing = Listener.on(create_issuer(issuer_url, PARTY), "127.0.0.1", 0)
    identity = {
        **servers.environ["auth"],
        "CLERK_JWKS_URL": f"{issuer_url}/.well-known/jwks.json",
        "CLERK_AUTHORIZED_PARTIES": PARTY,
    }
    gateway = app.create({**servers.environ["gateway"], "PORT": "0", **gateway_environ})
    applications = [auth.create(identity), gateway]
    superuser = await asyncpg.connect(servers.superuser_url)
    for application in applications:
        await application.start()
        await application.bus.client.flush()
    listener = gateway.listener()
    assert listener is not None
    async with (
        served(issuing, at_issuer),
        served(listener, at_gateway),
        httpx.AsyncClient(base_url=url, trust_env=False, event_hooks={"response": [check_documented]}) as http,
        # A connection that was idle may be closed at the very moment when it is used again: none is used twice.
        httpx.AsyncClient(
            base_url=issuer_url, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        ) as issuer,
    ):
        yield House(http, issuer, int(url.rpartition(":")[2]), superuser, gateway, listener)
    for application in reversed(applications):
        await application.stop()
    await superuser.close()


@pytest.fixture
async def bus(servers: Servers) -> AsyncIterator[Bus]:
    """The gateway's place on the bus, not yet taken."""
    made = servers.bus("gateway")
    yield made
    await made.close()


@pytest.fixture
async def security(bus: Bus) -> Security:
    made = Security(bus, Memories(bus), Limits(10_000))
    await bus.connect()
    await bus.start()
    await bus.client.flush()
    await bus.client.flush()  # nats-py sends the first ping ahead of the subscriptions
    return made


class Wire:
    """A connection on which anything may be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def insist(self, data: bytes) -> None:
        """Send the same again and again until there is an answer."""
        async with asyncio.timeout(PATIENCE):
            while not self.reader._buffer:  # type: ignore[attr-defined]
                await self.send(data)
                await asyncio.sleep(0)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def is_closed(self) -> bool:
        """Wait for the end; whether nothing more was sent before it."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@pytest.fixture
async def wire(house: House) -> AsyncIterator[Callable[[], Awaitable[Wire]]]:
    opened: list[Wire] = []

    async def connect() -> Wire:
        opened.append(Wire(*await asyncio.open_connection("127.0.0.1", house.port)))
        return opened[-1]

    yield connect
    for one in opened:
        one.writer.close()


# The stream of the log

Announce = Callable[..., Awaitable[list[str]]]


@pytest.fixture(scope="module")
async def log(compose: Callable[..., Any]) -> None:
    await compose(audit.create, "audit")


@pytest.fixture(scope="module")
async def buses(servers: Servers) -> AsyncIterator[dict[str, Bus]]:
    """Of who announces."""
    made = {}
    for service in ("tenancy", "vault"):
        settings = Settings.load(service, servers.environ[service])
        made[service] = Bus(settings, settings.keyring())
        await made[service].connect()
    yield made
    for bus in made.values():
        await bus.close()


@pytest.fixture
async def announce(buses: dict[str, Bus], house: House) -> Announce:
    """Puts events of a tenant into the stream, and waits until they are in the log: `await announce(tenant, 5)`."""

    async def publish(
        tenant: str,
        count: int = 1,
        data: bytes = b'{"version":1}',
        kind: str = "vault.secret_written",
        target: str | None = None,
    ) -> list[str]:
        made = [ids.new("evt") for _ in range(count)]
        stream = buses[kind.partition(".")[0]].jetstream()
        for one in made:
            to = target or ids.new("sec")
            event = Announced(one, tenant, kind, datetime.now(UTC), data, actor="svc_x", target=to)
            await stream.publish(f"evt.{tenant}.{kind}", data, headers=event_headers(event))

        last = ids.decode(made[-1], "evt")
        async with asyncio.timeout(2 * PATIENCE):
            while not await house.superuser.fetchval(  # noqa: ASYNC110  the log lies elsewhere
                "SELECT 1 FROM audit.entries WHERE event_id = $1", last
            ):
                await asyncio.sleep(0.01)
        return made

    return publish


@pytest.fixture
async def owner(house: House, until: Callable[..., Any]) -> Person:
    """Somebody whose log has what signing up put into it, and gets nothing more by itself."""
    person = await house.sign_up()

    async def settled() -> bool:
        return await size(house, person.workspace) == 3  # its keyring is prepared

    await until(settled)
    return person


@pytest.fixture
async def token(house: House, owner: Person, until: Callable[..., Any]) -> dict[str, Any]:
    """A personal access token that may do nothing but stream; that it was made is the last entry."""
    made = await house.personal_token(owner, "audit:stream")

    async def settled() -> bool:
        return await size(house, owner.workspace) == 4

    await until(settled)
    return made


@pytest.fixture
async def streams(house: House) -> Streams:
    """The gateway's, once the last test's have ended."""
    found = route_of(house.listener)._streams
    await so(lambda: not (found._open))
    return found
