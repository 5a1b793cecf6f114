"""Whichever way a supervisor ends, nothing of it stays: no process, no socket, no folder.

Supervisors are real processes here, and are really killed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from causeloop_cli.embedded import EmbeddedNats, Janitor, ServerFailed, janitor as janitor_program
from causeloop_cli.embedded.process import ServerProcess

PREPARATION = """
import json, os, sys, time
from causeloop_dev.postgres import EmbeddedPostgres
from causeloop_cli.embedded import EmbeddedNats, Janitor, death_pact, process

def tell(**facts):
    print(json.dumps(facts), flush=True)

def announced(base, purpose, mode=0o700, make=Janitor.make_folder):
    folder = make(janitor, base, purpose, mode)
    tell(folder=str(folder))
    return folder

if "no-prctl" in sys.argv:
    process._prctl = lambda: None
janitor = Janitor()
janitor.make_folder = announced
tell(janitor=janitor.pid)
postgres = EmbeddedPostgres(janitor=janitor)
nats = EmbeddedNats("", janitor=janitor)
"""

RUNNING = """
postgres.start()
nats.start()
service = os.fork()
if service == 0:
    nats.stop(), postgres.stop(), janitor.close()  # as when a forked service unwinds our stack
    time.sleep(60)  # and it holds a copy of all our descriptors, after we are gone
    os._exit(0)
pact = death_pact()
bound = os.fork()
if bound == 0:
    pact and pact()
    time.sleep(60)
    os._exit(0)
janitor.watch(bound)
tell(service=service, bound=bound, postgres=postgres.pid, nats=nats.pid, socket=str(postgres.socket_folder))
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.2)
    tell(alive=[postgres.alive(), nats.alive()])
    nats.stop(), postgres.stop(), janitor.close()
"""


@pytest.fixture(scope="module", autouse=True)
def not_in_the_background() -> Iterator[None]:
    """A shell has what it starts with `&` ignore these signals, and its children inherit that."""
    signals = (signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)
    before = [signal.signal(number, handler) for number, handler in signals]
    yield
    for (number, _), handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


class Supervisor:
    """A supervisor process, and what it printed about itself."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREPARATION + script, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        self.facts: dict[str, Any] = {}
        self.folders: list[Path] = []

    def hear_until(self, key: str) -> Any:
        assert self.process.stdout
        for line in self.process.stdout:
            facts = json.loads(line)
            self.facts |= facts
            if "folder" in facts:
                self.folders.append(Path(facts["folder"]))
            if key in facts:
                return facts[key]
        raise AssertionError(f"The supervisor ended before it sent {key!r}.")

    def everything_gone(self) -> bool:
        """Whether neither the janitor nor any folder, nor any process that names one, is left."""
        left = [folder for folder in self.folders if folder.exists()]
        naming = [pid for folder in self.folders for pid in processes_naming(folder)]
        return not left and not naming and janitor_program.started(self.facts["janitor"]) is None


