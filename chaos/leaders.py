"""Leaders under fire: three replicas of every service, whose leaders are killed, and stopped and woken, under load.

    python -m chaos.leaders --kills 20 --stops 20

Judged is that each kind of work has one leader at a time and a new one within three seconds (p99), that a woken process
commits nothing in its old term, that no other service's role can stop a leader, and that the log has each act once.
"""

import argparse
import asyncio
import os
import random
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from causeloop_cli import services
from causeloop_cli.embedded import Janitor
from causeloop_cli.embedded.process import ServerProcess
from causeloop_common import schedules
from causeloop_common.contracts import topology
from causeloop_common.leader import TAKEOVER
from causeloop_common.leases import LEASE_SECONDS
from causeloop_common.settings import with_role
from chaos import ledger
from tests.support.load import Load, assert_kept
from tests.support.stack import Person, Stack, until

REPLICAS = 3
STOP_SECONDS = 10.0
STRANGER = "causeloop_tenancy"

_ADVISORY = (0x0_CA05E_0000, *range(0x0_CA05E_0001, 0x0_CA05E_0006), 0x0_CA05E_1001, 0x0_CA05E_1002)
"""The numbers of the locks by which there were leaders before."""
_ATTEMPTS = (
    "UPDATE {schema}.leases SET until = 'infinity' WHERE name = '{name}'",
    "SELECT FROM {schema}.leases WHERE name = '{name}' FOR UPDATE",
    "BEGIN; LOCK TABLE {schema}.leases IN ACCESS EXCLUSIVE MODE",
    "SELECT {schema}.require_term('{name}', 1, gen_random_uuid())",
)
_PAGE = """
    SELECT sum((term < before)::int) AS backwards, count(DISTINCT term) AS terms, max(n) - count(*) AS missing,
           (SELECT count(*) FROM (SELECT FROM ledger.entries GROUP BY term HAVING count(DISTINCT pid) > 1) t) AS shared
    FROM (SELECT n, term, lag(term) OVER (ORDER BY n) AS before FROM ledger.entries) e
"""


