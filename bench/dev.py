"""The rows of `make dev`: how long until it is ready, and how much memory the whole stack takes.

Memory is PSS, the proportional share of each page, over the supervisor and everything below it, PostgreSQL and NATS
included: resident sizes would count what forked processes share once for each.
"""

import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MB = 1024


@contextlib.contextmanager
def dev(*options: str) -> Iterator[tuple[float, int]]:
    """A running `causeloop dev`: the seconds it took to be ready, and its process id."""
    port = random.randrange(20_000, 32_000)
    command = [sys.executable, "-m", "causeloop_cli", "dev", "--port", str(port), *options]
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / ".causeloop" / "dev.json"
        began = time.perf_counter()
        running = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not ready.exists():
                if running.poll() is not None or time.perf_counter() - began > 60:
                    raise RuntimeError("`causeloop dev` did not get ready; start it by hand to see why.")
                time.sleep(0.02)
            yield time.perf_counter() - began, running.pid
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=30)


def pss_megabytes(root: int) -> float:
    """The memory of a process and everything below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += parents.get(pid, [])
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / MB
