"""A process that crashes is started again, more and more patiently; one that is asked to stop stops, and hurries when
asked twice.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from causeloop_cli.embedded import ServerFailed
from causeloop_dev import supervisor as module
from causeloop_dev.supervisor import Supervisor

STUBBORN = """
import signal, sys, time
from pathlib import Path
from causeloop_cli.embedded import Janitor
from causeloop_dev.forked import Forked
from causeloop_dev.supervisor import Supervisor

def body(terminal):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", file=terminal)
    time.sleep(60)

with Janitor() as janitor, Supervisor() as supervisor:
    child = Forked("stubborn", body, {"ONLY": "this"}, log=Path(sys.argv[1]), janitor=janitor)
    child.start()
    supervisor.watch(child)
    try:
        supervisor.run()
    except KeyboardInterrupt:
        print("stopping", file=sys.stderr, flush=True)
    supervisor.stop([child])
    print(child.ending, file=sys.stderr)
"""


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Ward:
    """Something that can be killed, and started again if it is in the mood."""

    name = "ward"

    def __init__(self) -> None:
        self.pid = 1
        self.runs = True
        self.refuses = False

    def alive(self) -> bool:
        return self.runs

    def restart(self) -> None:
        if self.refuses:
            raise ServerFailed("The port is taken.")
        self.pid += 1
        self.runs = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def watching(clock: Clock) -> Iterator[tuple[Supervisor, Ward]]:
    with Supervisor() as supervisor:
        ward = Ward()
        supervisor.watch(ward)
        yield supervisor, ward


def pause_until_restart(supervisor: Supervisor, ward: Ward, clock: Clock) -> float:
    """Kill the ward and let time pass until it runs again; the seconds it took."""
    began, ward.runs = clock.now, False
    for _ in range(1000):
        supervisor.sleep(0)
        if ward.runs:
            return round(clock.now - began, 1)
        clock.now += 0.1
    raise AssertionError("It was never started again.")


class TestCrash:
    def test_it_is_started_again_at_once_then_more_and_more_patiently(
        self, watching: tuple[Supervisor, Ward], clock: Clock
    ) -> None:
        supervisor, ward = watching
        pauses = [pause_until_restart(supervisor, ward, clock) for _ in range(9)]
        assert pauses == pytest.approx([0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10], abs=0.11)
        assert supervisor.crashes("ward") == 9

    def test_after_a_while_of_life_the_patience_is_forgotten(
        self, watching: tuple[Supervisor, Ward], clock: Clock
    ) -> None:
        supervisor, ward = watching
        for _ in range(4):
            pause_until_restart(supervisor, ward, clock)
        clock.now += 31
        assert pause_until_restart(supervisor, ward, clock) == 0
        assert supervisor.crashes("ward") == 1

    def test_a_start_that_fails_is_reported_and_tried_again(
        self, watching: tuple[Supervisor, Ward], clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        supervisor, ward = watching
        ward.runs, ward.refuses = False, True
        supervisor.sleep(0)
        ward.refuses = False
        assert pause_until_restart(supervisor, ward, clock) > 0
        shown = capsys.readouterr().err.splitlines()
        assert shown[0] == "causeloop dev: ward has ended; starting it again now"
        assert shown[1] == "causeloop dev: ward could not be started; again in 0.2 s: The port is taken."

    def test_the_keeper_of_the_process_ids_is_called(self, clock: Clock) -> None:
        shown: list[int] = []
        ward = Ward()
        with Supervisor(changed=lambda: shown.append(ward.pid)) as supervisor:
            supervisor.watch(ward)
            pause_until_restart(supervisor, ward, clock)
        assert shown == [2]


class TestStop:
    def test_a_second_signal_ends_the_patience_with_a_child_that_does_not_hear(self, tmp_path: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", STUBBORN, str(tmp_path / "log")],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stderr is not None
        assert process.stderr.readline() == "deaf\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "was killed (SIGKILL)\n"
        assert process.wait(10) == 0
        assert time.monotonic() - began < module.GRACE_SECONDS / 2
        process.stderr.close()
