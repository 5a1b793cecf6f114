"""`causeloop dev`: everything on this machine, nothing else needed. What `make dev` runs.

    folder taken ─► PostgreSQL and NATS start while the services are imported ─► migrated
    ─► issuer and services forked ─► every /ready answers ─► demo workspace ─► dev.json, banner ─► watched

Forked after import, so that a service starts at once and shares memory. Each gets its own keys and credentials and
nobody else's, as in production. Ctrl-C stops services, issuer, NATS and PostgreSQL, in this order; should this
process be killed, the pact of each process and the janitor see to it.
"""

import argparse
import contextlib
import gc
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from causeloop_cli.embedded import EmbeddedNats, Janitor, ServerFailed
from causeloop_cli.running_dev import NAME
from causeloop_common.contracts.topology import SERVICES
from causeloop_dev import banner, seed
from causeloop_dev.folder import DevFolder
from causeloop_dev.forked import CAUGHT, Forked
from causeloop_dev.installation import Installation
from causeloop_dev.postgres import EmbeddedPostgres
from causeloop_dev.processes import (
    ALL_IN_ONE,
    Addresses,
    environs,
    gateway_port,
    issuing,
    migrating,
    serving,
)
from causeloop_dev.supervisor import Supervisor, report

_READY_SECONDS = 90.0
_HOPELESS_CRASHES = 3


def main(options: argparse.Namespace) -> int:
    """Run until Ctrl-C or SIGTERM, which are a good end."""
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        Dev(options, stack).run()
    for number in CAUGHT:
        signal.signal(number, signal.SIG_IGN)  # everything is stopped: only this process is left to end
    return 0


def _import_services() -> None:
    from causeloop_cli import services

    services.preload()


class Dev:
    """One run of the whole stack."""

    def __init__(self, options: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        """Take the folder and the ports, before anything is started."""
        self._began = time.monotonic()
        self._seeds = not options.no_seed
        self._data = Path(options.data).absolute() if options.data else None
        self._stack = stack
        self._supervisor = stack.enter_context(Supervisor(changed=self._changed))
        self._folder = stack.enter_context(DevFolder(Path(NAME)))
        self._processes = (ALL_IN_ONE,) if options.one_process else SERVICES
        port = gateway_port(options.port)
        if unused := [name for name in ("DATABASE_URL", "NATS_URL") if os.environ.get(name)]:
            report(f"{' and '.join(unused)} not used: this brings its own servers. Use `causeloop serve` with yours.")
        self._installation = Installation.kept_in(self._data) if self._data else Installation.new()
        self._addresses = Addresses.chosen(port, self._processes, self._data)
        self._janitor = stack.enter_context(Janitor())
        self._ready: dict[str, object] | None = None

    def run(self) -> None:
        """Start, seed, print, and watch until KeyboardInterrupt."""
        self._start_servers()
        self._migrate()
        self._start_services()
        addresses = self._addresses
        made = None
        with httpx.Client(trust_env=False) as http:  # no thread and no event loop, since this process forks
            self._await_ready(http)
            if self._seeds:
                keep = self._data / "demo.json" if self._data else None
                made = seed.workspace(http, addresses.gateway_url, addresses.issuer_url, keep)
        self._ready = {
            "gateway_url": addresses.gateway_url,
            "issuer_url": addresses.issuer_url,
            "nats_url": self._nats.url,
            "database_url": self._database_url,
            "ops_urls": addresses.ops_urls,
            "workspace_id": made.workspace_id if made else None,
            "tokens": made.tokens if made else {},
        }
        self._folder.write("environ.json", self._environs)
        self._changed()
        seconds = time.monotonic() - self._began
        kept = str(self._data) if self._data else None
        print(banner.text(addresses.gateway_url, addresses.issuer_url, made, data=kept, seconds=seconds), flush=True)
        self._supervisor.run()

    def _start_servers(self) -> None:
        """PostgreSQL and NATS from this thread, the imports meanwhile in another, which is gone before any fork."""
        data, janitor = self._data, self._janitor
        self._postgres = EmbeddedPostgres(data / "postgres" if data else None, janitor=janitor)
        self._nats = EmbeddedNats(self._installation.nats_config(), data / "nats" if data else None, janitor=janitor)
        with ThreadPoolExecutor(1) as importer:
            imported = importer.submit(_import_services)
            for server in (self._postgres, self._nats):
                self._stack.enter_context(server)
                self._supervisor.look()
            self._database_url = self._postgres.prepare()
        imported.result()
        for server in (self._postgres, self._nats):
            self._supervisor.watch(server)
        gc.collect()
        gc.freeze()  # these objects stay untouched, so that children go on sharing them

    def _migrate(self) -> None:
        body = migrating(self._database_url, self._nats.url, self._installation)
        [migration] = self._start([Forked("migrate", body, {}, log=self._folder.log("migrate"), janitor=self._janitor)])
        while migration.alive():
            self._supervisor.sleep(0.1)
        if migration.code != 0:
            raise ServerFailed(f"The migration {migration.ending}. The reason is in its log: {migration.log}")

    def _start_services(self) -> None:
        made = environs(self._installation, self._addresses, self._database_url, self._nats.url)
        self._environs = made
        issuer = Forked("issuer", issuing(self._addresses), {}, log=self._folder.log("issuer"), janitor=self._janitor)
        forked = []
        for name in self._processes:
            names = SERVICES if name == ALL_IN_ONE else (name,)
            environ = {variable: value for service in names for variable, value in made[service].items()}
            body, log = serving(names, environ), self._folder.log(name)
            forked.append(Forked(name, body, environ, log=log, janitor=self._janitor))
        for child in (*self._start([issuer]), *self._start(forked)):
            self._supervisor.watch(child)

    def _start(self, children: list[Forked]) -> list[Forked]:
        """Start them; on the way out they are stopped together, before what was started earlier."""
        self._stack.callback(self._supervisor.stop, children)
        for child in children:
            child.start()
        return children

    def _await_ready(self, http: httpx.Client) -> None:
        """Wait for every /ready; give up on a process that crashes again and again, and name its log."""
        addresses = self._addresses
        waiting = {name: f"{addresses.ops_urls[name]}/ready" for name in SERVICES}
        waiting |= {"the gateway": f"{addresses.gateway_url}/ready"}
        waiting |= {"issuer": f"{addresses.issuer_url}/.well-known/jwks.json"}
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            for name, url in [*waiting.items()]:
                with contextlib.suppress(httpx.TransportError):
                    if http.get(url).status_code == 200:
                        del waiting[name]
            if not waiting:
                return
            self._supervisor.sleep(0.03)
            hopeless = [n for n in self._supervisor.pids() if self._supervisor.crashes(n) >= _HOPELESS_CRASHES]
            if hopeless or time.monotonic() > deadline:
                names = " and ".join(hopeless or waiting)
                raise ServerFailed(f"{names} did not become ready. See the logs: {self._folder.path / 'logs'}")

    def _changed(self) -> None:
        """Write dev.json again: a restarted process has another id."""
        if self._ready is None:
            return
        pids = self._supervisor.pids()
        if (common := pids.pop(ALL_IN_ONE, None)) is not None:
            pids |= dict.fromkeys(SERVICES, common)
        pids["nats"] = pids.pop(self._nats.name)
        pids |= {"supervisor": os.getpid(), "janitor": self._janitor.pid or 0}
        self._folder.write("dev.json", {**self._ready, "pids": pids})
