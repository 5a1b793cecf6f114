"""`causeloop dev` as a developer has it: a real process in a folder of its own, stopped, killed and started again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from causeloop_cli import services
from causeloop_cli.embedded import ServerFailed, janitor as janitor_program
from causeloop_dev.folder import DevFolder
from causeloop_dev.installation import Installation
from causeloop_dev.processes import Addresses, environs, gateway_port
from tests.support.ports import free_port

SERVICES = {"gateway", "auth", "tenancy", "vault", "audit"}
PATIENCE = 60.0


def until(what: str, holds: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Ask until the answer is true; it."""
    deadline = time.monotonic() + seconds
    while not (shown := holds()):
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.02)
    return shown


def ask(method: str, url: str, **more: Any) -> list[httpx.Response]:
    """The answer, if there is one."""
    try:
        return [httpx.request(method, url, timeout=10, trust_env=False, **more)]
    except httpx.TransportError:
        return []


def family(pid: int) -> set[int]:
    """The process and all that descend from it."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.splitlines()
    parents = {int(child): int(parent) for child, parent in (line.split() for line in lines)}
    found, new = {pid}, {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


class Dev:
    """One `causeloop dev`, and all that belongs to it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.path = folder / ".causeloop" / "dev.json"
        self.output = folder / f"output-{time.monotonic_ns()}.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "causeloop_cli", "dev", *options],
                cwd=folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.belongings: set[tuple[int, str]] = set()
        self.places: list[Path] = []

    def ready(self) -> "Dev":
        """Wait until it prints so, and note what belongs to it."""
        until("ready", lambda: self.process.poll() is not None or "Causeloop is ready" in self.printed)
        assert self.process.poll() is None, self.printed
        for pid in family(self.process.pid):
            if (moment := janitor_program.started(pid)) is not None:
                self.belongings.add((pid, moment))
        socket_folder = re.search(r"host=([^&]+)", self.left_for_scripts["database_url"])
        assert socket_folder is not None
        arguments = Path(f"/proc/{self.left_for_scripts['pids']['nats']}/cmdline").read_bytes().split(b"\0")
        self.places = [Path(socket_folder[1]).parent, Path(os.fsdecode(arguments[2])).parent]
        assert all(place.exists() for place in self.places)
        return self

    @property
    def printed(self) -> str:
        return self.output.read_text()

    @property
    def left_for_scripts(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_text()))

    def call(self, method: str, path: str, body: Any = None, role: str = "owner") -> httpx.Response:
        """The answer to a request with the role's token, asked again while the house recovers."""

        def answered() -> list[httpx.Response]:
            ready = self.left_for_scripts
            bearer = {"authorization": f"Bearer {ready['tokens'][role]}"}
            answer = ask(method, f"{ready['gateway_url']}/v1{path}", json=body, headers=bearer)
            return [one for one in answer if one.status_code not in (503, 504)]

        found: list[httpx.Response] = until(f"{method} {path} is answered", answered)
        return found[0]

    def kill(self, name: str) -> None:
        """SIGKILL one of its processes and wait until another has taken its place."""
        before = self.left_for_scripts["pids"][name]
        os.kill(before, signal.SIGKILL)
        until(f"{name} is started again", lambda: self.left_for_scripts["pids"][name] != before)
        self.belongings |= {
            (pid, moment) for pid in family(self.process.pid) if (moment := janitor_program.started(pid)) is not None
        }

    def end(self, number: signal.Signals, seconds: float = 30.0) -> int:
        """Signal the supervisor; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def left(self) -> list[str]:
        """What is still there of it."""
        processes = [str(pid) for pid, moment in self.belongings if janitor_program.started(pid) == moment]
        return processes + [
            str(place) for place in self.places if place.exists() and place.name.startswith("causeloop-")
        ]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    started: list[Dev] = []

    def make(*options: str) -> Dev:
        started.append(Dev(tmp_path, "--port", str(free_port()), *options))
        return started[-1]

    yield make
    for dev in started:
        if dev.process.poll() is None:
            dev.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One that most tests share; that it leaves nothing is asserted when they are done."""
    running = Dev(tmp_path_factory.mktemp("dev"), "--port", str(free_port())).ready()
    try:
        yield running
    finally:
        code = running.end(signal.SIGINT)
    assert code == 0
    assert running.left() == []
    assert not running.path.exists()
    assert sorted(path.name for path in running.path.parent.iterdir()) == [".gitignore", "logs"]


