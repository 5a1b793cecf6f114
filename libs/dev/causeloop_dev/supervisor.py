"""The supervisor of `causeloop dev`: it restarts a process that crashes, and stops all of them in order.

One thread, no event loop, because it forks: it sleeps until a signal or the next appointment. Something that ends is
started again at once; when it ends again and again, after 0.2 s, doubling to 10 s; after 30 s of life that is
forgotten. Each crash is reported in one line.

The first SIGINT, SIGTERM or SIGHUP becomes a KeyboardInterrupt at the supervisor's next look, where it is safe: raised
by the handler it could come in a destructor, where Python drops it. A second one does not wait for that, and hurries
the stopping that follows.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from causeloop_cli.embedded.process import ServerFailed
from causeloop_dev.forked import CAUGHT, Forked

GRACE_SECONDS = 8.0
"""From being asked to stop until being killed."""

FIRST_PAUSE, LONGEST_PAUSE, SETTLED_SECONDS = 0.2, 10.0, 30.0
_LOOK_SECONDS = 1.0
"""A look without a signal, in case one was lost."""


class Ward(Protocol):
    """A forked process, or an embedded server."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    def alive(self) -> bool:
        """Whether it runs."""
        ...

    def restart(self) -> None:
        """Start it again at the same address; ServerFailed when that did not work."""
        ...


@dataclass
class _Watched:
    ward: Ward
    crashes: int = 0
    pause: float = 0.0
    due: float | None = None
    since: float = field(default_factory=time.monotonic)


class Supervisor:
    """Watches its wards. Enter it as a context: it handles the signals of this process meanwhile."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called whenever something was started again."""
        self._changed = changed
        self._watched: dict[str, _Watched] = {}
        self._asked = 0
        """How many signals asked us to stop: the first politely."""
        self._stopping = False

    def __enter__(self) -> "Supervisor":
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._on_signal) for number in CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._woken)
        os.close(self._wake)

    def watch(self, ward: Ward) -> None:
        """Watch it from now on."""
        self._watched[ward.name] = _Watched(ward)

    def pids(self) -> dict[str, int]:
        """The process id of each ward by name."""
        return {name: watched.ward.pid for name, watched in self._watched.items()}

    def crashes(self, name: str) -> int:
        """How often it ended by itself without settling between."""
        return self._watched[name].crashes

    def sleep(self, seconds: float) -> None:
        """Sleep until a signal, or so long; then look after the wards. KeyboardInterrupt once asked to stop."""
        self.look()
        self._doze(seconds)
        self.look()
        for watched in self._watched.values():
            self._look_after(watched)

    def look(self) -> None:
        """KeyboardInterrupt once asked to stop."""
        if self._asked:
            self._interrupt()

    def run(self) -> None:
        """Look after the wards until KeyboardInterrupt."""
        while True:
            now = time.monotonic()
            due = (watched.due - now for watched in self._watched.values() if watched.due is not None)
            self.sleep(max(0.0, min([_LOOK_SECONDS, *due])))

    def stop(self, children: Sequence[Forked]) -> None:
        """Watch nothing any more; stop these children, all at once: SIGTERM, and SIGKILL for one that is too slow."""
        self._stopping = True
        self._watched.clear()
        for child in children:
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(child.alive() for child in children):
            if time.monotonic() > deadline or self._asked > 1:
                for child in children:
                    child.send(signal.SIGKILL)
            self._doze(0.05)

    def _look_after(self, watched: _Watched) -> None:
        ward, now = watched.ward, time.monotonic()
        if watched.due is None:
            if ward.alive():
                return
            if now - watched.since >= SETTLED_SECONDS:
                watched.crashes, watched.pause = 0, 0.0
            watched.crashes += 1
            watched.due = now + watched.pause
            when = f"in {watched.pause:g} s" if watched.pause else "now"
            how, where = (ward.ending, f" (its log: {ward.log})") if isinstance(ward, Forked) else ("has ended", "")
            report(f"{ward.name} {how}; starting it again {when}{where}")
            watched.pause = _next_pause(watched.pause)
        if now < watched.due:
            return
        try:
            ward.restart()
        except ServerFailed as failure:
            watched.due = time.monotonic() + watched.pause
            report(f"{ward.name} could not be started; again in {watched.pause:g} s: {failure}")
            watched.pause = _next_pause(watched.pause)
        else:
            watched.due, watched.since = None, time.monotonic()
            self._changed()

    def _doze(self, seconds: float) -> None:
        select.select([self._woken], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGCHLD:
            return  # it woke us, which is all
        self._asked += 1
        if self._asked > 1:
            self._interrupt()

    def _interrupt(self) -> None:
        """Raise once: nothing may come between the steps of stopping."""
        if not self._stopping:
            self._stopping = True
            raise KeyboardInterrupt


def report(sentence: str) -> None:
    """Print one line on the terminal."""
    print(f"causeloop dev: {sentence}", file=sys.stderr, flush=True)


def _next_pause(pause: float) -> float:
    return min(LONGEST_PAUSE, max(FIRST_PAUSE, pause * 2))
