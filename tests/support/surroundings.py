"""Runs `causeloop` commands in surroundings of a test's choice, each in a fork of a process that has imported them all.

A fork starts in milliseconds, where a new process needs a second. It gets its own environment, folder, standard input
and outputs, ends as the command ends, and is interrupted when it should be.
"""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import NoReturn

CLOSED = "closed"


@dataclass(frozen=True)
class Run:
    """One command: its arguments and surroundings. It is interrupted after `seconds`, and killed long after that."""

    arguments: Sequence[str]
    folder: str
    environ: Mapping[str, str] = field(default_factory=dict)
    stdin: str = os.devnull
    stdout: str = ""
    """A file; CLOSED for none; otherwise it is kept and returned."""
    seconds: float = 3.0
    gone: bool = False
    """Whether the folder is removed once the command is in it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    output: str
    error: str
    seconds: float


class Commands:
    """The process that has imported everything. One command at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, one: Run) -> Ended:
        """Run a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(asdict(one))}\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


@contextmanager
def started() -> Iterator[Commands]:
    """The commands, ready to be run."""
    code = "from tests.support.surroundings import serve; serve()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Commands(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def serve() -> None:
    """In the process: import every command, then fork for each line."""
    for name in ("causeloop_cli", "causeloop_dev"):
        for module in walk_packages(import_module(name).__path__, f"{name}."):
            if not module.name.endswith((".testing", ".schedule")):
                import_module(module.name)
    import_module("causeloop_cli.services").preload()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
            one, began = json.loads(line), time.monotonic()
            is_ready, ready = os.pipe()
            pid = os.fork()
            if pid == 0:
                requests.close()
                os.close(is_ready)
                _become(one, output.fileno(), error.fileno(), ready)
            os.close(ready)
            os.read(is_ready, 1)
            os.close(is_ready)
            code = _ended(pid, one["seconds"])
            for file in (output, error):
                file.seek(0)
            printed, complained = (file.read(200_000).decode(errors="replace") for file in (output, error))
            answers.write(f"{json.dumps(asdict(Ended(code, printed, complained, time.monotonic() - began)))}\n")
            answers.flush()


def _ended(pid: int, seconds: float) -> int:
    """Wait for the end, with an interrupt when it is time; the code, negative for a signal."""
    began, interrupted = time.monotonic(), False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        lasted = time.monotonic() - began
        if lasted > seconds and not interrupted:
            interrupted = True
            os.kill(pid, signal.SIGINT)
        if lasted > seconds + 60:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _become(one: dict[str, object], output: int, error: int, ready: int) -> NoReturn:
    """In the fork: take the surroundings, note that it is ready, run the command, and end with its code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(one["environ"])  # type: ignore[call-overload]
    os.chdir(str(one["folder"]))
    if one["gone"]:
        Path(str(one["folder"])).rmdir()
    os.dup2(os.open(str(one["stdin"]), os.O_RDONLY), 0)
    stdout = str(one["stdout"])
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    os.dup2(error, 2)
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), encoding, line_buffering=True)
    if stdout == CLOSED:
        os.close(1)
        sys.stdout = None
    else:
        os.dup2(os.open(stdout, os.O_WRONLY) if stdout else output, 1)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)))
    sys.argv = ["causeloop", *one["arguments"]]  # type: ignore[misc]
    code = 99
    try:
        run = import_module("causeloop_cli.__main__").run
        os.close(ready)
        code = run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException:  # noqa: BLE001  a command lets none pass; the test looks for it
        traceback.print_exc()
    finally:
        os._exit(code)  # an orderly end waits for threads that a fork does not have