def processes() -> list[tuple[int, int, str]]:
    """Process id, parent and command line of everything that runs."""
    if not Path("/proc/self/stat").exists():
        listing = subprocess.run(["ps", "-axww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
        rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
        return [(int(pid), int(parent), args) for pid, parent, args in rows]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            found.append((int(folder.name), int(parent), folder.joinpath("cmdline").read_text()))
        except OSError:
            continue  # it has just ended
    return found


def processes_naming(folder: Path) -> list[int]:
    return [pid for pid, _, args in processes() if str(folder) in args]


def descendants(ancestor: int) -> list[int]:
    children = [pid for pid, parent, _ in processes() if parent == ancestor]
    return [*children, *(deeper for child in children for deeper in descendants(child))]


def shared_memory(creators: list[int]) -> list[str]:
    """System V segments that these processes made."""
    listing = Path("/proc/sysvipc/shm")
    rows = [line.split() for line in listing.read_text().splitlines()[1:]] if listing.exists() else []
    return [row[1] for row in rows if int(row[4]) in creators]


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    started: list[Supervisor] = []

    def start(*arguments: str) -> Supervisor:
        started.append(Supervisor(*arguments))
        return started[-1]

    yield start
    for supervisor in started:
        supervisor.process.kill()
        supervisor.process.communicate()


@pytest.fixture
def janitor() -> Iterator[Janitor]:
    with Janitor() as janitor:
        yield janitor


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


@pytest.mark.chaos
class TestKilledSupervisor:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    @pytest.mark.parametrize("system", ["with-prctl", "no-prctl"])
    def test_leaves_no_process_no_socket_and_no_folder(
        self, supervise: Callable[..., Supervisor], number: signal.Signals, system: str
    ) -> None:
        supervisor = supervise(RUNNING, system)
        socket_folder = Path(supervisor.hear_until("socket"))
        service = supervisor.facts["service"]
        time.sleep(0.1)  # the forked service has tried to stop everything by now
        family = [pid for pid in descendants(supervisor.process.pid) if pid != service]
        assert {supervisor.facts[name] for name in ("postgres", "nats", "bound")} < set(family)
        assert len(list(socket_folder.iterdir())) == 2  # socket and its lock

        try:
            os.kill(supervisor.process.pid, number)
            supervisor.process.wait()

            assert eventually(supervisor.everything_gone)
            assert [pid for pid in family if janitor_program.started(pid)] == []
            assert len(supervisor.folders) == 2
            assert shared_memory(family) == []
            assert janitor_program.started(service)  # it lived on, and held nothing up
        finally:
            os.kill(service, signal.SIGKILL)

    @pytest.mark.parametrize("moment", [0.0, 0.03, 0.1, 0.2, 0.3, 0.4])
    def test_leaves_nothing_when_it_had_hardly_started(
        self, supervise: Callable[..., Supervisor], moment: float
    ) -> None:
        supervisor = supervise(RUNNING)
        supervisor.hear_until("folder")
        time.sleep(moment)

        os.killpg(supervisor.process.pid, signal.SIGKILL)
        supervisor.process.wait()

        assert supervisor.process.stdout
        for line in supervisor.process.stdout:
            if "folder" in line:
                supervisor.folders.append(Path(json.loads(line)["folder"]))
        assert eventually(supervisor.everything_gone)


class TestInterruptedSupervisor:
    def test_ctrl_c_reaches_the_supervisor_alone_and_it_stops_everything_in_its_order(
        self, supervise: Callable[..., Supervisor]
    ) -> None:
        supervisor = supervise(RUNNING)
        supervisor.hear_until("service")
        family = descendants(supervisor.process.pid)

        os.killpg(supervisor.process.pid, signal.SIGINT)  # as a terminal does

        assert supervisor.hear_until("alive") == [True, True]
        assert supervisor.process.wait(timeout=20) == 0
        assert supervisor.everything_gone()
        assert eventually(lambda: not any(janitor_program.started(pid) for pid in family))

    def test_an_exception_stops_the_server_and_removes_its_folder(self, janitor: Janitor) -> None:
        seen: list[tuple[Path, int]] = []

        def fail() -> None:
            with EmbeddedNats("", janitor=janitor) as server:
                seen.append((server.home, server.pid))
                raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose"):
            fail()

        [(home, pid)] = seen
        assert not home.exists()
        assert janitor_program.started(pid) is None


class TestJanitor:
    def test_does_not_touch_a_process_that_only_has_the_same_id(self) -> None:
        with sleeper() as innocent:
            helper = subprocess.run(
                [sys.executable, "-I", "-S", janitor_program.__file__],
                input=f"watch {innocent.pid} 12345 {int(signal.SIGKILL)}\n".encode(),
                timeout=10,
                check=False,
            )

            assert helper.returncode == 0
            assert innocent.poll() is None
            innocent.kill()

    def test_ends_a_process_that_ignores_its_stop_signal(self) -> None:
        stubborn = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
        with subprocess.Popen(stubborn, stdout=subprocess.PIPE) as child:
            assert child.stdout
            child.stdout.readline()
            moment = janitor_program.started(child.pid)
            assert moment
            patience, janitor_program.PATIENCE["ask"] = janitor_program.PATIENCE["ask"], 0.1
            try:
                janitor_program.end({child.pid: (moment, int(signal.SIGTERM))})
            finally:
                janitor_program.PATIENCE["ask"] = patience

            assert child.wait(5) == -signal.SIGQUIT

    def test_what_is_still_registered_goes_when_it_is_closed(self, tmp_path: Path) -> None:
        janitor = Janitor()
        with sleeper() as child:
            janitor.watch(child.pid)
            folder = janitor.make_folder(tmp_path, "test")
            (folder / "file").touch()

            janitor.close()

            assert child.wait(5) == -signal.SIGTERM
            assert not folder.exists()

    def test_a_killed_helper_is_replaced_and_given_everything(self, tmp_path: Path) -> None:
        janitor = Janitor()
        first = janitor.make_folder(tmp_path, "first")
        assert janitor.pid
        os.kill(janitor.pid, signal.SIGKILL)
        eventually(lambda: janitor_program.started(janitor.pid or 0) is None)

        second = janitor.make_folder(tmp_path, "second")
        janitor.close()

        assert not first.exists()
        assert not second.exists()

    def test_cannot_be_used_once_closed(self, tmp_path: Path) -> None:
        janitor = Janitor()
        janitor.close()

        with pytest.raises(ServerFailed, match="This janitor is closed"):
            janitor.make_folder(tmp_path, "late")


class TestServerProcess:
    def test_a_suspended_server_still_stops_at_once(self, janitor: Janitor, tmp_path: Path) -> None:
        server = ServerProcess(["/bin/sleep", "60"], log=tmp_path / "log", janitor=janitor)
        os.kill(server.pid, signal.SIGSTOP)

        server.stop(patience=5)

        assert not server.alive()

    def test_a_worker_thread_is_refused_since_the_server_would_end_with_it(
        self, janitor: Janitor, tmp_path: Path
    ) -> None:
        if sys.platform != "linux":
            pytest.skip("only Linux has the parent-death signal")
        refusals: list[Exception] = []

        def start() -> None:
            try:
                ServerProcess(["/bin/sleep", "60"], log=tmp_path / "log", janitor=janitor)
            except ServerFailed as error:
                refusals.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()

        assert "must be started from the main thread" in str(refusals[0])
