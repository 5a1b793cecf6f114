"""Services that start at once: forked by a helper process that has imported all of them, as `make dev` does it.

A test that kills services would otherwise spend most of its time on importing them again. The helper takes one order a
line, as JSON, and answers each with a line:

    {"start": "vault", "environ": {…}, "log": "…"}     the process id
    {"code": 4711}                                     the exit code of that process, null while it runs

It ends with its standard input, and its children with it. The vault that it starts knows one purpose more: `PROBE`.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from causeloop_cli import main, services
from causeloop_cli.embedded import Janitor
from causeloop_common.contracts import vault
from causeloop_common.contracts.purpose import Purpose
from causeloop_dev.forked import Forked

PROBE = Purpose("probe", issuer="auth", ends=None)
"""A purpose that only tests have, for sealed values of another service."""


class Forks:
    """The helper process, in the hands of the test."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._helper = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test run, which ends the helper
        )

    def start(self, service: str, environ: Mapping[str, str], log: Path) -> "Child":
        """Start a service in this environment; its output is appended to `log`."""
        return Child(self, self.order(start=service, environ=dict(environ), log=str(log)))

    def order(self, **order: Any) -> Any:
        """The helper's answer to an order."""
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        with self._turn:
            print(json.dumps(order), file=self._helper.stdin, flush=True)
            return json.loads(self._helper.stdout.readline())

    def close(self) -> None:
        """End the helper."""
        self._helper.communicate()


class Child:
    """A forked service, handled as a `ServerProcess` is."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks = forks
        self._code: int | None = None
        self.pid = pid

    def alive(self) -> bool:
        """Whether it runs."""
        if self._code is None:
            self._code = self._forks.order(code=self.pid)
        return self._code is None

    def wait(self, seconds: float) -> int:
        """Wait for its end and return its exit code; `TimeoutError` after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"The process {self.pid} still runs after {seconds:g} s.")
            time.sleep(0.005)
        assert self._code is not None
        return self._code

    def stop(self, patience: float = 10.0) -> None:
        """End it: SIGTERM, after `patience` seconds SIGKILL. Idempotent."""
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
            if self.alive():
                os.kill(self.pid, number)
                os.kill(self.pid, signal.SIGCONT)  # a suspended process would not act on the first
                try:
                    self.wait(seconds)
                except TimeoutError:
                    continue


def _serve(service: str, _: TextIO) -> None:
    sys.exit(main.main(["serve", service]))


def _take_orders() -> None:
    services.preload()
    vault.PURPOSES = (*vault.PURPOSES, PROBE)
    children: dict[int, Forked] = {}
    with Janitor() as janitor:
        for line in sys.stdin:
            order = json.loads(line)
            if "start" in order:
                service = functools.partial(_serve, order["start"])
                child = Forked(order["start"], service, order["environ"], log=Path(order["log"]), janitor=janitor)
                child.start()
                children[child.pid] = child
                answer: int | None = child.pid
            else:
                child = children[order["code"]]
                answer = None if child.alive() else child.code
            sys.stdout.write(f"{json.dumps(answer)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _take_orders()
