"""Refresh tokens rotate; a copy that was used before ends the session, a lost answer does not."""

from typing import Any

import pytest

from causeloop_common import ids
from tests.support.stack import Person, Stack, content_of, refused, until

pytestmark = pytest.mark.alone


async def rotate(stack: Stack, token: str, **more: Any) -> dict[str, Any]:
    granted: dict[str, Any] = content_of(
        await stack.http.post("/v1/auth/refresh", json={"refresh_token": token, **more})
    )
    assert granted["refresh_token"] != token
    return granted


async def is_dead(stack: Stack, token: str) -> None:
    answer = await stack.http.post("/v1/auth/refresh", json={"refresh_token": token})
    refused(answer, 401, "invalid_grant")


async def soon_refused(person: Person, access_token: str) -> None:
    async def ask() -> bool:
        return (await person.get("/me/workspaces", token=access_token)).status_code == 401

    await until("the access token is refused", ask, seconds=1)
    refused(await person.get("/me/workspaces", token=access_token), 401, "unauthorized")


class TestRefresh:
    async def test_rotates_and_stays_where_the_session_is(self, stack: Stack, owner: Person) -> None:
        first = await rotate(stack, owner.refresh_token)
        second = await rotate(stack, first["refresh_token"])
        assert first["workspace_id"] == second["workspace_id"] == owner.workspace
        for granted in (first, second):
            content_of(await owner.get("/workspace", token=granted["access_token"]))

    async def test_a_used_token_ends_the_whole_family(self, stack: Stack, owner: Person) -> None:
        first = await rotate(stack, owner.refresh_token)
        second = await rotate(stack, first["refresh_token"])
        content_of(await owner.get("/me/workspaces", token=second["access_token"]))  # and so the gateway remembers it
        await is_dead(stack, owner.refresh_token)
        for token in (second["refresh_token"], first["refresh_token"], owner.refresh_token):
            await is_dead(stack, token)
        for granted in (first, second):
            await soon_refused(owner, granted["access_token"])
        other = Person(stack, owner.subject)
        await other.sign_in()  # another session of the same person is not touched
        content_of(await other.get("/me/workspaces"))

    async def test_the_predecessor_is_accepted_while_its_successor_is_unused(self, stack: Stack, owner: Person) -> None:
        """E14: what it got twice is good twice."""
        lost = await rotate(stack, owner.refresh_token)
        again = await rotate(stack, owner.refresh_token)
        following = await rotate(stack, again["refresh_token"])
        content_of(await owner.get("/workspace", token=following["access_token"]))
        other = await rotate(stack, lost["refresh_token"])  # another tab of the client has it
        for token in (following["refresh_token"], other["refresh_token"]):
            await rotate(stack, token)

    async def test_the_predecessor_is_reuse_once_its_successor_was_used(self, stack: Stack, owner: Person) -> None:
        successor = await rotate(stack, owner.refresh_token)
        newest = await rotate(stack, successor["refresh_token"])
        await is_dead(stack, owner.refresh_token)
        await is_dead(stack, newest["refresh_token"])

    async def test_the_predecessor_is_reuse_after_thirty_seconds(self, stack: Stack, owner: Person) -> None:
        successor = await rotate(stack, owner.refresh_token)
        await move_clock(stack, owner, "29 seconds")
        successor = await rotate(stack, owner.refresh_token)
        await move_clock(stack, owner, "2 seconds")  # the repeat did not begin the time anew
        await is_dead(stack, owner.refresh_token)
        await is_dead(stack, successor["refresh_token"])

    async def test_a_stranger_s_attempt_with_a_wrong_secret_ends_nothing_it_does_not_know(
        self, stack: Stack, owner: Person
    ) -> None:
        for token in ("clp_rt_nonsense", owner.refresh_token[:-1] + "~", owner.token, "", "x" * 70_000):
            answer = await stack.http.post("/v1/auth/refresh", json={"refresh_token": token})
            assert answer.status_code in (401, 422), answer.text
        await rotate(stack, owner.refresh_token)


class TestLogout:
    async def test_ends_the_session_with_all_its_tokens(self, stack: Stack, owner: Person) -> None:
        pat = await owner.personal_token("secrets:read")
        content_of(await owner.post("/auth/logout"), 204)
        await soon_refused(owner, owner.token)
        await soon_refused(owner, owner.realm_token)
        await is_dead(stack, owner.refresh_token)
        content_of(await owner.get("/secrets", token=pat["token"]))  # a personal access token is no session's

    async def test_is_in_the_log_of_the_person_s_realm(self, stack: Stack, owner: Person) -> None:
        content_of(await owner.post("/auth/logout"), 204)

        async def reasons() -> Any:
            async with stack.sql() as sql:
                return await sql.fetchval(
                    "SELECT leaf FROM audit.entries WHERE workspace_id = $1 AND action = 'auth.session_ended'",
                    ids.tenant_uuid(owner.id),
                )

        assert '"reason":"logout"' in await until("the log has the end of the session", reasons)

    async def test_deletes_what_the_vault_keeps_of_the_session_and_of_no_other(
        self, stack: Stack, owner: Person
    ) -> None:
        other = Person(stack, owner.subject)
        await other.sign_in()
        content_of(await owner.post("/auth/logout"), 204)

        async def kept() -> bool:
            async with stack.sql() as sql:
                stored = await sql.fetch(
                    "SELECT record FROM vault.sealed_values WHERE workspace_id = $1", ids.tenant_uuid(owner.id)
                )
                going_on = await sql.fetch(
                    "SELECT id FROM auth.sessions WHERE workspace_id = $1 AND ended_at IS NULL",
                    ids.tenant_uuid(owner.id),
                )
            assert len(going_on) == 1
            return [row["record"] for row in stored] == [ids.encode("ses", row["id"]) for row in going_on]

        await until("the value of the session that goes on is left", kept)


async def move_clock(stack: Stack, person: Person, by: str) -> None:
    """Let a person's last rotation have been longer ago. Past the commit guard, since it is no act."""
    async with stack.sql() as sql, sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        moved = await sql.execute(
            f"UPDATE auth.sessions SET rotated_at = rotated_at - interval '{by}' WHERE workspace_id = $1",
            ids.tenant_uuid(person.id),
        )
    assert moved == "UPDATE 1"