class Kind(NamedTuple):
    """One kind of work of one schema."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


KINDS = (
    *(
        Kind(owner, name)
        for owner in topology.OWNERS
        for name in services.tables(owner).tables[f"{owner}.leases"].info["leaders"]
    ),
    Kind("ledger", "ledger"),
)
PROMPT = tuple(kind for kind in KINDS if kind.name != schedules.LEASE)
"""Those that are taken over at once. The schedule can wait: its lease outlasts a stop."""


@dataclass
class Fire:
    """One run against one house."""

    stack: Stack
    janitor: Janitor
    say: Callable[[str], None]
    choices: random.Random
    stop_seconds: float = STOP_SECONDS
    terms: dict[Kind, int] = field(default_factory=dict)
    taken: dict[Kind, tuple[int, float]] = field(default_factory=dict)
    takeovers: list[float] = field(default_factory=list)
    refused: int = 0
    ledgers: dict[str, ServerProcess] = field(default_factory=dict)

    async def run(self, kills: int, stops: int) -> str:
        """Kill and stop so many leaders in turn; the figures. AssertionError where something is not as promised."""
        async with AsyncExitStack() as more:
            for service in topology.SERVICES:
                await more.enter_async_context(self.stack.replicas(service, REPLICAS - 1))
            await more.enter_async_context(self._ledgers())
            person = await self.stack.sign_up()
            await more.enter_async_context(_beside(self._watch(), self._attack()))
            await until("every kind has a leader", self._all_led, seconds=60)
            acts = ["kill"] * kills + ["stop"] * stops
            self.choices.shuffle(acts)
            targets = [self.choices.sample(PROMPT, len(PROMPT)) for _ in range(len(acts) // len(PROMPT) + 1)]
            async with Load(person, pace=0.1) as load:
                for act, kind in zip(acts, (kind for turn in targets for kind in turn), strict=False):
                    await self._act(act, kind)
            await self._judge(person, load)
        return self._figures(kills, stops, load)

    async def _act(self, act: str, kind: Kind) -> None:
        found = await until(f"{kind} is led", lambda: self._leader(kind), seconds=60)
        assert found is not None
        victim, pid = found
        led = [one for one in PROMPT if one.schema == kind.schema and (await self._leader(one)) == (victim, pid)]
        before = {one: self.terms[one] for one in led}
        await asyncio.sleep(self.choices.uniform(0, 0.5))
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL if act == "kill" else signal.SIGSTOP)
        for one in led:
            taken = await until(f"{one} is taken over", partial(self._taken, one, before[one]), seconds=20)
            self.takeovers.append(taken - began)
        self.say(f"{act} {victim}: " + ", ".join(f"{one} {self.taken[one][1] - began:.2f} s" for one in led))
        if act == "stop":
            await asyncio.sleep(max(self.stop_seconds - (time.monotonic() - began), 0))
            os.kill(pid, signal.SIGCONT)
        elif victim in self.ledgers:
            self.ledgers[victim].wait(10)
            self._start_ledger(victim)
        else:
            self.stack.processes[victim].wait(10)
            await self.stack.start(victim, wait=False)
        await asyncio.sleep(1)
        await self.stack.ready(seconds=60)
        for one in led:
            if await self._leader(one) == (victim, pid):
                assert self.terms[one] > before[one], f"{victim} leads {one} in the term that it lost"

    async def _leader(self, kind: Kind) -> tuple[str, int] | None:
        """The process that leads, by its own account: its name and pid. None while there is none."""
        if kind.schema == "ledger":
            async with self.stack.sql() as sql:
                pid = await sql.fetchval("SELECT pid FROM ledger.entries ORDER BY n DESC LIMIT 1")
            return next(((name, pid) for name, one in self.ledgers.items() if one.pid == pid), None)
        series = f'causeloop_leader{{name="{kind.name}",service="{kind.schema}"}}'
        names = [name for name in self.stack.processes if name.partition("-")[0] == kind.schema]
        led = [name for name in names if await self.stack.metric(name, series) == 1]
        assert len(led) <= 1 or await self._twice(series, led) <= 1, f"{kind} has several leaders: {led}"
        return (led[0], self.stack.processes[led[0]].pid) if len(led) == 1 else None

    async def _twice(self, series: str, names: list[str]) -> int:
        """How many lead when they are asked again: between two answers the lead may pass on."""
        return [await self.stack.metric(name, series) for name in names].count(1)

    async def _taken(self, kind: Kind, before: int) -> float:
        term, at = self.taken.get(kind, (0, 0.0))
        return at if term > before else 0.0

    async def _all_led(self) -> bool:
        return len(self.terms) == len(KINDS) and all([await self._leader(kind) for kind in KINDS])

    async def _watch(self) -> None:
        """Note when each kind is taken, as the database has it."""
        leases = " UNION ALL ".join(
            f"SELECT '{schema}' AS schema, name, term FROM {schema}.leases WHERE until > clock_timestamp()"
            for schema in (*topology.OWNERS, "ledger")
        )
        async with self.stack.sql() as sql:
            while True:
                for row in await sql.fetch(leases):
                    kind = Kind(row["schema"], row["name"])
                    assert row["term"] >= self.terms.get(kind, 0), f"the term of {kind} went back"
                    if row["term"] != self.terms.get(kind):
                        self.terms[kind] = row["term"]
                        self.taken[kind] = (row["term"], time.monotonic())
                await asyncio.sleep(0.02)

    async def _attack(self) -> None:
        """Try to stop all leaders, as another service's role."""
        async with self.stack.sql(self.stack.database_url(STRANGER)) as holding:
            for number in _ADVISORY:
                assert await holding.fetchval("SELECT pg_try_advisory_lock($1)", number)
            async with self.stack.sql(self.stack.database_url(STRANGER)) as stranger:
                while True:
                    for kind in KINDS:
                        for attempt in _ATTEMPTS:
                            await self._try(stranger, attempt.format(schema=kind.schema, name=kind.name))
                    await asyncio.sleep(1)

    async def _try(self, stranger: Any, statement: str) -> None:
        try:
            await stranger.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            self.refused += 1
            await stranger.execute("ROLLBACK")
        else:
            raise AssertionError(f"{STRANGER} may do this: {statement}")

    @asynccontextmanager
    async def _ledgers(self) -> AsyncIterator[None]:
        password = secrets.token_hex()
        async with self.stack.sql() as sql:
            for statement in ledger.ddl(password):
                await sql.execute(statement)
        self._ledger_dsn = with_role(self.stack.database_url(STRANGER), ledger.ROLE, password)
        for number in range(1, REPLICAS + 1):
            self._start_ledger(f"ledger-{number}")
        try:
            yield
        finally:
            for process in self.ledgers.values():
                process.stop()

    def _start_ledger(self, name: str) -> None:
        command = [sys.executable, "-m", "chaos.ledger", self._ledger_dsn]
        log, here = self.stack.folder / f"{name}.log", Path(__file__).parent.parent
        self.ledgers[name] = ServerProcess(command, log=log, janitor=self.janitor, folder=here)

    async def _judge(self, person: Person, load: Load) -> None:
        assert self.refused, "nobody tried to stop a leader"
        async with self.stack.sql() as sql:
            page = await sql.fetchrow(_PAGE)
        assert (page["backwards"], page["missing"], page["shared"]) == (0, 0, 0), dict(page)
        assert set(load.statuses()) <= {200, 503, 504}, load.summary()
        await assert_kept(self.stack, person, load.done)

    def _figures(self, kills: int, stops: int, load: Load) -> str:
        took = sorted(self.takeovers)
        p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
        assert p99 <= TAKEOVER * LEASE_SECONDS, f"taken over after {p99:.2f} s (p99)"
        return (
            f"leaders: {kills} kills and {stops} stops of {self.stop_seconds:g} s, {len(took)} leads taken over, p50 "
            f"{statistics.median(took):.2f} s, p99 {p99:.2f} s, max {took[-1]:.2f} s; {self.refused} attempts of "
            f"{STRANGER} refused; {load.summary()}, each act once in the log"
        )


@asynccontextmanager
async def _beside(*work: Any) -> AsyncIterator[None]:
    """Run these until the block ends; one that fails ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()


async def _main(options: argparse.Namespace, folder: Path) -> None:
    with Janitor() as janitor:
        stack = Stack(folder, janitor)
        fire = Fire(stack, janitor, lambda line: print(line, flush=True), random.Random(options.seed))
        try:
            await stack.start_all()
            print(await fire.run(options.kills, options.stops))
        finally:
            await stack.stop_all()


def main() -> None:
    """Run it; the folder with the logs stays when something does not hold."""
    parser = argparse.ArgumentParser(description="Kill and stop leaders under load.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="causeloop-leaders-"))
    print(f"seed {options.seed}, logs in {folder}", flush=True)
    asyncio.run(_main(options, folder))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
