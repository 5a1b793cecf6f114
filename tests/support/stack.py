"""The whole house as processes: PostgreSQL, NATS, the mock issuer and the five services, each one its own.

    stack.sign_up()                    a person with a workspace of their own and tokens for it
    stack.kill("vault")                SIGKILL; `start` brings it back, `ready` waits for all of them
    stack.replicas("gateway", 2)       two more of a service for a while, such as gateway-2 and gateway-3
    stack.log("vault")                 what it logged, line by line

The servers are this stack's own, so that a test may kill them, and so that nothing that other tests run in this process
answers in place of a service. Every process ends with the test run, whatever ends it.
"""

import asyncio
import base64
import itertools
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
import nats
from nats.aio.client import Client

from causeloop_cli import migrate
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_cli.embedded.process import ServerProcess
from causeloop_client import AsyncClient
from causeloop_client.calls import (
    CreateApiToken,
    CreatedApiToken,
    CreateWorkspace,
    EventView,
    Exchange,
    ListEvents,
    Refresh,
)
from causeloop_common.contracts import topology
from causeloop_common.keys import reader_seed
from causeloop_common.messaging import Bus
from causeloop_common.settings import Settings
from causeloop_dev.installation import UNLIMITED, Installation
from causeloop_dev.postgres import EmbeddedPostgres
from tests.support.bus import observers, with_observers
from tests.support.documented import check_documented
from tests.support.forks import Child, Forks
from tests.support.ports import free_port

PARTY = "http://app.causeloop.test"
PATIENCE = 30.0
_ISSUER = "import sys; from causeloop_dev.issuer import run; run(int(sys.argv[1]), sys.argv[2])"
_INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "VIRTUAL_ENV", "SYSTEMROOT")

T = TypeVar("T")


