"""The `causeloop dev` of a folder: the files it left for scripts in `.causeloop`, and whether it still runs."""

import json
import os
from pathlib import Path
from typing import Any

NAME = ".causeloop"


def read(path: Path, name: str = "dev.json") -> dict[str, Any]:
    """A file that a dev wrote in this folder; empty when there is none."""
    try:
        found = json.loads((path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def running(path: Path) -> dict[str, Any]:
    """`dev.json` of the dev that runs in this folder; empty when none runs."""
    found = read(path)
    pids = found.get("pids")
    return found if isinstance(pids, dict) and lives(pids.get("supervisor")) else {}


def lives(pid: object) -> bool:
    """Whether a process with this id runs."""
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, and alive
    return True