class TestReady:
    def test_dev_json_tells_scripts_everything_and_only_its_owner(self, dev: Dev) -> None:
        shown = dev.left_for_scripts
        assert dev.path.stat().st_mode & 0o777 == 0o600
        assert set(shown["ops_urls"]) == SERVICES
        assert set(shown["tokens"]) == {"owner", "viewer"}
        assert shown["workspace_id"].startswith("ws_")
        assert shown["nats_url"].startswith("nats://127.0.0.1:")
        assert shown["pids"]["supervisor"] == dev.process.pid
        assert set(shown["pids"]) == SERVICES | {"issuer", "postgres", "nats", "supervisor", "janitor"}
        assert len({shown["pids"][name] for name in SERVICES}) == 5
        assert set(shown["pids"].values()) <= family(dev.process.pid)

    def test_every_process_is_ready(self, dev: Dev) -> None:
        for url in (*dev.left_for_scripts["ops_urls"].values(), dev.left_for_scripts["gateway_url"]):
            [answer] = ask("GET", f"{url}/ready")
            assert answer.status_code == 200

    def test_the_printed_lines_work_as_they_are(self, dev: Dev) -> None:
        """F12: nothing that was printed led to a session, which six operations need."""
        lines = [
            line.strip()
            for line in dev.printed.splitlines()
            if line.strip().startswith(("export CAUSELOOP_TOKEN=", "curl ", "SESSION=", "ACCESS_TOKEN="))
        ]
        assert len(lines) == 7
        if shutil.which("curl") is None:
            pytest.skip("there is no curl on this machine")

        done = subprocess.run(
            ["sh", "-ec", "\n".join(lines)], cwd=dev.folder, capture_output=True, text=True, check=True
        )

        put, revealed, events, workspaces = (json.loads(line) for line in done.stdout.splitlines())
        assert put["version"] == 1
        assert revealed["value"] == "world"
        assert {"index", "action", "actor", "target"} <= set(events["data"][0])
        assert dev.left_for_scripts["workspace_id"] in [workspace["workspace_id"] for workspace in workspaces["data"]]

    def test_the_demo_secret_is_there_and_its_reveal_is_on_record(self, dev: Dev) -> None:
        assert dev.call("POST", "/secrets/demo/greeting/reveal", {}).json()["value"] == "Hello from Causeloop."
        events = until(
            "the record", lambda: dev.call("GET", "/audit/events?action=vault.secret_revealed").json()["data"]
        )
        assert events[0]["target"].startswith("sec_")

    def test_the_viewer_reads_and_cannot_reveal(self, dev: Dev) -> None:
        assert dev.call("GET", "/secrets", role="viewer").status_code == 200
        assert dev.call("GET", "/audit/events", role="viewer").status_code == 200
        assert dev.call("POST", "/secrets/demo/greeting/reveal", {}, role="viewer").status_code == 403

    def test_no_token_is_shown_or_logged(self, dev: Dev) -> None:
        written = dev.printed + "".join(log.read_text() for log in (dev.path.parent / "logs").iterdir())
        assert not [role for role, token in dev.left_for_scripts["tokens"].items() if token in written]

    def test_the_doctor_finds_it_healthy(self, dev: Dev) -> None:
        command = [sys.executable, "-m", "causeloop_cli", "doctor"]
        environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}

        done = subprocess.run(command, cwd=dev.folder, env=environ, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAIL" not in done.stdout
        assert "vault    master_key" in done.stdout

    def test_a_second_one_in_the_same_folder_is_refused(self, dev: Dev) -> None:
        second = subprocess.run(
            [sys.executable, "-m", "causeloop_cli", "dev", "--port", str(free_port())],
            cwd=dev.folder,
            capture_output=True,
            text=True,
            check=False,
        )

        assert second.returncode == 2
        assert re.search(rf"Another `causeloop dev` runs in .* \(process {dev.process.pid}\)\.", second.stderr)
        assert dev.call("GET", "/workspace").status_code == 200


class TestCrashes:
    def test_a_killed_service_is_back_at_once(self, dev: Dev) -> None:
        dev.kill("vault")
        assert dev.call("POST", "/secrets/demo/greeting/reveal", {}).status_code == 200
        assert "vault was killed (SIGKILL); starting it again now" in dev.printed

    def test_a_killed_gateway_and_issuer_are_back_at_once(self, dev: Dev) -> None:
        dev.kill("gateway")
        dev.kill("issuer")
        assert dev.call("GET", "/workspace").status_code == 200
        sessions = f"{dev.left_for_scripts['issuer_url']}/v1/sessions"
        [session] = until("a session", lambda: ask("POST", sessions, json={"subject": "bob"}))
        assert session.status_code == 200

    def test_a_killed_database_is_back_with_its_data(self, dev: Dev) -> None:
        dev.kill("postgres")
        assert dev.call("POST", "/secrets/demo/greeting/reveal", {}).json()["value"] == "Hello from Causeloop."

    def test_a_killed_bus_is_back_and_events_arrive(self, dev: Dev) -> None:
        dev.kill("nats")
        made = dev.call("PUT", "/secrets/after", {"value": "x"}).json()["id"]
        until("the record", lambda: dev.call("GET", f"/audit/events?target={made}").json()["data"])


class TestEnd:
    def test_killed_without_warning_nothing_is_left_and_the_next_one_starts(self, start: Callable[..., Dev]) -> None:
        dev = start("--no-seed").ready()
        assert dev.left_for_scripts["tokens"] == {}
        assert dev.left_for_scripts["workspace_id"] is None

        assert dev.end(signal.SIGKILL) == -signal.SIGKILL
        next_one = start("--no-seed").ready()  # the old dev.json and lock do not stand in its way

        until("nothing is left", lambda: not dev.left(), seconds=20)
        assert next_one.end(signal.SIGTERM) == 0
        assert next_one.left() == []

    def test_a_taken_port_is_reported_with_what_to_do(self, dev: Dev, start: Callable[..., Dev]) -> None:
        port = dev.left_for_scripts["gateway_url"].rpartition(":")[2]
        refused = start("--port", port)
        assert refused.process.wait(PATIENCE) == 2
        assert f"Port {port} is taken by another program." in refused.printed
        assert "PORT=" in refused.printed

    @pytest.mark.parametrize("port", ["65536", "99999", "-1", "x", "4000.0"])
    def test_a_port_that_is_none_is_refused(self, start: Callable[..., Dev], port: str) -> None:
        """F11: a traceback for PORT=99999."""
        refused = start(f"--port={port}")
        assert refused.process.wait(PATIENCE) == 2
        assert "is no port: a number from 1 to 65535, such as 4000" in refused.printed

    def test_a_port_that_is_open_to_root_alone_is_named_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """F11: PORT=80 of an ordinary user was "taken by another program"."""

        def bind(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr("causeloop_cli.embedded.nats.socket.socket.bind", bind)
        with pytest.raises(ServerFailed, match=r"Port 80 is open to root alone\. Choose one from 1024"):
            gateway_port(80)

    def test_a_folder_of_something_else_is_left_alone(self, start: Callable[..., Dev], tmp_path: Path) -> None:
        """F10: `make dev DATA=docs` strewed its files among mine."""
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "mine.txt").write_text("mine")
        refused = start("--data", str(tmp_path / "docs"))
        assert refused.process.wait(PATIENCE) == 2
        assert "has files of something else, such as mine.txt. Name a new or an empty folder" in refused.printed
        assert [path.name for path in (tmp_path / "docs").iterdir()] == ["mine.txt"]

    def test_a_data_folder_without_a_name_is_refused(self, start: Callable[..., Dev]) -> None:
        """F10: `--data "$DATA"` of a variable that is not set ran, and deleted everything at its end."""
        refused = start("--data", "")
        assert refused.process.wait(PATIENCE) == 2
        assert "it names no folder" in refused.printed

    def test_a_data_folder_in_a_repository_is_no_part_of_it(self, tmp_path: Path) -> None:
        """F10: the root secret was offered to `git add`."""
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
        made = Installation.kept_in(tmp_path / "mydata")
        assert Installation.kept_in(tmp_path / "mydata") == made
        with DevFolder(tmp_path / ".causeloop") as folder:
            folder.write("dev.json", {})
            offered = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
            assert subprocess.run(offered, check=True, capture_output=True, text=True).stdout == ""

    @pytest.mark.parametrize(
        "written",
        ["", "{}", "[1]", "null", '{"issuer": "x"}', '{"issuer": 0}', '{"issuer": 99999}', "[" * 100_000, "\xff"],
    )
    def test_a_data_folder_whose_port_cannot_be_read_is_named(self, tmp_path: Path, written: str) -> None:
        """F10: a file of it that was cut ended in a traceback."""
        (tmp_path / "ports.json").write_bytes(written.encode("latin-1"))
        with pytest.raises(ServerFailed, match=r"ports\.json has not the port of this data folder's mock issuer"):
            Addresses.chosen(4000, (), tmp_path)

    @pytest.mark.parametrize("seconds", [0.2, 0.5, 1.7])
    def test_an_interrupt_at_any_moment_ends_it_quietly(self, start: Callable[..., Dev], seconds: float) -> None:
        """F11: Ctrl-C at 0.2 s and 1.7 s printed tracebacks."""
        dev = start()
        time.sleep(seconds)
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(PATIENCE) in (0, 130, -signal.SIGINT)  # the last before our first line has run
        assert "Error" not in dev.printed
        assert "Exception" not in dev.printed
        if dev.process.returncode != -signal.SIGINT:
            assert "Traceback" not in dev.printed

    def test_asked_to_stop_while_starting_it_stops(self, start: Callable[..., Dev]) -> None:
        dev = start()
        until("it starts", (dev.path.parent / "logs" / "migrate.log").exists)
        belongings = {(pid, janitor_program.started(pid)) for pid in family(dev.process.pid)}
        assert dev.end(signal.SIGTERM) == 0
        assert not [pid for pid, moment in belongings if moment and janitor_program.started(pid) == moment]
        assert dev.printed == ""

    def test_a_service_that_cannot_start_is_reported_and_given_up(
        self, start: Callable[..., Dev], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACCESS_TOKEN_SECONDS", "1")  # passed on to auth, which refuses it
        dev = start("--no-seed")
        assert dev.process.wait(PATIENCE) == 2
        shown = dev.printed.splitlines()
        assert shown[0] == (
            "causeloop dev: ACCESS_TOKEN_SECONDS: it has to be greater than or equal to 60. Example: 900."
        )
        assert shown[1].startswith("causeloop dev: auth ended with code 1; starting it again now (its log: /")
        assert shown[-1] == "causeloop dev: auth did not become ready. See the logs: .causeloop/logs"
        assert not dev.path.exists()


class TestEnvironment:
    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
        monkeypatch.setenv("CORS_ORIGINS", "http://app.test")
        monkeypatch.setenv("JWT_SECRET", "the developer's own, for something else")
        self.installation = Installation.new()
        addresses = Addresses(4000, 20000, {name: 20001 + number for number, name in enumerate(sorted(SERVICES))})
        return environs(self.installation, addresses, "postgresql://migrator:pw@/causeloop?host=/x", "nats://x:1")

    def test_nobody_has_the_root_secret_or_the_migrators_address(self, made: dict[str, dict[str, str]]) -> None:
        text = json.dumps(made)
        assert self.installation.jwt_secret not in text
        assert "migrator" not in text
        assert "JWT_SECRET" not in text

    def test_each_has_its_own_credentials_and_nobody_elses(self, made: dict[str, dict[str, str]]) -> None:
        assert [name for name, environ in made.items() if "CAUSELOOP_MASTER_KEY" in environ] == ["vault"]
        for name, environ in made.items():
            seeds = {variable for variable in environ if variable.startswith("NATS_NKEY_SEED_")}
            assert seeds == {f"NATS_NKEY_SEED_{name.upper()}"}
            others = [other.upper() for other in SERVICES - {name}]
            assert not [
                v
                for v in environ
                for other in others
                if v.startswith((f"DATABASE_URL_{other}", f"CAUSELOOP_KEYS_{other}"))
            ]

    def test_a_developers_setting_reaches_the_service_that_declares_it(self, made: dict[str, dict[str, str]]) -> None:
        assert [name for name, environ in made.items() if "CORS_ORIGINS" in environ] == ["gateway"]

    def test_the_settings_of_every_service_accept_it(self, made: dict[str, dict[str, str]]) -> None:
        for name in SERVICES:
            services.create(name, made[name])


class TestData:
    def test_a_lasting_folder_keeps_people_workspace_tokens_and_secrets(self, start: Callable[..., Dev]) -> None:
        first = start("--data", "kept").ready()
        before = first.left_for_scripts
        assert first.call("PUT", "/secrets/mine", {"value": "precious"}).status_code == 200
        assert first.end(signal.SIGTERM) == 0

        second = start("--data", "kept", "--one-process").ready()

        after = second.left_for_scripts
        assert after["workspace_id"] == before["workspace_id"]
        assert after["tokens"] == before["tokens"]
        assert len({after["pids"][name] for name in SERVICES}) == 1
        assert len(set(after["ops_urls"].values())) == 1
        assert second.call("POST", "/secrets/mine/reveal", {}).json()["value"] == "precious"
        os.kill(after["pids"]["vault"], signal.SIGKILL)
        until("started again", lambda: second.left_for_scripts["pids"]["vault"] != after["pids"]["vault"])
        assert second.call("GET", "/secrets/mine").json()["version"] == 1
        assert second.end(signal.SIGINT) == 0
        assert second.left() == []
