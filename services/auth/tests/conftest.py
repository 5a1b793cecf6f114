"""Fixtures of auth's tests: the mock issuer behind a door, and auth's use cases on a clock of the test's own.

issuer        the mock issuer, served over HTTP; counts who fetches its keys, and shuts when asked
house         auth's services as its app composes them, beside a real tenancy and vault
answering     auth itself, answering on the bus
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import jwt
import pytest

from causeloop_auth import app
from causeloop_auth.adapters.identity_provider import JWKS_PATH, LIMITS, IdentityProvider
from causeloop_auth.models import metadata
from causeloop_auth.service import SessionService, TokenService
from causeloop_auth.settings import AuthSettings
from causeloop_common import ids
from causeloop_common.application import Application, Listener
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.auth import Authenticate, Exchange, Grant, Identity, Refresh
from causeloop_common.contracts.tenancy import CreateWorkspace
from causeloop_common.contracts.vault import OpenSealedValue
from causeloop_common.database import Database
from causeloop_common.messaging import Bus
from causeloop_common.outbound import Client, Limits, Outbound
from causeloop_common.permissions import REALM_PERMISSIONS, Internal
from causeloop_dev.issuer import Issuer, create_issuer
from causeloop_dev.testing import Servers, context
from causeloop_tenancy import app as tenancy
from causeloop_vault import app as vault
from tests.support.provider import Time

PARTY = "http://app.causeloop.test"
NO_PROVIDER = {"CLERK_JWKS_URL": f"http://127.0.0.1:9{JWKS_PATH}", "CLERK_AUTHORIZED_PARTIES": PARTY}
GATEWAY = AuthContext(
    tenant=ids.INSTALLATION,
    principal="svc_gateway",
    permissions=frozenset({Internal.SIGN_IN, Internal.AUTHENTICATE}),
    request_id=ids.new("req"),
)


class Door:
    """The mock issuer, and a door before its published keys."""

    def __init__(self, url: str) -> None:
        made = create_issuer(url, PARTY)
        assert isinstance(made, Issuer)
        self.issuer = made
        self.url = url
        self.jwks_url = f"{url}{JWKS_PATH}"
        self.fetches = 0
        self.instead: tuple[int, bytes] | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.drips = False
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == JWKS_PATH:
            self.fetches += 1
            await self.open.wait()
            if self.drips:
                await self._drip(send)
                return
            if self.instead is not None:
                status, body = self.instead
                await send({"type": "http.response.start", "status": status, "headers": self.headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self.issuer(scope, receive, send)

    async def _drip(self, send: Any) -> None:
        """A byte now and then, without an end."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while self.drips:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(0.05)

    @property
    def key(self) -> Any:
        """The key that signs now."""
        return self.issuer._keys[0]

    def claims(self, subject: str = "user_1", **changed: Any) -> dict[str, Any]:
        """A good session's claims, some changed, those that are None left out."""
        now = int(datetime.now(UTC).timestamp())
        good = {"iss": self.url, "sub": subject, "sid": "sess_1", "azp": PARTY, "iat": now, "nbf": now, "exp": now + 60}
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def sign(self, subject: str = "user_1", **changed: Any) -> str:
        """A session token as the issuer signs it."""
        return jwt.encode(
            self.claims(subject, **changed), self.key.private, algorithm="RS256", headers={"kid": self.key.kid}
        )

    def rotate(self) -> None:
        """A new key signs; the old ones stay published."""
        self.issuer._keys.insert(0, type(self.key)())


@asynccontextmanager
async def served() -> AsyncIterator[Door]:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio asks for all three
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    door = Door(f"http://127.0.0.1:{listening.getsockname()[1]}")
    listener = Listener.on(door, "127.0.0.1", 0)
    serving = asyncio.create_task(listener.serve(sockets=[listening]))
    try:
        yield door  # the socket listens: a client waits until it is accepted
    finally:
        listener.should_exit = True
        door.drips = False
        door.open.set()
        await serving


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[Door]:
    async with served() as door:
        yield door


@pytest.fixture
def make_provider(issuer: Door) -> Callable[..., IdentityProvider]:
    """A provider's client on a clock of the test's own; the test closes it."""

    def make(monotonic: Callable[[], float], limits: Limits = LIMITS, **more: Any) -> IdentityProvider:
        issuer.fetches, issuer.instead, issuer.headers, issuer.drips = 0, None, [], False
        issuer.open.set()
        given = {"authorized_parties": [PARTY], "monotonic": monotonic, **more}
        return IdentityProvider(issuer.jwks_url, way_out(limits), **given)

    return make


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def provider(make_provider: Callable[..., IdentityProvider], time: Time) -> AsyncIterator[IdentityProvider]:
    made = make_provider(time)
    yield made
    await made.close()


@pytest.fixture(scope="session", name="way_out")
def way_out_fixture() -> Callable[..., Client]:
    """The way to an identity provider: `way_out(limits, OUTBOUND_CA_FILE=…)`."""
    return way_out


def way_out(limits: Limits = LIMITS, **environ: str) -> Client:
    return Outbound(AuthSettings.load("auth", {**NO_PROVIDER, **environ})).operators("identity_provider", limits)


class Announcement(NamedTuple):
    """An event in the outbox."""

    type: str
    target: str
    actor: str
    credential: str | None
    data: str


