"""Processes that never outlive their supervisor.

Holds the child process, the pact that ends it together with the supervisor, and the `Janitor` that cleans up
after a supervisor killed without warning.

Promises, whichever way the supervisor ends (return, exception, Ctrl-C, SIGTERM, kill -9):

- Every child ends. On Linux the kernel signals it (parent-death signal); everywhere the janitor, which sees
  its pipe end, makes sure of it. Where there is no parent-death signal a child only becomes the server once
  the janitor knows it, so that no moment is uncovered.
- Every folder made by the janitor is removed, with the sockets and passwords in it.
- Ctrl-C in a terminal reaches the supervisor alone: each child has a session of its own, so the supervisor
  decides the order of stopping.

Leaves to others: the programs themselves, and orderly stopping (`stop` on each, then `Janitor.close`). Only the
process that started a child or janitor can stop it; in a forked child (a service) these calls do nothing.
"""

import ctypes
import os
import secrets
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGQUIT, SIGTERM, Signals
from typing import NamedTuple, Self

from causeloop_cli.embedded import janitor as janitor_program

GATE = 'read -r go && exec "$0" "$@" </dev/null'
"""Shell line that becomes the server once it reads a line, and ends when its standard input ends."""

_PR_SET_PDEATHSIG = 1


class ServerFailed(Exception):
    """An embedded server could not be started, or cannot be used; the message names what to do."""


class Owner(NamedTuple):
    """The unprivileged account that a server runs as when the supervisor is root."""

    uid: int
    gid: int


