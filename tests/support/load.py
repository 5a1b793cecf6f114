"""Requests at a steady pace, whatever becomes of the ones before, and what became of each."""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from causeloop_common import ids
from tests.support.log import completed_log
from tests.support.stack import Person, Stack

DEADLINE = 5.0
"""What a command waits for its answer at most."""


@dataclass(frozen=True)
class Outcome:
    """One put of one path. `status` is 0 when the connection broke."""

    path: str
    begun: float
    ended: float
    status: int
    code: str

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


class Load:
    """Puts one new path after the other, `pace` seconds apart, until left; waits then for all answers."""

    _numbers = itertools.count()

    def __init__(self, person: Person, pace: float = 0.02) -> None:
        self._person = person
        self._pace = pace
        self._name = f"load{next(self._numbers)}"
        self._requests: list[asyncio.Task[Outcome]] = []
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        await self._running
        await asyncio.gather(*self._requests)

    async def _run(self) -> None:
        for number in itertools.count():
            if self._stopped.is_set():
                return
            self._requests.append(asyncio.create_task(self._put(f"{self._name}/{number}")))
            await asyncio.sleep(self._pace)

    async def _put(self, path: str) -> Outcome:
        begun, code = time.monotonic(), ""
        try:
            answer = await self._person.put(f"/secrets/{path}", json={"value": path})
            status = answer.status_code
            code = "" if answer.is_success else answer.json()["code"]
        except httpx.TransportError:
            status = 0
        return Outcome(path, begun, time.monotonic(), status, code)

    @property
    def done(self) -> list[Outcome]:
        """What has been answered so far."""
        return [request.result() for request in self._requests if request.done()]

    def count(self, status: int) -> int:
        return sum(outcome.status == status for outcome in self.done)

    def between(self, since: float, until: float) -> list[Outcome]:
        """What was begun in between."""
        return [outcome for outcome in self.done if since <= outcome.begun < until]

    def summary(self) -> str:
        """How many got which answer."""
        return ", ".join(f"{count} × {status or 'cut'}" for status, count in sorted(self.statuses().items()))

    def statuses(self) -> Counter[int]:
        return Counter(outcome.status for outcome in self.done)


async def assert_kept(stack: Stack, person: Person, outcomes: list[Outcome]) -> None:
    """What was acknowledged was done, what was refused was not, and the log has each act exactly once."""
    entries = await completed_log(stack, person)
    written = Counter(entry["target"] for entry in entries if entry["action"] == "vault.secret_written")
    async with stack.sql() as sql:
        rows = await sql.fetch(
            "SELECT path, id, version FROM vault.secrets WHERE workspace_id = $1", ids.tenant_uuid(person.workspace)
        )
    stored = {row["path"]: (ids.encode("sec", row["id"]), row["version"]) for row in rows}
    for outcome in outcomes:
        there = stored.get(outcome.path)
        if outcome.status == 200:
            assert there is not None, f"acknowledged and lost: {outcome}"
        elif outcome.status not in (0, 504):
            assert there is None, f"refused and done: {outcome}"
        if there is not None:
            assert there[1] == 1, f"done {there[1]} times: {outcome}"
            assert written[there[0]] == 1, f"recorded {written[there[0]]} times: {outcome}"
    assert sum(written.values()) == sum(version for _, version in stored.values())
