"""The janitor's own program: it cleans up after a supervisor that was killed without warning.

It holds a list of processes and folders, sent line by line on standard input by `process.Janitor`:

    watch <pid> <started> <stop signal>     forget <pid>
    folder <path as hex>                    unfolder <path as hex>

It promises that, once standard input ends (the supervisor closed it or is gone), every watched process is
ended and every folder removed, in that order. A process is signalled only while it is still the one that was
watched: its id may have been given to another program since, and the moment of its start distinguishes them.

It is run by path in an interpreter of its own (`python -I -S janitor.py`), so that it needs little memory and
nothing of ours: only the standard library, without `pathlib`, and the heavier parts only when there is work.
Ending servers in good order is left to the supervisor; this is for the paths where nobody is left to do it.
"""
# ruff: noqa: PTH110, PTH123 - pathlib would cost the waiting process a tenth of its memory

import os
import signal
import sys
from time import monotonic, sleep

PATIENCE = {"ask": 10.0, "urge": 3.0, "kill": 3.0}
"""Seconds given to each way of ending a process: its own stop signal, SIGQUIT, SIGKILL."""


def started(pid: int) -> str | None:
    """When a running process was started, as opaque text; None once it has ended (a zombie has ended)."""
    if os.path.exists("/proc/self/stat"):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in {b"Z", b"X"} else fields[19].decode()
    import subprocess  # only here: Linux never loads it

    question = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(question, capture_output=True, text=True, check=False)
    state, _, moment = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else moment.strip().replace(" ", "_")


def end(servers: dict[int, tuple[str, int]]) -> None:
    """End the watched processes (pid to start moment and stop signal), more and more firmly."""
    for manner, seconds in PATIENCE.items():
        for pid, (moment, own_signal) in servers.items():
            if started(pid) == moment:
                _send(pid, {"ask": own_signal, "urge": signal.SIGQUIT, "kill": signal.SIGKILL}[manner])
                _send(pid, signal.SIGCONT)  # a suspended process would not act on the first
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            servers = {pid: server for pid, server in servers.items() if started(pid) == server[0]}
            if not servers:
                return
            sleep(0.02)


def remove(folders: set[str]) -> None:
    """Remove the folders; try again for a while, since a dying process may still be writing into one."""
    import shutil  # only now: it would add to the memory of the waiting process

    deadline = monotonic() + 5.0
    while folders and monotonic() < deadline:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        folders = {folder for folder in folders if os.path.exists(folder)}
        if folders:
            sleep(0.1)


def _send(pid: int, number: int) -> None:
    try:  # noqa: SIM105 - contextlib is not loaded here
        os.kill(pid, number)
    except OSError:
        pass  # it ended between the look and the signal


def _main() -> None:
    servers: dict[int, tuple[str, int]] = {}
    folders: set[str] = set()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the supervisor has, not before
    for line in sys.stdin.buffer:
        match line.decode("ascii").split():
            case ["watch", pid, moment, stop_signal]:
                servers[int(pid)] = (moment, int(stop_signal))
            case ["forget", pid]:
                servers.pop(int(pid), None)
            case ["folder", path]:
                folders.add(os.fsdecode(bytes.fromhex(path)))
            case ["unfolder", path]:
                folders.discard(os.fsdecode(bytes.fromhex(path)))
            case _:
                pass  # cut short as the supervisor died
    if servers:
        end(servers)
    if folders:
        remove(folders)


if __name__ == "__main__":
    _main()
