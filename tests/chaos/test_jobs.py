"""A re-encryption while every process is killed again and again: it ends, each value is counted once, all of it opens.

    REENCRYPT=20000 .venv/bin/pytest -q -n 0 tests/chaos/test_jobs.py

seals 20 000 secrets and 1000 values of another service anew; without it a small workspace does.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import httpx
import pytest

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.vault import OpenSealedValue, StoreSealedValue
from causeloop_common.permissions import Internal
from tests.support.bus import asking
from tests.support.forks import PROBE
from tests.support.stack import Person, Stack, content_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.campaign]

SECRETS = int(os.environ.get("REENCRYPT", "600"))
KILLS = 5
AT_ONCE = 24
PATIENCE = 600.0


async def each(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """Do the work for each number, many at once."""
    waiting = iter(numbers)

    async def one_after_the_other() -> None:
        for number in waiting:
            await work(number)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


class Workspace:
    """A workspace with many secrets, and values of another service."""

    def __init__(self, stack: Stack, person: Person, secrets: int) -> None:
        self.stack = stack
        self.person = person
        self.secrets, self.values = secrets, max(secrets // 20, 100)
        self.total = self.secrets + self.values
        self.uuid = ids.tenant_uuid(person.workspace)

    async def fill(self) -> None:
        async def put(number: int) -> None:
            content_of(await self.person.put(f"/secrets/s/{number}", json={"value": f"value {number}"}))

        await each(put, range(self.secrets))
        ctx = asking(self.person.workspace, self.person.id, *Internal, issuer="auth")
        async with self.stack.bus_of("auth") as auth:

            async def store(number: int) -> None:
                named = {"purpose": PROBE.name, "record": f"record-{number}", "plaintext": f"sealed {number}"}
                await auth.call(ctx, StoreSealedValue.model_validate(named))

            await each(store, range(self.values))

    async def opens(self, secrets: Iterable[int], values: Iterable[int]) -> None:
        """Each of these secrets and values opens, and is what was put there."""

        async def reveal(number: int) -> None:
            shown = content_of(await self.person.post(f"/secrets/s/{number}/reveal"))
            assert shown["value"] == f"value {number}"

        await each(reveal, secrets)
        ctx = asking(self.person.workspace, self.person.id, *Internal, issuer="auth")
        async with self.stack.bus_of("auth") as auth:

            async def open_(number: int) -> None:
                answer = await auth.call(ctx, OpenSealedValue(purpose=PROBE.name, record=f"record-{number}"))
                assert answer.plaintext.get_secret_value() == f"sealed {number}"

            await each(open_, values)

    async def rotate(self) -> str:
        return str(content_of(await self.person.post("/keyring/rotate"), 202)["id"])

    async def ended(self, job: str) -> dict[str, Any]:
        """The job, once it has ended."""

        async def look() -> dict[str, Any] | None:
            with suppress(httpx.HTTPError):
                answer = await self.person.get(f"/jobs/{job}")
                if answer.status_code == 200 and answer.json()["ended_at"] is not None:
                    return dict(answer.json())
            return None

        return await until("the job has ended", look, seconds=PATIENCE, every=0.1) or {}

    async def sealed_under(self) -> dict[int, int]:
        """How many ciphertexts lie under each version of the data key."""
        tables = " UNION ALL ".join(
            f"SELECT sealed FROM vault.{table} WHERE workspace_id = $1"
            for table in ("secret_versions", "keys", "sealed_values")
        )
        async with self.stack.sql() as sql:
            rows = await sql.fetch(
                f"SELECT split_part(sealed, ':', 2)::int AS version, count(*) FROM ({tables}) AS t GROUP BY 1",
                self.uuid,
            )
        return {row["version"]: row["count"] for row in rows}

    async def counted(self, version: int) -> list[int]:
        """The counts in the events of a re-encryption, once all of them are in the log."""

        async def counts() -> list[int]:
            async with self.stack.sql() as sql:
                rows = await sql.fetch(
                    "SELECT event_id, (data::json ->> 'count')::int AS count FROM vault.outbox WHERE workspace_id = $1 "
                    "AND type = 'vault.keyring_reencrypted' AND (data::json ->> 'version')::int = $2",
                    self.uuid,
                    version,
                )
                entered = await sql.fetchval(
                    "SELECT count(*) FROM audit.entries WHERE workspace_id = $1 AND event_id = ANY($2)",
                    self.uuid,
                    [row["event_id"] for row in rows],
                )
            return [row["count"] for row in rows] if entered == len(rows) else []

        return await until("the events are in the log", counts, seconds=PATIENCE)


class Progress:
    """A job's progress, as its row has it, looked at again and again; the database may be away in between."""

    def __init__(self, stack: Stack, job: str) -> None:
        self._stack = stack
        self._job = ids.decode(job, "job_vault")
        self.seen: list[int] = []

    async def run(self) -> None:
        while True:
            with suppress(
                OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
            ):
                sql = await asyncpg.connect(self._stack.superuser_url, timeout=2, command_timeout=2)
                try:
                    while True:
                        self.seen.append(await sql.fetchval("SELECT done FROM vault.jobs WHERE id = $1", self._job))
                        await asyncio.sleep(0.002)
                finally:
                    sql.terminate()  # to close it in order could wait for ever for a server that was killed
            await asyncio.sleep(0.05)

    async def reached(self, done: int) -> None:
        async def has() -> bool:
            return bool(self.seen) and self.seen[-1] >= done

        await until(f"{done} are done", has, seconds=PATIENCE, every=0.002)


