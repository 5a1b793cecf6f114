"""A real PgBouncer between a service and the tests' PostgreSQL, where the binary is there."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from causeloop_common.database_url import DatabaseUrl
from tests.support.ports import free_port

BINARY = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
NOBODY = 65534

needs_pgbouncer = pytest.mark.skipif(
    BINARY is None, reason="needs PgBouncer, which is not in the path: the package `pgbouncer` of Debian has it"
)


def version() -> tuple[int, int]:
    """Major and minor version of the binary."""
    assert BINARY is not None
    shown = subprocess.run([BINARY, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    major, minor, *_ = shown.split(".")
    return int(major), int(minor)


@contextmanager
def pooler(
    folder: Path, server: DatabaseUrl, passwords: Mapping[str, str], mode: str, **settings: object
) -> Iterator[DatabaseUrl]:
    """Run one in this mode; its address, without a role."""
    assert BINARY is not None
    (socket, port), own = server.hosts[0], free_port()
    home = folder / f"pgbouncer-{own}"
    home.mkdir()
    users = home / "users"
    users.write_text("".join(f'"{role}" "{password}"\n' for role, password in passwords.items()))
    given = {
        "listen_addr": "127.0.0.1",
        "listen_port": own,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": users,
        "pool_mode": mode,
        "default_pool_size": 20,
        "max_client_conn": 200,
        "logfile": home / "log",
    } | settings
    lines = [
        "[databases]",
        f"{server.database} = host={socket} port={port}",
        "[pgbouncer]",
        *(f"{name} = {value}" for name, value in given.items()),
    ]
    config = home / "pgbouncer.ini"
    config.write_text("\n".join(lines) + "\n")
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    if who:
        for path in (home, users, config):
            os.chown(path, NOBODY, NOBODY)
        for path in (folder, *folder.parents):
            if path.stat().st_uid == 0 and path != Path("/") and path.stat().st_mode & 0o001 == 0:
                path.chmod(path.stat().st_mode | 0o001)
    process = subprocess.Popen([BINARY, "-q", str(config)], stdin=subprocess.DEVNULL, **who)  # type: ignore[call-overload]
    try:
        _await_listening(home / "log", process)
        yield DatabaseUrl.read(f"postgresql://127.0.0.1:{own}/{server.database}")
    finally:
        process.terminate()
        process.wait(10)


def _await_listening(log: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 10
    while not (log.exists() and "process up" in log.read_text()):
        assert process.poll() is None, log.read_text() if log.exists() else "PgBouncer did not start."
        assert time.monotonic() < deadline, "PgBouncer did not start."
        time.sleep(0.02)