@dataclass
class House:
    """Auth's use cases, and what stands around them."""

    sessions: SessionService
    tokens: TokenService
    database: Database
    issuer: Door
    gateway: Bus
    bus: Bus
    superuser: asyncpg.Connection
    access_key: bytes
    refresh_key: bytes
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=123456))

    def pass_(self, **time: float) -> None:
        """Let time pass for auth."""
        self.now += timedelta(**time)

    def subject(self) -> str:
        return f"user_{secrets.token_hex(8)}"

    def person(self, subject: str) -> str:
        return ids.realm(self.issuer.url, subject)

    async def sign_in(self, subject: str, workspace: str | None = None, **more: Any) -> Grant:
        given = {"subject_token": self.issuer.sign(subject), "workspace_id": workspace, **more}
        return await self.sessions.exchange(GATEWAY, Exchange.model_validate(given))

    async def refresh(self, token: Grant | str, workspace: str | None = None) -> Grant:
        text = token if isinstance(token, str) else token.refresh_token.get_secret_value()
        command = Refresh.model_validate({"refresh_token": text, "workspace_id": workspace})
        return await self.sessions.refresh(GATEWAY, command)

    async def authenticate(self, token: Any) -> Identity:
        text = token if isinstance(token, str) else token.get_secret_value()
        return await self.tokens.authenticate(GATEWAY, Authenticate.model_validate({"token": text}))

    async def create_workspace(self, owner: str) -> str:
        """A workspace of a person, made by the real tenancy."""
        workspace = ids.new("ws")
        ctx = AuthContext(
            tenant=workspace,
            principal=owner,
            permissions=REALM_PERMISSIONS,
            credential=ids.new("ses"),
            request_id=ids.new("req"),
        )
        await self.gateway.call(ctx, CreateWorkspace(name="Acme", slug="acme"))
        return workspace

    async def remove_member(self, workspace: str, person: str) -> None:
        """Take a membership away, past the commit guard: tenancy has no use case for it yet."""
        async with self.superuser.transaction():
            await self.superuser.execute("SET LOCAL session_replication_role = replica")
            removed = await self.superuser.execute(
                "DELETE FROM tenancy.members WHERE workspace_id = $1 AND person_id = $2",
                ids.tenant_uuid(workspace),
                ids.decode(person, "usr"),
            )
        assert removed == "DELETE 1"

    async def sealed_value(self, tenant: str, purpose: str, record: str) -> str:
        """A value that auth had the vault store."""
        asking = replace(GATEWAY.of_tenant(tenant, Internal.OPEN_SEALED_VALUE), principal=tenant)
        answer = await self.bus.call(asking, OpenSealedValue(purpose=purpose, record=record))
        return answer.plaintext.get_secret_value()

    async def announced(self, tenant: str) -> list[Announcement]:
        """What auth announced in a tenant, in order."""
        rows = await self.superuser.fetch(
            "SELECT type, target, actor, credential, data FROM auth.outbox WHERE workspace_id = $1 ORDER BY seq",
            ids.tenant_uuid(tenant),
        )
        return [Announcement(*row) for row in rows]

    async def rows(self, table: str, tenant: str) -> list[dict[str, Any]]:
        """What is stored of a tenant."""
        found = await self.superuser.fetch(
            f"SELECT * FROM auth.{table} WHERE workspace_id = $1", ids.tenant_uuid(tenant)
        )
        return [dict(row) for row in found]

    async def types(self, tenant: str) -> list[str]:
        return [one.type for one in await self.announced(tenant)]

    def caller(self, tenant: str, principal: str | None = None, role: str = "owner", key: str = "") -> AuthContext:
        """Somebody with a session in a workspace."""
        made = context(tenant, principal, role)
        return replace(made, idempotency=Idempotency(key, "print")) if key else made


@pytest.fixture(scope="session")
async def superuser(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(servers.superuser_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def gateway(servers: Servers, compose: Callable[..., Any]) -> AsyncIterator[Bus]:
    """The gateway's place on the bus, with tenancy and vault to answer it."""
    await compose(tenancy.create, "tenancy")
    await compose(vault.create, "vault")
    async with servers.connected("gateway") as bus:
        yield bus


def environ(servers: Servers, issuer: Door) -> dict[str, str]:
    return {
        **servers.environ["auth"],
        "CLERK_JWKS_URL": issuer.jwks_url,
        "CLERK_AUTHORIZED_PARTIES": PARTY,
    }


@pytest.fixture(scope="module")
async def parts(
    servers: Servers, issuer: Door, gateway: Bus
) -> AsyncIterator[tuple[Application, Database, IdentityProvider]]:
    """What auth's app is built of, connected and answering nobody."""
    settings = AuthSettings.load("auth", environ(servers, issuer))
    application = Application(settings)
    database = application.database(metadata)
    provider = IdentityProvider(settings.jwks_url, way_out(), authorized_parties=settings.authorized_parties)
    application.after_serving(provider.close)
    await application.start()
    yield application, database, provider
    await application.stop()


@pytest.fixture
def house(
    parts: tuple[Application, Database, IdentityProvider], issuer: Door, gateway: Bus, superuser: asyncpg.Connection
) -> House:
    application, database, provider = parts
    issuer.instead = None
    access_key, refresh_key = application.keys.own("access-token/v1"), application.keys.own("refresh-token/v1")

    def now() -> datetime:
        return made.now

    sessions = SessionService(database, application.bus, provider, access_key, refresh_key, clock=now)
    tokens = TokenService(database, access_key, clock=now)
    made = House(sessions, tokens, database, issuer, gateway, application.bus, superuser, access_key, refresh_key)
    return made


@pytest.fixture(scope="module")
async def answering(servers: Servers, issuer: Door, gateway: Bus) -> AsyncIterator[Application]:
    application = app.create(environ(servers, issuer))
    await application.start()
    yield application
    await application.stop()
