"""One campaign: acts through the gateway while the wire is foul, and the stream or audit's database loses something."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from chaos.receipts import judge, strikes
from chaos.receipts.acts import Acts
from chaos.receipts.judge import Found, Heads
from chaos.receipts.watchers import Watcher
from chaos.receipts.wire import FOUL, Wire
from tests.support.copies import Copy
from tests.support.stack import Stack, until

WATCHERS = 6
DEFAULTS = ("wire", "ballast", "thief", "purge")
STRIKES = (*DEFAULTS, "restore")
"""All there are."""
COPY_AT, PURGE_AT, RESTORE_AT = 0.3, 0.4, 0.5
"""When audit's database is copied, the stream purged, and the copy restored: by the part of the acts that is done."""
_STOLEN = 0.1


@dataclass(frozen=True)
class Plan:
    """What a campaign does."""

    seed: int
    acts: int
    seconds: float
    strikes: frozenset[str] = frozenset(DEFAULTS)
    receipts: bool = True
    lag: float = 0.0
    """Seconds for which the intake takes in nothing; the wire is fair then, and nothing else is done."""
    patience: float = 60.0
    """Seconds after the last act, for every entry to be there."""


@dataclass
class Campaign:
    """One run against one installation, whose services connect through `wire`."""

    stack: Stack
    wire: Wire
    plan: Plan
    say: Callable[[str], None]
    found: Found = field(default_factory=Found)
    logs: dict[str, int] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    """What clients of the stream were not sent as promised."""
    notes: dict[str, Any] = field(default_factory=dict)

    async def run(self) -> None:
        """Act, strike, and judge in the end."""
        plan = self.plan
        acts = Acts(self.stack, plan.seed, plan.acts, plan.seconds)
        await acts.sign_up()
        watchers = [Watcher(self.stack, person) for person in acts.people[:WATCHERS]]
        if not plan.receipts:
            self.wire.withheld.add("receipt")
        heads = Heads()
        begun = time.monotonic()
        async with _beside(*(watcher.run() for watcher in watchers)):
            async with (
                _beside(self._strike(acts, heads), self._tell(acts)) if not plan.lag else _beside(self._lag(acts))
            ):
                await acts.run()
            self.wire.calm()
            self.notes |= {"acts": len(acts.done), "answers": dict(acts.answers), "took": time.monotonic() - begun}
            self.found = await judge.entered(self.stack, acts.done, plan.patience)
            seen = await asyncio.gather(*map(self._seen, watchers))
            self.unseen = [breach for breaches in seen for breach in breaches]
        self.notes["refusals"] = sorted({refusal for watcher in watchers for refusal in watcher.refusals})
        self.logs = dict(await heads.compare(self.stack))
        self.notes["broken"] = heads.refusals
        self.notes["republished"] = sum(count - 1 for count in self.wire.published.values())

    @property
    def holds(self) -> bool:
        """Whether everything is as promised. A log does not continue if EVENTS was purged since the copy: of it nothing
        is promised but its entries.
        """
        found = self.found
        wrong = bool(found.doubled or found.events_doubled)
        if not {"purge", "restore"} <= self.plan.strikes:
            wrong = wrong or bool(self.unseen or self.logs.get("broken"))
        if self.plan.lag:
            wrong = wrong or bool(self.notes["republished"])
        return found.is_whole() and not wrong

    async def _strike(self, acts: Acts, heads: Heads) -> None:
        plan, choices = self.plan, random.Random(self.plan.seed)
        async with AsyncExitStack() as more:
            if "wire" in plan.strikes:
                self.wire.weather, self.wire.cutting = FOUL, True
                await more.enter_async_context(_beside(self._storms(choices)))
            if "ballast" in plan.strikes:
                load = await more.enter_async_context(strikes.ballast(self.stack, acts.people[-1]))
                await more.enter_async_context(_beside(self._burden(load, choices)))
            if "thief" in plan.strikes:
                stolen = await more.enter_async_context(strikes.thief(self.stack, choices, _STOLEN))
                self.notes["stolen"] = stolen
            copy = Copy("audit")
            if "restore" in plan.strikes:
                await _reaches(acts, COPY_AT)
                async with self.stack.sql() as sql:
                    await copy.take(sql)
            if "purge" in plan.strikes:
                await _reaches(acts, PURGE_AT)
                lost = await strikes.purge(self.stack, self.wire)
                self.say(f"EVENTS was purged with {lost} events that were not taken in")
            if "restore" in plan.strikes:
                await _reaches(acts, RESTORE_AT)
                heads.signed |= (await Heads.keep(self.stack, acts.tenants)).signed
                lost = await strikes.restore(self.stack, copy)
                self.say(f"audit's database was restored to an older copy: {lost} entries fewer")
            acts.going_on = False
            await asyncio.Event().wait()

    async def _storms(self, choices: random.Random) -> None:
        while True:
            await asyncio.sleep(choices.uniform(3, 12))
            self.wire.storm = True
            await asyncio.sleep(choices.uniform(1, 5))
            self.wire.storm = False

    async def _burden(self, load: strikes.Ballast, choices: random.Random) -> None:
        while True:
            await asyncio.sleep(choices.uniform(3, 12))
            await load.commit(100)

    async def _lag(self, acts: Acts) -> None:
        await asyncio.sleep(1)
        with self.wire.withholding("pull"):
            await asyncio.sleep(self.plan.lag)
        acts.going_on = False

    async def _tell(self, acts: Acts) -> None:
        while True:
            await asyncio.sleep(20)
            self.say(f"{len(acts.done):>6} acts done, answers {dict(sorted(acts.answers.items()))}")

    async def _seen(self, watcher: Watcher) -> list[str]:
        """What a watcher was not sent as promised, once it has had time to reach the end of its log."""
        stored = await judge.ids_of(self.stack, watcher.person.workspace)
        arrived = await watcher.reaches(len(stored), self.plan.patience)
        breaches = watcher.breaches(stored)
        if not arrived:
            breaches.append(f"{watcher.person.workspace} was not sent all: {watcher.refusals[-1:]}")
        return breaches


async def _reaches(acts: Acts, part: float) -> None:
    async def done() -> bool:
        return acts.part >= part

    await until(f"{part:.0%} of the acts are done", done, seconds=float("inf"), every=0.1)


@asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these until the block ends; one that fails ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
