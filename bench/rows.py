"""The rows of the bench: what is measured, and against which bar."""

import asyncio
import contextlib
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from bench.cpu import Processes, Turn
from bench.dev import dev, pss_megabytes
from bench.in_process import transactions
from bench.openbao import openbao
from bench.revocation import data_key_end, revocation, standing_end
from bench.run import HERE, Effort, Row, compare, free_port, in_turn, load, median, process, wait_for
from causeloop_cli import migrate
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import Consumer
from causeloop_dev.installation import UNLIMITED, Installation
from causeloop_dev.postgres import EmbeddedPostgres

CONNECTIONS = 16
IDLE_SECONDS = 20.0
REFERENCE = Consumer("reference", "EVENTS", "audit", ("evt.>",), ack_all=True)
"""The bare reader's own consumer; the row that needs it makes it."""
SERVICES = ("gateway", "auth", "tenancy", "vault", "audit")


@dataclass(frozen=True)
class Services:
    """Our five services and the mock issuer; `processes` are the services and their servers."""

    port: int
    issuer_port: int
    processes: Processes


@dataclass(frozen=True)
class Bed:
    """Everything that runs while HTTP rows are measured."""

    port: int
    reference_port: int
    token: str
    workspace: str
    house: dict[str, Any]
    processes: Processes
    """Of ours."""
    reference_processes: Processes

    def ours(self, requests: list[bytes], seconds: float) -> Turn:
        """A turn of load on our gateway."""
        return self.processes.during(partial(load, self.port, requests, seconds))

    def reference(self, requests: list[bytes], seconds: float) -> Turn:
        """A turn of load on the reference's gateway."""
        return self.reference_processes.during(partial(load, self.reference_port, requests, seconds))


@contextlib.contextmanager
def servers() -> Iterator[dict[str, Any]]:
    """PostgreSQL with fsync on disk, and NATS with what the references need: subjects, and a consumer of their own."""
    installation = Installation.new()
    own = '"cmd.vault.put_secret"'
    with mock.patch.object(topology, "CONSUMERS", (*topology.CONSUMERS, REFERENCE)):
        config = installation.nats_config().replace(own, f'{own}, "cmd.vault.reference.>"', 1)
    with (
        Janitor() as janitor,
        EmbeddedPostgres(fsync=True, janitor=janitor) as postgres,
        EmbeddedNats(config, janitor=janitor) as nats,
    ):
        secret, operator = installation.jwt_secret, installation.seeds["operator"]
        # The reference has the same tables in a database of its own, where no relay of ours works for it.
        reference_url = postgres.prepare(database="reference", password=secret)
        database_url = postgres.prepare(password=secret)
        with contextlib.redirect_stdout(io.StringIO()):
            asyncio.run(migrate.everything(reference_url, secret, None, None))
            asyncio.run(migrate.everything(database_url, secret, nats.url, operator))
        yield {
            "reference": {name: installation.environ(name, reference_url, nats.url) for name in SERVICES},
            "nats_url": nats.url,
            "superuser_url": postgres.superuser_url,
            "pids": {"nats": [nats.pid], "postgres": [postgres.pid]},
            "seeds": installation.seeds,
            "environ": {name: installation.environ(name, database_url, nats.url) for name in SERVICES},
        }


@contextlib.contextmanager
def services(house: dict[str, Any]) -> Iterator[Services]:
    """Our five services and the mock issuer, on servers that run."""
    with contextlib.ExitStack() as stack:
        issuer_port, port = free_port(), free_port()
        origin = f"http://127.0.0.1:{port}"
        issuer = f"from causeloop_dev.issuer import run; run({issuer_port}, {origin!r})"
        stack.enter_context(process(sys.executable, "-c", issuer))
        extra = {
            "PORT": str(port),
            "CLERK_JWKS_URL": f"http://127.0.0.1:{issuer_port}/.well-known/jwks.json",
            "CLERK_AUTHORIZED_PARTIES": origin,
            **UNLIMITED,
        }
        log = stack.enter_context(Path(os.devnull).open("w"))
        pids: dict[str, list[int]] = {}
        for name in SERVICES:
            environ = {**house["environ"][name], **extra, "PATH": os.environ["PATH"]}
            running = subprocess.Popen([sys.executable, "-m", "causeloop_cli", "serve", name], env=environ, stdout=log)
            stack.callback(running.wait, timeout=20)
            stack.callback(running.terminate)
            pids[name] = [running.pid]
        wait_for(lambda: _answers(f"{origin}/ready"))
        yield Services(port, issuer_port, Processes({**pids, **house["pids"]}))


