"""The routes of jobs, which several services answer: auth, tenancy and the vault here, and audit does not run."""

from typing import TYPE_CHECKING, Any

import pytest

from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.base import Job
from causeloop_common.permissions import Permission

if TYPE_CHECKING:
    from conftest import House, Person


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every service has one kind of job."""
    for service in topology.with_jobs():

        class CountThings(Job, permission=Permission.KEYS_WRITE):
            __module__ = topology.OWNERS[service].__name__

        monkeypatch.setattr(topology.OWNERS[service], "CountThings", CountThings, raising=False)


@pytest.fixture
async def owner(house: "House") -> "Person":
    return await house.sign_up()


async def plant(house: "House", service: str, person: "Person", *, ended: bool = True) -> str:
    """A job that has ended, or one that is due tomorrow."""
    job = ids.uuid7()
    await house.superuser.execute(
        f"INSERT INTO {service}.jobs (workspace_id, id, kind, payload, principal, request_id, traceparent, due_at, "
        "outcome, result, expires_at, ended_at) SELECT $1, $2, 'count_things', '{}', $3, '', '', "
        "CASE WHEN $4 THEN NULL ELSE now() + interval '1 day' END, CASE WHEN $4 THEN 'done' END, "
        "CASE WHEN $4 THEN 'Counted.' END, CASE WHEN $4 THEN now() + interval '7 days' END, "
        "CASE WHEN $4 THEN now() END",
        ids.tenant_uuid(person.workspace),
        job,
        person.id,
        ended,
    )
    return ids.encode(f"job_{service}", job)


class TestListJobs:
    async def test_shows_those_of_all_services_the_newest_first(self, house: "House", owner: "Person") -> None:
        made = [await plant(house, service, owner) for service in ("vault", "auth", "vault", "tenancy", "auth")]
        await plant(house, "vault", await house.sign_up())
        for limit in (1, 2, 5, 25):
            listed: list[str] = []
            cursor = ""
            while True:
                page = await house.body("GET", f"/jobs?limit={limit}{cursor}", owner.token)
                assert page["unanswered"] == ["audit"]
                assert len(page["data"]) <= limit
                listed += [job["id"] for job in page["data"]]
                if not page["page"]["has_more"]:
                    break
                cursor = f"&cursor={page['page']['next_cursor']}"
            assert listed == sorted(made, key=lambda job: job.rpartition("_")[2], reverse=True)

    async def test_shows_none_whose_permission_the_caller_lacks(self, house: "House", owner: "Person") -> None:
        job = await plant(house, "vault", owner)
        may_not = await house.personal_token(owner, "secrets:read")
        may = await house.personal_token(owner, "keys:write")
        assert (await house.body("GET", "/jobs", may_not["token"]))["data"] == []
        assert [one["id"] for one in (await house.body("GET", "/jobs", may["token"]))["data"]] == [job]


class TestGetJob:
    @pytest.mark.parametrize("service", ["auth", "tenancy", "vault"])
    async def test_asks_the_service_that_the_id_names(self, house: "House", owner: "Person", service: str) -> None:
        job = await plant(house, service, owner)
        shown = await house.body("GET", f"/jobs/{job}", owner.token)
        assert (shown["id"], shown["state"], shown["result"]) == (job, "done", "Counted.")

    async def test_of_another_service_or_workspace_is_not_found(self, house: "House", owner: "Person") -> None:
        job = await plant(house, "vault", owner)
        await house.refused(404, "not_found", "GET", f"/jobs/{job.replace('vault', 'auth')}", owner.token)
        await house.refused(404, "not_found", "GET", f"/jobs/{job}", (await house.sign_up()).token)

    @pytest.mark.parametrize(
        "job", ["job_x_01m8dsrxbsf35reya2xagjjevc", "sec_01m8dsrxbsf35reya2xagjjevc", "job_vault_"]
    )
    async def test_of_no_service_is_no_id(self, house: "House", owner: "Person", job: str) -> None:
        problem = await house.refused(422, "validation_error", "GET", f"/jobs/{job}", owner.token)
        assert set(problem["errors"]) == {"id"}

    async def test_needs_the_jobs_own_permission(self, house: "House", owner: "Person") -> None:
        job = await plant(house, "vault", owner)
        may_not = await house.personal_token(owner, "secrets:read")
        problem: Any = await house.refused(403, "forbidden", "GET", f"/jobs/{job}", may_not["token"])
        assert "keys:write" in problem["detail"]


class TestCancelJob:
    async def test_answers_202_with_the_job(self, house: "House", owner: "Person") -> None:
        job = await plant(house, "auth", owner, ended=False)
        answer = await house.call("DELETE", f"/jobs/{job}", owner.token)
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelling")

    async def test_of_one_that_ended_changes_nothing(self, house: "House", owner: "Person") -> None:
        job = await plant(house, "tenancy", owner)
        answer = await house.call("DELETE", f"/jobs/{job}", owner.token)
        assert (answer.status_code, answer.json()["state"]) == (202, "done")

    async def test_needs_the_jobs_own_permission(self, house: "House", owner: "Person") -> None:
        job = await plant(house, "auth", owner, ended=False)
        may_not = await house.personal_token(owner, "secrets:read")
        await house.refused(403, "forbidden", "DELETE", f"/jobs/{job}", may_not["token"])
