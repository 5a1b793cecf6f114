"""A process made by fork: it starts at once and shares the memory of everything its parent has imported.

The parent must have no thread and no running event loop at that moment. The child gets exactly the environment it
is given, a session of its own (so that Ctrl-C reaches the supervisor alone), default signal handlers, its output in
a file, and the pact: it gets a signal to stop when its supervisor ends, whatever ended it.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn, TextIO

from causeloop_cli.embedded import Janitor, death_pact
from causeloop_cli.embedded.process import ServerFailed

CAUGHT = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD})
"""The signals that the supervisor handles; a child starts without those handlers."""

Body = Callable[[TextIO], None]
"""The child's work; it is given the supervisor's terminal, for lines that must not be overlooked."""


class Forked:
    """One child, which can be started again."""

    def __init__(self, name: str, body: Body, environ: Mapping[str, str], *, log: Path, janitor: Janitor) -> None:
        self.name = name
        self.log = log
        self._body = body
        self._environ = dict(environ)
        self._janitor = janitor
        self._pid: int | None = None
        self._status: int | None = None

    @property
    def pid(self) -> int:
        """The process id of the newest start."""
        if self._pid is None:
            raise ServerFailed(f"{self.name} is not started.")
        return self._pid

    def start(self) -> None:
        """Fork. Returns in the parent only."""
        pact = death_pact()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        # Until the child has shed our handlers and we have noted the child, no signal may come between.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(pact, before)
            self._pid, self._status = pid, None
            self._janitor.watch(pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    restart = start

    def alive(self) -> bool:
        """Whether it runs."""
        if self._pid is None or self._status is not None:
            return False
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            return True
        self._status = os.waitstatus_to_exitcode(status)
        self._janitor.forget(pid)
        return False

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it runs."""
        if self.alive():
            os.kill(self.pid, number)
            os.kill(self.pid, signal.SIGCONT)  # a suspended process would not act on the first

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self._status is None:
            return "has ended"
        if self._status < 0:
            return f"was killed ({signal.Signals(-self._status).name})"
        return f"ended with code {self._status}"

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._status

    def _become(self, pact: Callable[[], None] | None, mask: Iterable[int]) -> NoReturn:
        """In the child: leave the supervisor behind, run, and never return into its stack."""
        code = 1
        try:
            for number in CAUGHT:
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.setsid()
            if pact is not None:
                pact()
            os.environ.clear()
            os.environ.update(self._environ)
            with os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8") as terminal:
                _redirect(self.log)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                self._body(terminal)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # noqa: BLE001  nothing may reach the supervisor's own handlers and clean-up
            traceback.print_exc()
        finally:
            try:
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()
            finally:
                os._exit(code)


def _redirect(log: Path) -> None:
    """Standard output and error to the end of the file, standard input from nowhere."""
    log.parent.mkdir(parents=True, exist_ok=True)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    for source, target in ((nowhere, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nowhere)
    os.close(output)
