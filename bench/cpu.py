"""The CPU time that an act costs, by process.

A clock cannot tell which process is the brake, and a busy machine stretches it; CPU time does neither. It counts a
process, everything below it, and those below that have ended.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")

Turn = Callable[[], dict[str, Any]]


class Processes:
    """Named processes, each with everything below it."""

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._pids = pids

    def seconds(self) -> dict[str, float]:
        """The CPU time of each so far."""
        below = children()
        return {name: sum(_seconds(pid, below) for pid in pids) for name, pids in self._pids.items()}

    def resident(self) -> dict[str, float]:
        """The memory of each that is its own, in MB."""
        return {name: sum(map(_own_megabytes, pids)) for name, pids in self._pids.items()}

    def during(self, turn: Turn) -> Turn:
        """The same turn, with `cpu_ms` in its result: milliseconds for each of its acts, by process."""

        def measured() -> dict[str, Any]:
            before = self.seconds()
            result = turn()
            spent = {name: seconds - before[name] for name, seconds in self.seconds().items()}
            return {**result, "cpu_ms": {name: 1000 * seconds / result["count"] for name, seconds in spent.items()}}

        return measured


def children() -> dict[int, list[int]]:
    """The processes of this machine by their parents."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def _seconds(pid: int, below: Mapping[int, Sequence[int]]) -> float:
    """Of a process by its own clock (clock_getcpuclockid(3)), of its children that have ended by the kernel's ticks."""
    fields = _stat(pid)
    ended = sum(map(int, fields[13:15])) / TICK if fields else 0.0
    with contextlib.suppress(OSError):
        ended += time.clock_gettime((~pid << 3) | 2)
    return ended + sum(_seconds(child, below) for child in below.get(pid, ()))


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) from the state on; none of a process that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _own_megabytes(pid: int) -> float:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
    return 0.0