async def until(what: str, ask: Callable[[], Awaitable[T]], *, seconds: float = PATIENCE, every: float = 0.02) -> T:
    """Ask again and again until the answer is true; it. Fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = await ask()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"After {seconds:g} s it is still not so: {what}. The last answer was {found!r}.")
        await asyncio.sleep(every)


@dataclass
class Person:
    """Somebody who signed in. `token` is for `workspace`, `realm_token` for the person's own realm."""

    stack: "Stack"
    subject: str
    id: str = ""
    realm_token: str = ""
    refresh_token: str = ""
    workspace: str = ""
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    async def call(
        self, method: str, path: str, *, token: str | None = None, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """A request as this person, in the workspace if there is one."""
        bearer = token or self.token or self.realm_token
        given = {"authorization": f"Bearer {bearer}", **self.headers, **(headers or {})}
        return await self.stack.http.request(method, f"/v1{path}", headers=given, **more)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        """GET."""
        return await self.call("GET", path, **more)

    async def post(self, path: str, **more: Any) -> httpx.Response:
        """POST."""
        return await self.call("POST", path, **more)

    async def put(self, path: str, **more: Any) -> httpx.Response:
        """PUT."""
        return await self.call("PUT", path, **more)

    async def delete(self, path: str, **more: Any) -> httpx.Response:
        """DELETE."""
        return await self.call("DELETE", path, **more)

    def client(self, token: str | None = None) -> AsyncClient:
        """The client that users have, as this person."""
        return self.stack.client(token or self.token or self.realm_token)

    async def sign_in(self) -> None:
        """A new session, in the realm."""
        session = await self.stack.session(self.subject)
        granted = await self.stack.client().send(Exchange(subject_token=session))
        self.realm_token, self.refresh_token = granted["access_token"], granted["refresh_token"]
        self.id = handle_tenant(self.refresh_token)

    async def move(self, workspace: str) -> None:
        """Move the session into a workspace."""
        granted = await self.stack.client().send(Refresh(refresh_token=self.refresh_token, workspace_id=workspace))
        self.token, self.refresh_token, self.workspace = granted["access_token"], granted["refresh_token"], workspace

    async def create_workspace(self, name: str = "Acme", slug: str = "acme") -> str:
        """Make a workspace and move into it."""
        made = await self.client(self.realm_token).send(CreateWorkspace(name=name, slug=slug))
        await self.move(made["id"])
        return self.workspace

    async def personal_token(self, *scopes: str, name: str = "a token") -> CreatedApiToken:
        """A personal access token, as it was shown."""
        return await self.client().send(CreateApiToken(name=name, scopes=list(scopes)))

    async def log(self, *, least: int = 0) -> list[EventView]:
        """The workspace's acts by index, once there are at least `least`; refusals, which come later, left out."""

        async def read() -> list[EventView] | None:
            entries = [entry async for entry in self.client().items(ListEvents(order="index", limit=100))]
            acts = [entry for entry in entries if not entry["action"].startswith("gateway.")]
            return acts if len(acts) >= least else None

        return await until(f"the log has {least} entries", read) or []

    async def pages(self, path: str, **more: Any) -> AsyncIterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        joint = "&" if "?" in path else "?"
        while True:
            page = content_of(await self.get(path if cursor is None else f"{path}{joint}cursor={cursor}", **more))
            for item in page["data"]:
                yield item
            cursor = page["page"]["next_cursor"]
            if cursor is None:
                return


def content_of(response: httpx.Response, status: int = 200) -> Any:
    """The JSON of an answer that has to have this status."""
    assert response.status_code == status, (response.status_code, response.text[:500])
    return response.json() if response.content else None


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem of an answer that has to be this refusal."""
    assert response.status_code == status, (response.status_code, response.text[:500])
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status, problem
    assert problem["type"] == f"urn:causeloop:problem:{code}", problem
    assert problem["trace_id"] == response.headers["x-request-id"], problem
    assert problem["title"], problem
    assert problem["detail"].endswith("."), problem
    assert set(problem) <= {"type", "title", "status", "detail", "code", "trace_id", "errors"}, problem
    return problem


def handle_tenant(handle: str) -> str:
    """The tenant that a refresh token or personal access token carries in clear."""
    _, _, kind, suffix, *_ = handle.split("_")
    return f"{kind}_{suffix}"


class Stack:
    """Servers, issuer and services. `observed` adds a user to each account of the bus who is permitted everything;
    without `forked`, each service is a `causeloop serve` of its own; `more` is for the environment of every service."""

    def __init__(
        self,
        folder: Path,
        janitor: Janitor,
        *,
        observed: bool = False,
        fsync: bool = False,
        forked: bool = True,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._forked = forked
        self._more = dict(more or {})
        self._janitor = janitor
        self.installation = Installation.new()
        self.observers = observers()
        config = self.installation.nats_config()
        if observed:
            config = with_observers(config, self.observers)
        self.postgres = EmbeddedPostgres(fsync=fsync, janitor=janitor)
        self.nats = EmbeddedNats(config, janitor=janitor)
        self.processes: dict[str, ServerProcess | Child] = {}
        self._forks: Forks | None = None
        self.environ: dict[str, dict[str, str]] = {}
        self.issuer_url = ""
        self.http = httpx.AsyncClient(trust_env=False)
        # A connection that was idle may be closed at the very moment when it is used again: none is used twice.
        self.issuer_http = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        self._left: list[httpx.AsyncClient] = []
        self._ops: dict[str, int] = {}
        self._numbers = itertools.count(2)

    async def start_all(self) -> None:
        """Start everything and wait until it is ready."""
        if self._forked:
            self._forks = Forks()  # it imports while the servers start
        self.postgres.start()
        self.nats.start()
        database_url = self.postgres.prepare()
        secret, seeds = self.installation.jwt_secret, self.installation.seeds
        await migrate.everything(database_url, secret, self.nats.url, seeds["operator"])
        issuer_port, port = free_port(), free_port()
        self.issuer_url = f"http://127.0.0.1:{issuer_port}"
        own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        for name in topology.SERVICES:
            self._ops[name] = free_port()
            self.environ[name] = {
                **own,
                **self.installation.environ(name, database_url, self.nats.url),
                "CAUSELOOP_OPS_PORT": str(self._ops[name]),
                **self._more,
            }
        self.environ["gateway"] |= {"PORT": str(port), "CORS_ORIGINS": PARTY, **UNLIMITED}
        self.environ["audit"].setdefault("CHECKPOINT_SECONDS", "0.5")
        self.environ["auth"] |= {
            "CLERK_JWKS_URL": f"{self.issuer_url}/.well-known/jwks.json",
            "CLERK_AUTHORIZED_PARTIES": PARTY,
        }
        self._run("issuer", ["-c", _ISSUER, str(issuer_port), PARTY], own)
        await self.start(*topology.SERVICES)

    async def stop_all(self) -> None:
        """Stop everything, the services all at once."""
        for client in (self.http, self.issuer_http, *self._left):
            await client.aclose()
        for process in self.processes.values():
            if process.alive():
                os.kill(process.pid, signal.SIGTERM)
        for process in self.processes.values():
            process.stop()
        if self._forks is not None:
            self._forks.close()
        self.nats.stop()
        self.postgres.stop()

    async def start(self, *services: str, wait: bool = True) -> None:
        """Start services, or replicas of them, that do not run; return when everything is ready."""
        for name in services:
            service, environ = name.partition("-")[0], self.environ[name]
            if self._forks is None:
                self._run(name, ["-m", "causeloop_cli", "serve", service], environ)
            else:
                self.processes[name] = self._forks.start(service, environ, self._log_file(name))
        if "gateway" in services:  # nobody is to find a connection to the one before
            self._left.append(self.http)
            self.http = httpx.AsyncClient(
                base_url=self.url,
                trust_env=False,
                timeout=20,
                event_hooks={"response": [check_documented]},
                limits=httpx.Limits(max_connections=200, max_keepalive_connections=200),
            )
        if wait:
            await self.ready()

    def kill(self, *services: str) -> None:
        """End services at once, as a crash does."""
        for name in services:
            os.kill(self.processes[name].pid, signal.SIGKILL)
        for name in services:
            self.processes[name].wait(10)

    async def restart(self, *services: str) -> None:
        """Kill services and start them again."""
        self.kill(*services)
        await self.start(*services)

    @asynccontextmanager
    async def replicas(self, service: str, more: int, **environ: str) -> AsyncIterator[list[str]]:
        """So many more of a service while the block runs, ready; their names. `environ` is what is other for them."""
        names = [f"{service}-{next(self._numbers)}" for _ in range(more)]
        for name in names:
            self._ops[name] = free_port()
            self.environ[name] = {**self.environ[service], "CAUSELOOP_OPS_PORT": str(self._ops[name])}
            if service == "gateway":
                self.environ[name]["PORT"] = str(free_port())
            self.environ[name] |= environ
        try:
            await self.start(*names)
            yield names
        finally:
            for name in names:
                if (process := self.processes.pop(name, None)) is not None:
                    process.stop()
                del self._ops[name]

    async def mend(self) -> None:
        """Wake what was put to sleep and start what ended: a test that failed leaves it to the next one."""
        for server in (self.postgres, self.nats):
            if not server.alive():
                server.restart()
        running = [process.pid for process in self.processes.values() if process.alive()]
        for pid in (self.postgres.pid, self.nats.pid, *running):
            os.kill(pid, signal.SIGCONT)
        await self.start(*(name for name in self._ops if not self.processes[name].alive()))

    def _run(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.processes[name] = ServerProcess(
            [sys.executable, *arguments], log=self._log_file(name), janitor=self._janitor, environment=environ
        )

    def _log_file(self, process: str) -> Path:
        return self.folder / f"{process}.log"

    async def ready(self, *, seconds: float = PATIENCE) -> None:
        """Wait until the issuer answers and every service is ready."""

        async def ask() -> bool:
            for name, process in self.processes.items():
                assert process.alive(), f"{name} ended: {self.raw_log(name)[-2000:].decode()}"
            answers = await asyncio.gather(*map(self.readiness, self._ops))
            return await self._issues() and all(answer.get("status") == "ready" for answer in answers)

        await until("everything is ready", ask, seconds=seconds, every=0.05)

    async def _issues(self) -> bool:
        try:
            return (await self.issuer_http.get(f"{self.issuer_url}/.well-known/jwks.json")).is_success
        except httpx.HTTPError:
            return False

    async def readiness(self, service: str) -> dict[str, Any]:
        """The answer of a service's /ready; empty while it does not listen."""
        try:
            answer = await self.issuer_http.get(self.ops_url(service, "/ready"), timeout=5)
        except httpx.HTTPError:
            return {}
        return dict(answer.json())

    def ops_url(self, service: str, path: str) -> str:
        """An address of a service's operations port."""
        return f"http://127.0.0.1:{self._ops[service]}{path}"

    async def metrics(self, service: str) -> str:
        """The text of a service's /metrics."""
        return (await self.issuer_http.get(self.ops_url(service, "/metrics"))).text

    async def metric(self, service: str, name: str) -> float:
        """The value of one metric with its labels; 0 while it is not there."""
        values = [line.rpartition(" ") for line in (await self.metrics(service)).splitlines()]
        return next((float(value) for series, _, value in values if series == name), 0.0)

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The gateway's port."""
        return self.port_of("gateway")

    def port_of(self, gateway: str) -> int:
        """The port of one of several gateways."""
        return int(self.environ[gateway]["PORT"])

    def raw_log(self, process: str) -> bytes:
        """All that a process wrote."""
        return self._log_file(process).read_bytes()

    def log(self, service: str) -> list[dict[str, Any]]:
        """What a service logged, each line an object."""
        return [json.loads(line) for line in self.raw_log(service).splitlines() if line.startswith(b"{")]

    # People

    def client(self, token: str = "") -> AsyncClient:
        """The client that users have."""
        return AsyncClient(self.url, token, http=self.http)

    async def session(self, subject: str, **more: Any) -> str:
        """A session token of the mock issuer."""
        body = {"subject": subject, **more}
        return str(content_of(await self.issuer_http.post(f"{self.issuer_url}/v1/sessions", json=body))["token"])

    async def exchange(self, subject: str, **more: Any) -> httpx.Response:
        """Exchange a fresh session of a subject."""
        return await self.http.post("/v1/auth/exchange", json={"subject_token": await self.session(subject), **more})

    async def sign_up(self, *, workspace: bool = True) -> Person:
        """A new person, with a workspace of their own (or without one), whose keyring is prepared by then."""
        person = Person(self, f"user_{secrets.token_hex(8)}")
        await person.sign_in()
        if workspace:
            await person.create_workspace()
            await person.log(least=3)
        return person

    # Behind the scenes

    def keys(self, service: str) -> dict[str, bytes]:
        """Every key that a service was given, by pair, and its own."""
        text = self.environ[service][f"CAUSELOOP_KEYS_{service.upper()}"]
        held = json.loads(base64.urlsafe_b64decode(text))
        return {name: base64.b64decode(key) for name, key in {**held["pairs"], "own": held["own"]}.items()}

    @asynccontextmanager
    async def sql(self, url: str | None = None) -> AsyncIterator[Any]:
        """A database connection, as superuser or by another URL."""
        connection = await asyncpg.connect(url or self.superuser_url)
        try:
            yield connection
        finally:
            await connection.close()

    @property
    def superuser_url(self) -> str:
        """The services' database, seen past row security."""
        return self.postgres.superuser_url.replace("/postgres?", "/causeloop?")

    def database_url(self, role: str) -> str:
        """The database as one of the services' login roles."""
        service = role.split("_")[1]
        return self.environ[service][f"DATABASE_URL_{role.removeprefix('causeloop_').upper()}"]

    @asynccontextmanager
    async def on_bus(
        self, service: str | None, *, account: str = topology.SERVICES_ACCOUNT, **more: Any
    ) -> AsyncIterator[Client]:
        """A connection to the bus with a credential, or as the observer of an account."""
        inbox = "_INBOX.observer" if service is None else topology.inbox(service)
        if service is None:
            seed = self.observers[account]
        elif service in self.installation.seeds:
            seed = self.installation.seeds[service]
        else:
            seed = reader_seed(self.installation.seeds[service.removesuffix("_reader")])
        client = await nats.connect(
            self.nats.url, nkeys_seed_str=seed, inbox_prefix=inbox, allow_reconnect=False, **more
        )
        try:
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def bus_of(self, service: str) -> AsyncIterator[Bus]:
        """A service's own `Bus`, to ask what that service could ask."""
        settings = Settings.load(service, self.environ[service])
        bus = Bus(settings, settings.keyring())
        await bus.connect()
        try:
            yield bus
        finally:
            await bus.close()