def death_pact(stop_signal: Signals = SIGTERM) -> Callable[[], None] | None:
    """The call that a child makes, after the fork and any change of user, to receive `stop_signal` when we end.

    Call this in the parent, the result in the child (as `preexec_fn`, or right after `os.fork`). None where
    the system has no parent-death signal: there, rely on `Janitor.watch`.
    """
    prctl = _prctl()
    if prctl is None:
        return None
    if threading.current_thread() is not threading.main_thread():
        raise ServerFailed(
            "A child that ends with its supervisor must be started from the main thread, since Linux sends "
            "the parent-death signal when the starting thread ends. Start it before, or outside of, this "
            "thread."
        )
    supervisor = os.getpid()

    def accept() -> None:
        if prctl(_PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
        if os.getppid() != supervisor:
            os._exit(127)  # it ended between the fork and the pact: no signal would ever come

    return accept


def _prctl() -> Callable[..., int] | None:
    return ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


class ServerProcess:
    """One running program: in its own session, watched by the janitor, ended with its supervisor."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        janitor: "Janitor",
        stop_signal: Signals = SIGTERM,
        owner: Owner | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = Path("/"),
        keep_open: Sequence[int] = (),
    ) -> None:
        """Start `command` in `folder`, its output appended to `log`, the descriptors `keep_open` passed on.

        The folder is entered before the account changes, so it may lie where the account could not go.
        """
        pact = death_pact(stop_signal)
        self._stop_signal = stop_signal
        self._janitor = janitor
        self._supervisor = os.getpid()
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self._child = subprocess.Popen(
                command if pact else ["/bin/sh", "-c", GATE, *command],
                stdin=subprocess.DEVNULL if pact else subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=environment,
                pass_fds=keep_open,
                start_new_session=True,
                user=owner.uid if owner else None,
                group=owner.gid if owner else None,
                extra_groups=[] if owner else None,
                # The only moment after setuid, which would undo the pact, and before exec.
                preexec_fn=pact,  # noqa: PLW1509 - it takes no lock and imports nothing
            )
        finally:
            os.close(output)
        janitor.watch(self.pid, stop_signal)
        if self._child.stdin:
            self._child.stdin.write(b"go\n")
            self._child.stdin.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    def alive(self) -> bool:
        """Whether it runs; False in any process but the one that started it."""
        return os.getpid() == self._supervisor and self._child.poll() is None

    def wait(self, seconds: float) -> int:
        """Wait for it to end by itself and return its exit code; `TimeoutError` after `seconds`."""
        try:
            code = self._child.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"The process {self.pid} still runs after {seconds:g} s.") from error
        self._janitor.forget(self.pid)
        return code

    def stop(self, patience: float = 10.0) -> None:
        """End it: its own stop signal, after `patience` seconds SIGQUIT, in the end SIGKILL. Idempotent."""
        if os.getpid() != self._supervisor:
            return
        for number, seconds in ((self._stop_signal, patience), (SIGQUIT, 3.0), (SIGKILL, None)):
            if self._child.poll() is None:
                self._child.send_signal(number)
                self._child.send_signal(SIGCONT)  # a suspended process would not act on the first
                try:
                    self._child.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
        self._janitor.forget(self.pid)


class Janitor:
    """Ends the watched processes and removes its folders if the supervisor no longer can.

    The work is done by a small helper process (`janitor.py`) that waits for the end of a pipe which only the
    supervisor holds. Should the helper itself be killed, the next call starts another and sends it
    everything.
    """

    def __init__(self) -> None:
        self._watched: dict[int, str] = {}
        self._folders: dict[Path, str] = {}
        self._supervisor = os.getpid()
        self._helper: subprocess.Popen[bytes] | None = _start_helper()
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _let_go(myself()))

    @property
    def pid(self) -> int | None:
        """The helper's process id; None once closed."""
        return self._helper.pid if self._helper else None

    def watch(self, pid: int, stop_signal: Signals = SIGTERM) -> None:
        """End this child of ours by `stop_signal` once we are gone. One that has ended already is ignored."""
        moment = janitor_program.started(pid)
        if moment is not None:
            self._watched[pid] = f"watch {pid} {moment} {int(stop_signal)}"
            self._send(self._watched[pid])

    def forget(self, pid: int) -> None:
        """Stop watching: the process has ended. Idempotent."""
        if self._mine() and pid in self._watched:
            del self._watched[pid]
            self._send(f"forget {pid}")

    def make_folder(self, base: Path, purpose: str, mode: int = 0o700) -> Path:
        """Make a new folder `causeloop-<purpose>-<random>` in `base` that does not outlive us."""
        folder = base / f"causeloop-{purpose}-{secrets.token_hex(4)}"
        self._folders[folder] = f"folder {os.fsencode(folder).hex()}"
        self._send(self._folders[folder])  # before it exists, so that no moment is uncovered
        folder.mkdir(mode=0o700)
        folder.chmod(mode)
        return folder

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder made by `make_folder`. Idempotent."""
        if self._mine() and folder in self._folders:
            janitor_program.remove({str(folder)})
            del self._folders[folder]
            self._send(f"unfolder {os.fsencode(folder).hex()}")

    def close(self) -> None:
        """Let the helper finish: everything still registered is ended and removed now. Idempotent."""
        if self._mine() and self._helper:
            self._helper.communicate()
            self._helper = None
            self._watched.clear()
            self._folders.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, line: str) -> None:
        if not self._mine() or self._helper is None:
            raise ServerFailed(
                "This janitor is closed, or belongs to the parent of this process. Make one of your own."
            )
        try:
            _write(self._helper, line)
        except BrokenPipeError:
            self._helper.communicate()
            self._helper = _start_helper()
            for known in (*self._folders.values(), *self._watched.values()):
                _write(self._helper, known)

    def _mine(self) -> bool:
        return os.getpid() == self._supervisor


def _start_helper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", janitor_program.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        bufsize=0,
        start_new_session=True,
    )


def _write(helper: subprocess.Popen[bytes], line: str) -> None:
    if helper.stdin:
        helper.stdin.write(line.encode("ascii") + b"\n")


def _let_go(janitor: Janitor | None) -> None:
    """In a forked child: close its copy of the pipe, or the helper would wait for the child's end as well."""
    if janitor and janitor._helper and janitor._helper.stdin:
        janitor._helper.stdin.close()
