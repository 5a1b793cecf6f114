"""The pytest plugin: real PostgreSQL and NATS for every test, a workspace of its own for each.

    servers      one embedded PostgreSQL and NATS for the whole run, migrated as a non-superuser
    compose      starts a service's Application in this process, on these servers, and stops it after the test's module
    workspace    a fresh tenant and an owner's context in it; row security is the isolation, nothing is cleaned up
    as_user      a fresh person's context in a given tenant

`pytest --containers` takes PostgreSQL and NATS from containers instead (testcontainers; needs an engine and images).
"""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.messaging import Bus
from causeloop_common.permissions import ROLES
from causeloop_common.settings import Settings


@dataclass(frozen=True)
class Servers:
    """How to reach the servers of this run. `environ` is each service's own environment."""

    database_url: str
    superuser_url: str
    nats_url: str
    jwt_secret: str
    seeds: dict[str, str]
    environ: dict[str, dict[str, str]]
    pids: dict[str, int]

    def bus(self, service: str) -> Bus:
        """A service's place on the bus, not yet taken."""
        settings = Settings.load(service, self.environ[service])
        return Bus(settings, settings.keyring())

    @asynccontextmanager
    async def connected(self, service: str) -> AsyncIterator[Bus]:
        """A service's place on the bus, taken for as long."""
        bus = self.bus(service)
        await bus.connect()
        try:
            yield bus
        finally:
            await bus.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--containers`."""
    parser.addoption("--containers", action="store_true", help="PostgreSQL and NATS from containers")


@pytest.fixture(scope="session", autouse=True)
def _foreground() -> Iterator[None]:
    """Let the processes that tests start obey Ctrl-C: what a shell starts with `&` ignores it, and its children do."""
    signals = (signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)
    before = [signal.signal(number, handler) for number, handler in signals]
    yield
    for (number, _), handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """One PostgreSQL and one NATS for the whole run. They end with this process, whatever ends it."""
    chosen = ["--containers"] if request.config.getoption("--containers") else []
    process = subprocess.Popen(
        [sys.executable, "-m", "causeloop_cli", "servers", *chosen], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = process.stdout.readline()
        if not line:
            pytest.exit("The embedded servers did not start; see above.", returncode=1)
        yield Servers(**json.loads(line))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(timeout=30)


def person() -> str:
    """A new person."""
    return ids.realm("https://issuer.test", ids.new("sub"))


def context(tenant: str, principal: str | None = None, role: str = "owner") -> AuthContext:
    """The context of a request by a person with a role in a tenant."""
    return AuthContext(
        tenant=tenant,
        principal=principal or person(),
        permissions=ROLES[role],
        credential=ids.new("ses"),
        issuer="gateway",
        request_id=ids.new("req"),
    )


@pytest.fixture
def workspace() -> AuthContext:
    """An owner's context in a fresh workspace."""
    return context(ids.new("ws"))


@pytest.fixture
def as_user() -> Callable[..., AuthContext]:
    """Make the context of a fresh person: `as_user(tenant, role="viewer")`."""

    def make(tenant: str, role: str = "owner") -> AuthContext:
        return context(tenant, role=role)

    return make


@pytest.fixture(scope="module")
async def compose(servers: Servers) -> AsyncIterator[Callable[..., Any]]:
    """Starts a service in this process, given its `app.create`, its name and more of its environment."""
    started = []

    async def make(create: Callable[[Mapping[str, str]], Any], service: str, **more: str) -> Any:
        application = create({**servers.environ[service], **more})
        await application.start()
        started.append(application)
        return application

    yield make
    for application in reversed(started):
        await application.stop()
