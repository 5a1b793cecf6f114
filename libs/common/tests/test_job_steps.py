"""A job's steps: done once each, for the one who began it, and again when they fail."""

from dataclasses import replace

import pytest

from causeloop_common import ids, jobs
from causeloop_common.context import Assurance, AuthContext
from causeloop_common.contracts import vault
from causeloop_common.contracts.jobs import GetJob
from causeloop_common.contracts.vault import KeyCreated
from causeloop_common.errors import Unavailable
from causeloop_common.permissions import Permission
from causeloop_common.worker import runs, takes
from causeloop_dev.testing import context
from tests.support.counting import Counting, CountThings, Step, step_of


class TestSteps:
    async def test_are_done_in_their_order_once_each_and_counted(
        self, counting: Counting, workspace: AuthContext
    ) -> None:
        await counting.start()
        job = await counting.enqueue(workspace, 5)
        view = await counting.settled(workspace, job)
        assert (view.progress.done, view.progress.total) == (5, 5)
        assert (view.result, view.error, view.attempts) == ("Counted to 5.", None, 0)
        assert view.created_by == workspace.principal
        assert view.started_at is not None
        assert view.ended_at is not None
        assert await counting.counted(workspace) == [0, 1, 2, 3, 4, 5]
        ended = await counting.superuser.fetchrow(
            "SELECT data::json ->> 'outcome' AS outcome, data::json ->> 'done' AS done, actor FROM vault.outbox "
            "WHERE workspace_id = $1 AND type = 'vault.job_ended'",
            workspace.tenant_uuid,
        )
        assert dict(ended or {}) == {"outcome": "done", "done": "5", "actor": workspace.principal}

    async def test_act_with_the_whole_identity_that_began_the_job_and_its_permission_alone(
        self, counting: Counting, workspace: AuthContext
    ) -> None:
        signed_in = replace(
            workspace, assurance=Assurance.MULTI, authenticated_at=1_700_000_000, on_behalf_of=ids.new("sva")
        )
        await counting.start()
        await counting.done(signed_in, 1)

        (ctx,) = counting.contexts
        assert ctx == replace(signed_in, permissions=frozenset({Permission.KEYS_WRITE}), issuer="vault")
        rows = await counting.superuser.fetch(
            "SELECT on_behalf_of FROM vault.outbox WHERE workspace_id = $1", workspace.tenant_uuid
        )
        assert [row["on_behalf_of"] for row in rows] == [signed_in.on_behalf_of] * 3  # enqueued, counted, ended

    async def test_of_many_jobs_are_shared_by_replicas_and_none_is_done_twice(self, counting: Counting) -> None:
        for _ in range(3):
            await counting.start()
        tenants = [context(ids.new("ws")) for _ in range(10)]
        begun = [(ctx, await counting.enqueue(ctx, 10)) for ctx in tenants]
        for ctx, job in begun:
            await counting.settled(ctx, job, seconds=20)
            assert await counting.counted(ctx) == [*range(11)]

    async def test_that_settle_nothing_are_not_committed(self, counting: Counting, workspace: AuthContext) -> None:
        step = jobs.Step(CountThings(until=1), "job", ids.uuid7(), 1, vault.JobEnded)
        with pytest.raises(RuntimeError, match=r"without `tx.advance` or `tx.end`"):
            async with counting.database.transaction(workspace, step) as tx:
                tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
        assert await counting.counted(workspace) == []

    async def test_give_their_place_away_when_their_turn_is_over(
        self, counting: Counting, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(takes, "AT_ONCE", 1)
        monkeypatch.setattr(runs, "TURN_SECONDS", 0.0)
        other = context(ids.new("ws"))
        first, second = await counting.enqueue(workspace, 50), await counting.enqueue(other, 1)
        await counting.start()
        await counting.settled(other, second)
        assert (await counting.service.get_job(workspace, GetJob(id=first))).state == "running"
        await counting.settled(workspace, first, seconds=20)
        assert await counting.counted(workspace) == [*range(51)]

    async def test_wait_as_long_as_the_one_before_asked_for(self, counting: Counting, workspace: AuthContext) -> None:
        job = await counting.enqueue(workspace, 2)
        lease = await counting.taken()
        async with counting.database.transaction(workspace, step_of(job, lease)) as tx:
            tx.publish(KeyCreated(key_id=ids.new("key"), version=1))
            tx.advance(None, done=0, detail="Waits.", wait=30)
        row = await counting.superuser.fetchrow(
            "SELECT lease_until, due_at > now() + interval '25 seconds' AS later FROM vault.jobs WHERE id = $1",
            lease["id"],
        )
        assert dict(row or {}) == {"lease_until": None, "later": True}
        assert await counting.taken() is None


class TestPermission:
    async def test_is_asked_again_before_the_first_step(self, counting: Counting, workspace: AuthContext) -> None:
        counting.role = "viewer"
        await counting.start()
        job = await counting.enqueue(workspace, 2)
        view = await counting.settled(workspace, job, "failed")
        assert view.error == "The principal who began it no longer has the permission 'keys:write'."
        assert view.progress.done == 0

    async def test_is_not_asked_before_every_step(self, counting: Counting, workspace: AuthContext) -> None:
        await counting.start()
        await counting.done(workspace, 5)
        assert counting.asked == 1


class TestAttempts:
    async def test_a_step_that_fails_is_done_again_after_a_delay(
        self, counting: Counting, workspace: AuthContext
    ) -> None:
        failures = [Unavailable("The keys cannot be reached. Try again."), ValueError("a surprise")]

        async def fail(step: Step) -> None:
            if step.done == 1 and failures:
                raise failures.pop()

        counting.inside = fail
        await counting.start()
        view = await counting.done(workspace, 3)
        assert (view.error, view.attempts, view.progress.done) == (None, 0, 3)
        assert await counting.counted(workspace) == [0, 1, 2, 3]

    async def test_are_bounded_and_the_last_error_is_shown(self, counting: Counting, workspace: AuthContext) -> None:
        async def fail(step: Step) -> None:
            raise Unavailable("The keys cannot be reached. Try again.")

        counting.inside = fail
        await counting.start()
        view = await counting.done(workspace, 3, "failed")
        assert view.error == "The keys cannot be reached. Try again."
        assert view.result is None
        assert len(counting.contexts) == CountThings.attempts

    async def test_a_surprise_is_kept_to_the_log(self, counting: Counting, workspace: AuthContext) -> None:
        async def fail(step: Step) -> None:
            raise ValueError("the secret is 1234")

        counting.inside = fail
        await counting.start()
        view = await counting.done(workspace, 3, "failed")
        assert view.error == "Something failed on our side. Report it with the request id that began the job."

    async def test_that_kill_their_process_are_bounded_too(self, counting: Counting, workspace: AuthContext) -> None:
        job = await counting.enqueue(workspace, 3)
        await counting.superuser.execute("UPDATE vault.jobs SET lease_term = $1", CountThings.attempts)
        await counting.start()
        view = await counting.settled(workspace, job, "failed")
        assert view.error == "It was begun again and again, and never got on."

    async def test_that_cannot_read_the_job_are_bounded_too(
        self, counting: Counting, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "_UNKNOWN_DELAY_SECONDS", 0.0)
        job = await counting.enqueue(workspace, 3)
        await counting.superuser.execute("UPDATE vault.jobs SET payload = $1", '{"of": "another version"}')
        await counting.start()
        view = await counting.settled(workspace, job, "failed")
        assert view.error == "This version of the service cannot read it."
