"""The commands about jobs."""

import asyncio
from collections.abc import Callable

import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.jobs import CancelJob, GetJob, ListJobs
from causeloop_common.errors import Forbidden, NotFound, Unavailable
from causeloop_dev.testing import context
from tests.support.counting import Counting, CountThings, Step


class TestCancelJob:
    async def test_ends_it_between_two_steps_and_what_was_done_stays(
        self, counting: Counting, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        going, go_on = asyncio.Event(), asyncio.Event()

        async def hold(step: Step) -> None:
            if step.done == 2:
                going.set()
                await go_on.wait()

        counting.before = hold
        await counting.start()
        job = await counting.enqueue(workspace, 9)
        await asyncio.wait_for(going.wait(), 5)
        admin = as_user(workspace.tenant, "admin")
        assert (await counting.service.cancel_job(admin, CancelJob(id=job))).state == "cancelling"
        go_on.set()
        view = await counting.settled(workspace, job, "cancelled")
        assert (view.progress.done, view.progress.detail) == (3, "Counted to 3.")
        assert await counting.counted(workspace) == [0, 1, 2, 3]
        actors = await counting.superuser.fetch(
            "SELECT type, actor FROM vault.outbox WHERE workspace_id = $1 AND type LIKE 'vault.job_%' ORDER BY seq",
            workspace.tenant_uuid,
        )
        assert [tuple(row) for row in actors] == [
            ("vault.job_cancelled", admin.principal), ("vault.job_ended", workspace.principal),
        ]  # fmt: skip
        assert (await counting.service.cancel_job(workspace, CancelJob(id=job))).state == "cancelled"

    async def test_ends_one_that_was_not_begun(self, counting: Counting, workspace: AuthContext) -> None:
        job = await counting.enqueue(workspace, 9)
        await counting.service.cancel_job(workspace, CancelJob(id=job))
        await counting.service.cancel_job(workspace, CancelJob(id=job))
        await counting.start()
        await counting.settled(workspace, job, "cancelled")
        assert counting.contexts == []

    async def test_while_a_step_fails_waits_for_no_other_attempt(
        self, counting: Counting, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(CountThings, "attempts", 10)
        job = await counting.enqueue(workspace, 9)
        await counting.superuser.execute(
            "UPDATE vault.jobs SET lease_term = settled_term + 6"
        )  # the next attempt is a minute away

        async def cancel_and_fail(step: Step) -> None:
            await counting.service.cancel_job(workspace, CancelJob(id=job))
            raise Unavailable("Later.")

        counting.before = cancel_and_fail
        await counting.start()
        await counting.settled(workspace, job, "cancelled")

    async def test_of_one_that_ended_changes_nothing(self, counting: Counting, workspace: AuthContext) -> None:
        await counting.start()
        job = await counting.enqueue(workspace, 1)
        view = await counting.settled(workspace, job)
        assert await counting.service.cancel_job(workspace, CancelJob(id=job)) == view

    async def test_needs_the_permission_of_its_kind(
        self, counting: Counting, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        job = await counting.enqueue(workspace, 1)
        with pytest.raises(Forbidden, match="keys:write"):
            await counting.service.cancel_job(as_user(workspace.tenant, "viewer"), CancelJob(id=job))

    async def test_of_another_tenants_is_not_found(self, counting: Counting, workspace: AuthContext) -> None:
        job = await counting.enqueue(workspace, 1)
        with pytest.raises(NotFound, match="no such job"):
            await counting.service.cancel_job(context(ids.new("ws")), CancelJob(id=job))
        assert await counting.superuser.fetchval("SELECT cancelled_at FROM vault.jobs") is None


class TestGetJob:
    async def test_shows_one_that_waits(self, counting: Counting, workspace: AuthContext) -> None:
        job = await counting.enqueue(workspace, 4)
        view = await counting.service.get_job(workspace, GetJob(id=job))
        assert (view.id, view.kind, view.state) == (job, "count_things", "waiting")
        assert (view.progress.done, view.progress.total, view.retry_at) == (0, None, None)

    async def test_needs_the_permission_of_its_kind(
        self, counting: Counting, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        job = await counting.enqueue(workspace, 1)
        with pytest.raises(Forbidden, match="keys:write"):
            await counting.service.get_job(as_user(workspace.tenant, "viewer"), GetJob(id=job))

    @pytest.mark.parametrize("prefix", ["job_vault", "job_auth"])
    async def test_another_tenants_or_services_is_not_found(
        self, counting: Counting, workspace: AuthContext, prefix: str
    ) -> None:
        job = await counting.enqueue(workspace, 1)
        with pytest.raises(NotFound, match="no such job"):
            await counting.service.get_job(context(ids.new("ws")), GetJob(id=job.replace("job_vault", prefix)))
        if prefix != "job_vault":
            with pytest.raises(NotFound, match="no such job"):
                await counting.service.get_job(workspace, GetJob(id=job.replace("job_vault", prefix)))


class TestListJobs:
    async def test_shows_the_newest_first_page_by_page(self, counting: Counting, workspace: AuthContext) -> None:
        begun = [await counting.enqueue(workspace, 1) for _ in range(3)]
        await counting.enqueue(context(ids.new("ws")), 1)
        first = await counting.service.list_jobs(workspace, ListJobs(limit=2))
        rest = await counting.service.list_jobs(workspace, ListJobs(limit=2, position=first.next_position))
        assert [view.id for view in (*first.data, *rest.data)] == sorted(begun, reverse=True)
        assert rest.next_position is None
        assert first.unanswered == []

    async def test_shows_only_those_whose_permission_the_caller_has(
        self, counting: Counting, workspace: AuthContext, as_user: Callable[..., AuthContext]
    ) -> None:
        await counting.enqueue(workspace, 1)
        assert (await counting.service.list_jobs(as_user(workspace.tenant, "viewer"), ListJobs())).data == []
