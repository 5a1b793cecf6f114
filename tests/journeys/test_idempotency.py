"""A request that is repeated with its Idempotency-Key has one effect, however often and however close together."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from causeloop_common import ids
from causeloop_common.contracts import topology
from tests.support.stack import Person, Stack, content_of, refused, until


def keyed(key: str | None = None) -> dict[str, str]:
    return {"idempotency-key": key or secrets.token_hex(8)}


def is_replay(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("idempotency-replayed") == "true")


async def actions(person: Person, *, least: int) -> list[str]:
    return [entry["action"] for entry in await person.log(least=least)]


REQUESTS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "create_api_token": ("POST", "/api-tokens", {"name": "retried", "scopes": ["secrets:read"]}),
    "revoke_api_token": ("DELETE", "/api-tokens/{token}", None),
    "create_workspace": ("POST", "/workspaces", {"name": "Retried", "slug": "retried"}),
    "put_secret": ("PUT", "/secrets/retried", {"value": "v"}),
    "create_key": ("POST", "/keys", {"name": "retried", "type": "aes256-gcm"}),
    "rotate_keyring": ("POST", "/keyring/rotate", None),
}
"""A request of every keyed command."""


class TestEveryKeyedCommand:
    def test_is_known_here(self) -> None:
        keyed_ones = {kind.operation for kind in topology.command_kinds().values() if kind.keyed}
        assert keyed_ones == set(REQUESTS), "Write a request of every keyed command into REQUESTS."

    @pytest.mark.parametrize("operation", REQUESTS)
    async def test_is_done_once_under_one_key(self, owner: Person, operation: str) -> None:
        """Its use case passes the command to the transaction: else a retry would be done like any other request."""
        method, path, body = REQUESTS[operation]
        where = path.format(token=(await owner.personal_token("secrets:read"))["id"] if "{token}" in path else "")
        token, headers = owner.realm_token if operation == "create_workspace" else None, keyed()
        first, again = [await owner.call(method, where, token=token, json=body, headers=headers) for _ in range(2)]
        assert first.is_success, first.text
        assert not is_replay(first)
        if operation == "create_api_token":
            refused(again, 409, "secret_already_shown")
        else:
            assert (again.status_code, again.content, is_replay(again)) == (first.status_code, first.content, True)


class TestARepeatedRequest:
    async def test_is_answered_with_the_first_answer_and_says_so(self, owner: Person) -> None:
        headers = keyed()
        first = await owner.put("/secrets/once", json={"value": "v"}, headers=headers)
        again = await owner.put("/secrets/once", json={"value": "v"}, headers=headers)
        assert content_of(first) == content_of(again)
        assert content_of(again)["version"] == 1
        assert (is_replay(first), is_replay(again)) == (False, True)
        assert (await actions(owner, least=4)).count("vault.secret_written") == 1

    async def test_without_a_key_is_another_request(self, owner: Person) -> None:
        versions = [content_of(await owner.put("/secrets/twice", json={"value": "v"}))["version"] for _ in range(2)]
        assert versions == [1, 2]

    async def test_that_answered_nothing_is_replayed_as_nothing(self, owner: Person) -> None:
        token, headers = await owner.personal_token("secrets:read"), keyed()
        first = await owner.delete(f"/api-tokens/{token['id']}", headers=headers)
        again = await owner.delete(f"/api-tokens/{token['id']}", headers=headers)
        assert (first.status_code, again.status_code) == (204, 204)
        assert (is_replay(first), is_replay(again)) == (False, True)

    async def test_that_showed_a_secret_tells_the_id_and_shows_it_no_more(self, stack: Stack, owner: Person) -> None:
        body, headers = {"name": "shown once", "scopes": ["secrets:read"]}, keyed()
        first = content_of(await owner.post("/api-tokens", json=body, headers=headers), 201)
        answer = await owner.post("/api-tokens", json=body, headers=headers)
        problem = refused(answer, 409, "secret_already_shown")
        assert problem["errors"] == {"id": [first["id"]]}
        assert first["token"] not in answer.text
        assert [t["id"] for t in content_of(await owner.get("/api-tokens"))["data"]] == [first["id"]]
        async with stack.sql() as sql:
            kept = await sql.fetchval("SELECT reply FROM auth.idempotency WHERE key = $1", headers["idempotency-key"])
        assert first["token"] not in kept

    @pytest.mark.parametrize(
        ("path", "body"),
        [("/secrets/one", {"value": "other"}), ("/secrets/two", {"value": "v"})],
        ids=["another body", "another path"],
    )
    async def test_with_another_request_s_key_is_a_mismatch(self, owner: Person, path: str, body: Any) -> None:
        headers = keyed()
        content_of(await owner.put("/secrets/one", json={"value": "v"}, headers=headers))
        refused(await owner.put(path, json=body, headers=headers), 422, "idempotency_mismatch")
        assert [s["version"] for s in content_of(await owner.get("/secrets"))["data"]] == [1]

    async def test_is_asked_to_wait_while_the_first_one_runs(self, stack: Stack, owner: Person) -> None:
        content_of(await owner.put("/secrets/busy", json={"value": "v"}))
        headers = keyed()

        async def attempt() -> httpx.Response:
            return await owner.put("/secrets/busy", json={"value": "w"}, headers=headers)

        async with AsyncExitStack() as locks:
            sql = await locks.enter_async_context(stack.sql())
            await locks.enter_async_context(sql.transaction())
            await sql.execute(
                "SELECT 1 FROM vault.secrets WHERE workspace_id = $1 FOR UPDATE", ids.tenant_uuid(owner.workspace)
            )
            first = asyncio.create_task(attempt())  # it waits for the row
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            await until("the first request waits", lambda: sql.fetchval(waits))
            told_to_wait = await attempt()
            refused(told_to_wait, 409, "idempotency_in_progress")
            assert told_to_wait.headers["retry-after"] == "1"
            assert not first.done()
        assert content_of(await first)["version"] == 2
        again = await attempt()
        assert (content_of(again)["version"], is_replay(again)) == (2, True)

    async def test_has_one_effect_however_many_come_at_once(self, owner: Person) -> None:
        headers = keyed()

        async def insist() -> httpx.Response:
            while True:
                answer = await owner.put("/secrets/crowd", json={"value": "v"}, headers=headers)
                if answer.status_code != 409:
                    return answer
                refused(answer, 409, "idempotency_in_progress")

        answers = await asyncio.gather(*(insist() for _ in range(40)))
        assert [content_of(answer)["version"] for answer in answers] == [1] * 40
        assert [is_replay(answer) for answer in answers].count(False) == 1
        assert (await actions(owner, least=4)).count("vault.secret_written") == 1

    async def test_is_remembered_for_a_day(self, stack: Stack, owner: Person) -> None:
        headers, body = keyed(), {"value": "v"}
        content_of(await owner.put("/secrets/day", json=body, headers=headers))
        await age(stack, "vault", headers, "23 hours 59 minutes")
        assert is_replay(await owner.put("/secrets/day", json=body, headers=headers))
        await age(stack, "vault", headers, "2 minutes")
        late = await owner.put("/secrets/day", json=body, headers=headers)
        assert (content_of(late)["version"], is_replay(late)) == (2, False)

    async def test_whose_first_was_refused_is_done_when_it_can_be(self, owner: Person) -> None:
        headers, body = keyed(), {"value": "v", "version": 1}
        for _ in range(2):  # only committed effects are kept
            refused(await owner.put("/secrets/cas", json=body, headers=headers), 409, "conflict")
        content_of(await owner.put("/secrets/cas", json={"value": "first"}))
        done = await owner.put("/secrets/cas", json=body, headers=headers)
        assert (content_of(done)["version"], is_replay(done)) == (2, False)
        refused(await owner.put("/secrets/cas", json={}, headers=keyed("bad")), 422, "validation_error")
        content_of(await owner.put("/secrets/cas", json={"value": "w"}, headers=keyed("bad")))


class TestAKey:
    async def test_belongs_to_one_tenant_person_and_operation(self, owner: Person, stranger: Person) -> None:
        headers = keyed()
        for person in (owner, stranger):
            answer = await person.put("/secrets/own", json={"value": person.id}, headers=headers)
            assert (content_of(answer)["version"], is_replay(answer)) == (1, False)
        made = await owner.post("/api-tokens", json={"name": "n", "scopes": ["secrets:read"]}, headers=headers)
        content_of(made, 201)
        assert not is_replay(made)

    async def test_of_a_token_is_not_distinguished_from_its_owner_s(self, owner: Person) -> None:
        """The key is the principal's: a retry with a renewed credential is still the same request."""
        headers = keyed()
        content_of(await owner.put("/secrets/same", json={"value": "v"}, headers=headers))
        await owner.move(owner.workspace)
        assert is_replay(await owner.put("/secrets/same", json={"value": "v"}, headers=headers))

    async def test_is_ignored_by_acts_that_change_nothing(self, stack: Stack, owner: Person) -> None:
        headers = keyed()
        content_of(await owner.put("/secrets/read", json={"value": "v"}))
        for body in ({}, {"version": 1}):
            answer = await owner.post("/secrets/read/reveal", json=body, headers=headers)
            assert (content_of(answer)["value"], is_replay(answer)) == ("v", False)
        assert (await actions(owner, least=6)).count("vault.secret_revealed") == 2
        for _ in range(2):  # exchange and refresh as well
            session = await stack.session(owner.subject)
            answer = await stack.http.post("/v1/auth/exchange", json={"subject_token": session}, headers=headers)
            assert not is_replay(answer)
            body = {"refresh_token": content_of(answer)["refresh_token"]}
            content_of(await stack.http.post("/v1/auth/refresh", json=body, headers=headers))


