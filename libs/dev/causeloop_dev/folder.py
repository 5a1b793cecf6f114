"""`.causeloop` in the current directory: the files of a running `causeloop dev` for scripts, and its lock.

    dev.json          0600   addresses, workspace, tokens by role, process ids
    environ.json      0600   the environment of every service and of the operator, for `causeloop doctor`
    logs/<name>.log   0600   the output of a process, from this start on

Promises: both JSON files appear whole and only while dev runs; one dev at a time in a folder. The lock is on the
folder itself and held by the services too, so it is free once the last process of a killed dev has ended.
"""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, Self

from causeloop_cli.embedded.process import ServerFailed
from causeloop_cli.running_dev import lives, read

_PATIENCE_SECONDS = 15.0
"""For what a killed dev left running: its services drain first."""


class DevFolder:
    """The folder, taken for one dev."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.path.mkdir(exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self._take()
        self._clear()
        (self.path / ".gitignore").write_text("*\n")  # tokens, addresses and logs, which no commit should have
        (self.path / "logs").mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def log(self, name: str) -> Path:
        """A new, empty log file."""
        path = (self.path / "logs" / f"{name}.log").absolute()
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        return path

    def write(self, name: str, content: Any) -> None:
        """Put the JSON file in place, whole, for its owner only."""
        self.path.mkdir(exist_ok=True)  # somebody may have cleaned up
        write_private_json(self.path / name, content)

    def _take(self) -> None:
        assert self._lock is not None  # noqa: S101  opened just before
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                supervisor = read(self.path).get("pids", {}).get("supervisor")
                if supervisor and not lives(supervisor) and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(self._lock)
                self._lock = None
                who = f" (process {supervisor})" if supervisor else ""
                raise ServerFailed(
                    f"Another `causeloop dev` runs in {self.path.absolute().parent}{who}. Use that one, stop it, or "
                    "start this one in another folder."
                ) from error

    def _clear(self) -> None:
        for name in ("dev.json", "environ.json"):
            (self.path / name).unlink(missing_ok=True)
            (self.path / f"{name}.new").unlink(missing_ok=True)


def write_private_json(path: Path, content: Any) -> None:
    """A 0600 file in place of an older one; a reader sees the old or the new one, never a part."""
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    fresh.replace(path)
