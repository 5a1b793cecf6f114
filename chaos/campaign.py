"""Kill after kill: one process at a random moment under load, started again at once, waited for until all is well.

Everything random follows from the seed: whom, when, and what the clients do. When what happens inside the processes
does not, so that a seed finds the same story and not the same microsecond.
"""

import asyncio
import contextlib
import os
import random
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from causeloop_common.contracts import topology
from chaos.judge import judge
from chaos.model import Model
from chaos.probe import Asked, Probe
from chaos.workers import Worker
from tests.support.load import DEADLINE
from tests.support.stack import Person, Stack, until

TARGETS = (*topology.SERVICES, "nats", "postgres")
WORKERS = 6
NOTICED = 0.1
"""Seconds after a kill in which a question may still have been handed to the dead; it ends by its deadline."""


@dataclass(frozen=True)
class Limits:
    """Seconds. `slack` stretches what a busy machine stretches."""

    slack: float = 1.0
    refusal: float = 1.0
    gateway: float = 3.0
    recovery: float = 20.0


@dataclass(frozen=True)
class Kill:
    """What one kill did: seconds until all was ready again, and how long each refusal took while it was not."""

    target: str
    recovered: float
    refusals: tuple[float, ...]


@dataclass
class Campaign:
    """One run against one house: so many kills, or as many of them as there is time for."""

    stack: Stack
    seed: int
    kills: int
    limits: Limits
    say: Callable[[str], None]
    seconds: float = float("inf")
    model: Model = field(default_factory=Model)
    done: list[Kill] = field(default_factory=list)
    is_over: bool = False
    """Whether it came to its end, and all was judged."""

    async def run(self) -> None:
        """Kill, and judge in the end; what must not be is in `model.broken`."""
        choices = random.Random(self.seed)
        workers = [
            Worker(self.stack, self.model, f"{self.seed}_{number}", random.Random(f"{self.seed}/{number}"))
            for number in range(WORKERS)
        ]
        person = await self.stack.sign_up()
        ends = time.monotonic() + self.seconds
        async with _working(workers):
            await asyncio.sleep(1)
            for number, target in enumerate(_drawn(choices, self.kills), 1):
                if time.monotonic() > ends:
                    break
                self.done.append(await self._kill(target, person, choices))
                self._tell(number)
                if self.model.broken:
                    break
        await judge(self.stack, self.model)
        self.is_over = True

    async def _kill(self, target: str, person: Person, choices: random.Random) -> Kill:
        async with Probe(person, target) as probe:
            await asyncio.sleep(choices.uniform(0.2, 0.8))
            killed = time.monotonic()
            await self._kill_and_start(target, probe)
            async with asyncio.timeout(self.limits.recovery * self.limits.slack):
                recovered = await self._recovered(target, probe) - killed
            if target == "gateway" and recovered > self.limits.gateway * self.limits.slack:
                self.model.breaks(f"the gateway is ready {recovered:.1f} s after it was killed")
            await asyncio.sleep(0.1)
            refusals = self._judge(target, probe.answers, killed, killed + recovered)
        return Kill(target, recovered, refusals)

    async def _kill_and_start(self, target: str, probe: Probe) -> None:
        """SIGKILL, and start it again as a supervisor would."""
        server = {"nats": self.stack.nats, "postgres": self.stack.postgres}.get(target)
        if server is None:
            self.stack.kill(target)
            await self.stack.start(target, wait=False)
            return
        os.kill(server.pid, signal.SIGKILL)
        await asyncio.sleep(NOTICED * self.limits.slack + 0.3)  # so that there is a while to be looked at
        with probe.blind():  # a server is started by the main thread, which waits for it
            server.restart()

    async def _recovered(self, target: str, probe: Probe) -> float:
        """Wait until everything is ready and what needs the target is answered; when it was ready."""
        if target == "gateway":
            await until("the gateway is ready", self._gateway_is_ready, every=0.01)
        ready = time.monotonic()
        await self.stack.ready(seconds=self.limits.recovery * self.limits.slack)
        if target != "gateway":
            ready = time.monotonic()

        async def is_answered() -> bool:
            return probe.answered_since(ready, 200)

        await until("it is answered", is_answered, every=0.01)
        return ready

    async def _gateway_is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await self.stack.http.get("/ready")).status_code == 200
        return False

    def _judge(self, target: str, answers: list[Asked], killed: float, recovered: float) -> tuple[float, ...]:
        """How long refusals took while the target was away; nothing else is right then but an answer.

        A refusal comes within a second. What is asked when the target is back already, and finds it busy with what it
        missed, is served by its deadline.
        """
        refusals = []
        for asked in answers:
            after = asked.begun - killed
            finding = f"{target} was killed; asked {after:.3f} s after it: {asked.status} after {asked.seconds:.3f} s"
            if asked.seconds > DEADLINE + 1 or asked.status not in (0, 200, 503, 504):
                self.model.breaks(finding)
            if target == "gateway" or not NOTICED * self.limits.slack <= after < recovered - killed:
                continue
            if asked.status == 503:
                refusals.append(asked.seconds)
                if asked.seconds > self.limits.refusal * self.limits.slack:
                    self.model.breaks(finding)
            elif asked.status != 200:
                self.model.breaks(finding)
        return tuple(refusals)

    def _tell(self, number: int) -> None:
        kill = self.done[-1]
        refused = f"{len(kill.refusals):>3} refused, slowest {1000 * max(kill.refusals, default=0):>4.0f} ms"
        self.say(
            f"{number:>4}/{self.kills}  {kill.target:<9} recovered in {kill.recovered:>5.2f} s  {refused}  "
            f"{self.model.acts:>6} acts acknowledged"
        )

    def report(self) -> dict[str, Any]:
        """Figures, for reading and for `chaos.json`."""
        targets = {}
        for target in TARGETS:
            kills = [kill for kill in self.done if kill.target == target]
            if kills:
                targets[target] = {
                    "kills": len(kills),
                    "recovery_s": _spread([kill.recovered for kill in kills]),
                    "refusal_ms": _spread([1000 * seconds for kill in kills for seconds in kill.refusals]),
                }
        return {
            "seed": self.seed,
            "kills": len(self.done),
            "holds": self.is_over and not self.model.broken,
            "broken": self.model.broken,
            "targets": targets,
            "acts": self.model.acts,
            "proven": self.model.proven,
            "answers": {str(status): count for status, count in sorted(self.model.answers.items())},
            "revocations": {
                "count": len(self.model.words),
                "last_success_ms": _spread([1000 * w for w in self.model.words]),
            },
        }


def _drawn(choices: random.Random, kills: int) -> Iterator[str]:
    """Whom to kill: everybody once in random order, then everybody once more."""
    bag: list[str] = []
    for _ in range(kills):
        if not bag:
            bag = choices.sample(TARGETS, len(TARGETS))
        yield bag.pop()


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"p50": round(statistics.median(values), 2), "max": round(max(values), 2)}


@contextlib.asynccontextmanager
async def _working(workers: list[Worker]) -> AsyncIterator[None]:
    """Let them work; a worker that fails ends the block, and all of them finish what they began at its end."""
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run())
        try:
            yield
        finally:
            for worker in workers:
                worker.stopped = True