@contextlib.contextmanager
def bed() -> Iterator[Bed]:
    """Our five services and the mock issuer, the reference's two processes, one database, one bus."""
    with contextlib.ExitStack() as stack:
        house = stack.enter_context(servers())
        ours = stack.enter_context(services(house))
        reference_port = free_port()
        token, workspace = _sign_up(f"http://127.0.0.1:{ours.port}", ours.issuer_port)
        reference = {
            "nats_url": house["nats_url"],
            "tenant": workspace,
            "workspace_uuid": str(ids.tenant_uuid(workspace)),
            "token": token,
            "port": reference_port,
            "dsn": house["reference"]["vault"]["DATABASE_URL_VAULT"],
        }
        script = str(HERE / "reference.py")
        pids: dict[str, list[int]] = {}
        for role, owner in (("service", "vault"), ("gateway", "gateway")):
            line = json.dumps({**reference, "seed": house["seeds"][owner]}) + "\n"
            running = stack.enter_context(process(sys.executable, script, role, stdin=line))
            pids[role] = [running.pid]
            if role == "service":
                assert running.stdout is not None
                running.stdout.readline()
        wait_for(lambda: _listens(reference_port))
        processes = Processes({**pids, **house["pids"]})
        yield Bed(ours.port, reference_port, token, workspace, house, ours.processes, processes)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _sign_up(origin: str, issuer_port: int) -> tuple[str, str]:
    """A person with a workspace and an access token for it."""
    with httpx.Client(base_url=f"{origin}/v1", timeout=10) as client:
        wait_for(lambda: _listens(issuer_port))
        issued = client.post(f"http://127.0.0.1:{issuer_port}/v1/sessions", json={"subject": "bench"}).json()

        def exchange() -> bool:
            return client.post("/auth/exchange", json={"subject_token": issued["token"]}).status_code == 200

        wait_for(exchange)
        realm = client.post("/auth/exchange", json={"subject_token": issued["token"]}).json()
        bearer = {"authorization": f"Bearer {realm['access_token']}"}
        made = client.post("/workspaces", json={"name": "Bench", "slug": "bench"}, headers=bearer).json()
        entered = client.post(
            "/auth/refresh", json={"refresh_token": realm["refresh_token"], "workspace_id": made["id"]}
        ).json()
        return entered["access_token"], made["id"]


def http_request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n"
    if method != "GET":
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def requests(method: str, more: str, token: str, body: bytes) -> list[bytes]:
    """One request per connection, each to a secret of its own: nobody waits for another's row."""
    return [http_request(method, f"/v1/secrets/bench/{number}{more}", token, body) for number in range(CONNECTIONS)]


@cache
def _http_rows(effort: Effort) -> dict[str, list[list[dict[str, Any]]]]:
    """All HTTP rows in one bed: ours, the reference, and for a write OpenBao where it is installed."""
    value = json.dumps({"value": "s" * 64}).encode()
    found: dict[str, list[list[dict[str, Any]]]] = {}
    with bed() as ready, openbao() as peer:
        for name, method, more, body in (
            ("secret_put", "PUT", "", value),
            ("secret_reveal", "POST", "/reveal", b""),
            ("authenticated_read", "GET", "", b""),
        ):
            asked = requests(method, more, ready.token, body)
            sides = [ready.ours(asked, effort.seconds), ready.reference(asked, effort.seconds)]
            if name == "secret_put" and peer is not None:
                data = json.dumps({"data": json.loads(value)}).encode()
                writes = [
                    http_request("POST", f"/v1/kv/data/bench/{number}", peer.token, data)
                    for number in range(CONNECTIONS)
                ]
                sides.append(peer.turn(writes, effort.seconds))
            found[name] = in_turn(sides, effort.rounds)
    return found


def authenticated_read(effort: Effort) -> Row:
    """GET of a secret's metadata: gateway, bus, row security."""
    return compare(*_http_rows(effort)["authenticated_read"], bar=0.85)


def secret_put(effort: Effort) -> Row:
    """PUT of a secret: durable, sealed, its event in the outbox. Ours also relays it and appends it to the log."""
    return compare(*_http_rows(effort)["secret_put"], bar=0.75, peer_bar=1.0)


def secret_reveal(effort: Effort) -> Row:
    """Reveal: the record is committed before the answer."""
    return compare(*_http_rows(effort)["secret_reveal"], bar=0.8)


def rls_transaction(effort: Effort) -> Row:
    """Our `Database` in process, against hand-written asyncpg on the same connection settings."""
    with servers() as house:
        ours, theirs = transactions(house["environ"]["vault"]["DATABASE_URL_VAULT"], effort)
    rate, reference_rate = median(ours, "rate"), median(theirs, "rate")
    return Row(rate, reference_rate, None, "1/s", "higher", ">= 0.95 of asyncpg", rate / reference_rate >= 0.95)


def dev_start(effort: Effort) -> Row:
    """`make dev` when installed, until it is ready with its demo workspace."""
    taken = []
    for _ in range(effort.rounds):
        with dev() as (ready_after, _pid):
            taken.append(ready_after)
    ready = statistics.median(taken)
    return Row(ready, None, None, "s", "lower", "<= 4 s", ready <= 4)


def _memory(limit: float, *options: str) -> Row:
    with dev(*options) as (_, pid):
        time.sleep(2)
        used = pss_megabytes(pid)
    return Row(used, None, None, "MB", "lower", f"<= {limit:.0f} MB PSS", used <= limit)


def dev_memory(effort: Effort) -> Row:
    """The whole stack of `make dev`, every service in a process of its own."""
    return _memory(350)


def dev_memory_one_process(effort: Effort) -> Row:
    """The whole stack with all services in one process."""
    return _memory(250, "--one-process")


def dev_idle(effort: Effort) -> Row:
    """The whole stack of `make dev` while nobody asks it anything, in percent of one core."""
    with dev() as (_, pid):
        time.sleep(2)
        tree, seconds = Processes({"all": [pid]}), IDLE_SECONDS * min(1, effort.seconds)
        before = tree.seconds()["all"]
        time.sleep(seconds)
        percent = 100 * (tree.seconds()["all"] - before) / seconds
    return Row(percent, None, None, "%", "lower", "<= 3 % of a core", percent <= 3)


ROWS = {
    "authenticated_read": authenticated_read,
    "secret_put": secret_put,
    "secret_reveal": secret_reveal,
    "rls_transaction": rls_transaction,
    "revocation": revocation,
    "standing_end": standing_end,
    "data_key_end": data_key_end,
    "dev_start": dev_start,
    "dev_memory": dev_memory,
    "dev_memory_one_process": dev_memory_one_process,
    "dev_idle": dev_idle,
}