@asynccontextmanager
async def watched(stack: Stack, job: str) -> AsyncIterator[Progress]:
    progress = Progress(stack, job)
    task = asyncio.create_task(progress.run())
    try:
        yield progress
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def readers(workspace: Workspace) -> AsyncIterator[dict[int, int]]:
    """Secrets are revealed meanwhile: each answer is the value, or that a part is away. Yields counts by status."""
    statuses: dict[int, int] = {}

    async def read() -> None:
        while True:
            number = random.randrange(workspace.secrets)
            with suppress(httpx.HTTPError):
                answer = await workspace.person.post(f"/secrets/s/{number}/reveal")
                statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                if answer.status_code == 200:
                    assert answer.json()["value"] == f"value {number}"
                else:
                    assert answer.status_code in (503, 504), answer.text
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(read())
    try:
        yield statuses
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def kill_everything(stack: Stack) -> None:
    """SIGKILL to the five services and both servers at the same time, then all of it again."""
    for server in (stack.nats, stack.postgres):
        os.kill(server.pid, signal.SIGKILL)
    stack.kill(*topology.SERVICES)
    for server in (stack.postgres, stack.nats):
        server.restart()
    await stack.start(*topology.SERVICES)


class TestAReencryption:
    @pytest.mark.slow
    async def test_ends_though_every_process_is_killed_five_times_and_counts_each_value_once(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        workspace = Workspace(fragile, person, SECRETS)
        total = workspace.total
        await workspace.fill()
        began = time.monotonic()
        job = await workspace.rotate()
        async with watched(fragile, job) as progress, readers(workspace) as statuses:
            for kill in range(KILLS):
                await progress.reached(max(total * kill // (KILLS + 1), 1))
                await kill_everything(fragile)
            view = await workspace.ended(job)
        took = time.monotonic() - began

        assert (view["state"], view["error"]) == ("done", None)
        assert view["progress"]["done"] == total
        assert view["result"] == f"{total} of {total} values and keys are sealed under version 2."
        assert progress.seen == sorted(progress.seen)
        assert await workspace.sealed_under() == {2: total}
        counts = await workspace.counted(2)
        assert sum(counts) == total
        await workspace.opens(range(workspace.secrets), range(workspace.values))
        tell(
            f"chaos: {total} values re-encrypted in {took:.0f} s, in {len(counts)} steps whose events count "
            f"{sum(counts)}, every process killed {KILLS} times; progress seen {len(progress.seen)} times, never less; "
            f"all open; reveals meanwhile by status: {statuses}"
        )

    @pytest.mark.slow
    async def test_cancelled_halfway_leaves_all_readable_and_is_started_again(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        workspace = Workspace(fragile, person, min(SECRETS, 2000))
        total = workspace.total
        await workspace.fill()
        job = await workspace.rotate()
        async with watched(fragile, job) as progress:
            await progress.reached(total // 4)
            content_of(await person.delete(f"/jobs/{job}"), 202)
            view = await workspace.ended(job)
        under = await workspace.sealed_under()
        assert view["state"] == "cancelled"
        assert view["progress"]["done"] == under[2] < total
        assert under == {1: total - under[2], 2: under[2]}
        assert sum(await workspace.counted(2)) == under[2]
        sample = [random.randrange(workspace.secrets) for _ in range(300)]
        await workspace.opens(sample, range(workspace.values))

        again = await workspace.rotate()
        view = await workspace.ended(again)
        assert (view["state"], view["progress"]["done"]) == ("done", total)
        assert await workspace.sealed_under() == {3: total}
        assert sum(await workspace.counted(3)) == total
        await workspace.opens(sample, range(workspace.values))
        listed = [one["id"] for one in content_of(await person.get("/jobs"))["data"]]
        assert listed == [again, job]
        tell(f"chaos: a re-encryption cancelled after {under[2]} of {total}; begun again, it did all {total}")

    async def test_of_a_vault_that_is_away_is_named_by_the_list(self, fragile: Stack, person: Person) -> None:
        content_of(await person.get("/workspace"))
        fragile.kill("vault")
        assert content_of(await person.get("/jobs"))["unanswered"] == ["vault"]
        await fragile.start("vault")
        assert content_of(await person.get("/jobs"))["unanswered"] == []