class TestAWorkspace:
    async def test_is_never_created_twice_however_many_retries_come_at_once(self, stack: Stack) -> None:
        person = await stack.sign_up(workspace=False)
        headers, body = keyed(), {"name": "Once", "slug": "once"}

        async def insist() -> str:
            while True:
                answer = await person.post("/workspaces", json=body, headers=headers)
                if answer.status_code == 201:
                    return str(answer.json()["id"])
                refused(answer, 409, "idempotency_in_progress")

        made = set(await asyncio.gather(*(insist() for _ in range(40))))
        assert len(made) == 1
        assert [m["workspace_id"] for m in content_of(await person.get("/me/workspaces"))["data"]] == list(made)
        await person.move(made.pop())
        begun = ["tenancy.workspace_created", "tenancy.member_added", "vault.keyring_created"]
        assert await actions(person, least=3) == begun

    async def test_is_found_again_by_a_retry_after_days(self, stack: Stack) -> None:
        person = await stack.sign_up(workspace=False)
        headers, body = keyed(), {"name": "Late", "slug": "late"}
        first = content_of(await person.post("/workspaces", json=body, headers=headers), 201)
        await age(stack, "tenancy", headers, "3 days")
        again = content_of(await person.post("/workspaces", json=body, headers=headers), 201)
        assert again == first
        assert len(content_of(await person.get("/me/workspaces"))["data"]) == 1
        await person.move(first["id"])
        assert len(await person.log(least=3)) == 3

    async def test_without_a_key_or_of_another_person_is_another_one(self, stack: Stack) -> None:
        one, other = [await stack.sign_up(workspace=False) for _ in range(2)]
        headers, body = keyed(), {"name": "Same", "slug": "same"}
        asks: Sequence[Callable[[], Awaitable[httpx.Response]]] = (
            lambda: one.post("/workspaces", json=body),
            lambda: one.post("/workspaces", json=body),
            lambda: one.post("/workspaces", json=body, headers=headers),
            lambda: other.post("/workspaces", json=body, headers=headers),
            lambda: one.post("/workspaces", json=body, headers=keyed()),
        )
        made = [content_of(await ask(), 201)["id"] for ask in asks]
        assert len(set(made)) == len(asks)

    async def test_of_the_same_key_and_another_name_is_a_mismatch(self, stack: Stack) -> None:
        person, headers = await stack.sign_up(workspace=False), keyed()
        content_of(await person.post("/workspaces", json={"name": "A", "slug": "a"}, headers=headers), 201)
        other = await person.post("/workspaces", json={"name": "B", "slug": "b"}, headers=headers)
        refused(other, 422, "idempotency_mismatch")


async def age(stack: Stack, schema: str, headers: dict[str, str], by: str) -> None:
    """Let a remembered answer be older."""
    async with stack.sql() as sql:
        aged = await sql.execute(
            f"UPDATE {schema}.idempotency SET created_at = created_at - interval '{by}' WHERE key = $1",
            headers["idempotency-key"],
        )
    assert aged == "UPDATE 1"
