"""The lease of a job: under it alone a step is committed."""

import asyncio

import pytest

from causeloop_common import ids, jobs
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import KeyCreated
from causeloop_common.worker import takes
from tests.support.counting import Counting, Step, nothing, step_of


class TestTheLease:
    async def test_of_a_worker_that_is_gone_ends_and_another_goes_on_where_it_was(
        self, counting: Counting, workspace: AuthContext
    ) -> None:
        job = await counting.enqueue(workspace, 3)
        lease = await counting.taken()
        async with counting.database.transaction(workspace, step_of(job, lease)) as tx:
            tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
            tx.advance("1", done=1, detail="Counted to 1.")
        await counting.start()  # and the first never comes back
        await counting.settled(workspace, job)
        assert await counting.counted(workspace) == [0, 1, 2, 3]

    async def test_is_asked_at_the_commit_so_that_a_worker_that_slept_commits_nothing(
        self, counting: Counting, workspace: AuthContext
    ) -> None:
        job = await counting.enqueue(workspace, 3)
        old = await counting.taken(0.2)
        await asyncio.sleep(0.3)
        new = await counting.taken()
        assert (new["id"], new["lease_term"]) == (old["id"], old["lease_term"] + 1)
        with pytest.raises(jobs.LeaseLost):  # noqa: PT012  a transaction is refused at its end
            async with counting.database.transaction(workspace, step_of(job, old)) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
                tx.advance("1", done=1, detail="Counted to 1.")
        assert await counting.counted(workspace) == [0]

    async def test_that_ended_commits_nothing_even_if_nobody_took_the_job(
        self, counting: Counting, workspace: AuthContext
    ) -> None:
        job = await counting.enqueue(workspace, 3)
        lease = await counting.taken(0.05)
        await asyncio.sleep(0.1)
        with pytest.raises(jobs.LeaseLost):  # noqa: PT012  a transaction is refused at its end
            async with counting.database.transaction(workspace, step_of(job, lease)) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
                tx.end("Counted.", done=1)
        assert await counting.counted(workspace) == [0]

    async def test_is_renewed_while_a_step_runs(self, counting: Counting, workspace: AuthContext) -> None:
        async def slowly(step: Step) -> None:
            await asyncio.sleep(1.2)

        counting.before = slowly
        await counting.start()
        await counting.start()
        await counting.done(workspace, 1)
        assert len(counting.contexts) == 1

    async def test_is_given_back_by_a_worker_that_stops(
        self, counting: Counting, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(takes, "LEASE_SECONDS", 60.0)
        begun = asyncio.Event()

        async def for_ever(step: Step) -> None:
            begun.set()
            await asyncio.sleep(60)

        counting.before = for_ever
        first = await counting.start()
        job = await counting.enqueue(workspace, 1)
        await asyncio.wait_for(begun.wait(), 5)
        await first.end()
        counting.before = nothing
        await counting.start()
        await counting.settled(workspace, job)
