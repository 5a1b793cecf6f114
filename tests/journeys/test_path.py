"""The path of a secret through the whole house, and what is left of it: the log, which anybody can compute again."""

import hashlib
import json
from typing import Any

import pytest

from causeloop_common import ids
from tests.support.log import assert_computes, stored_log
from tests.support.stack import Person, Stack, content_of, refused, until


class TestThePath:
    @pytest.mark.alone
    async def test_a_secret_travels_through_all_services_and_every_act_is_in_the_log(self, stack: Stack) -> None:
        # A session of the issuer becomes a realm token, which has no workspace.
        person = Person(stack, "path@example.test")
        granted = content_of(await stack.exchange(person.subject))
        assert granted["workspace_id"] is None
        assert granted["token_type"] == "Bearer"
        assert granted["scope"].split() == ["self", "workspace:create"]
        person.realm_token, person.refresh_token = granted["access_token"], granted["refresh_token"]
        refused(await person.get("/secrets", token=person.realm_token), 403, "forbidden")
        assert content_of(await person.get("/me/workspaces"))["data"] == []

        # Create a workspace, move into it.
        body = {"name": "Path & Co", "slug": "path", "timezone": "Europe/Berlin"}
        workspace = content_of(await person.post("/workspaces", json=body), 201)
        assert workspace.items() >= body.items()
        refused(await person.get("/workspace"), 403, "forbidden")  # the realm token stays the realm's
        await person.move(workspace["id"])
        assert content_of(await person.get("/workspace")) == workspace
        (membership,) = content_of(await person.get("/me/workspaces"))["data"]
        assert (membership["workspace_id"], membership["role"]) == (workspace["id"], "owner")
        await person.log(least=3)

        # A personal access token with some of the rights.
        token = await person.personal_token("secrets:write", "secrets:reveal", "audit:read")
        await person.log(least=4)

        # Put and reveal a secret with it.
        written = content_of(await person.put("/secrets/prod/db/url", json={"value": "först"}, token=token["token"]))
        assert (written["path"], written["version"]) == ("prod/db/url", 1)
        await person.log(least=5)
        revealed = content_of(await person.post("/secrets/prod/db/url/reveal", token=token["token"]))
        assert (revealed["value"], revealed["version"], revealed["id"]) == ("först", 1, written["id"])
        refused(await person.get("/secrets/prod/db/url", token=token["token"]), 403, "forbidden")  # beyond its scopes
        await person.log(least=6)

        # The token is revoked and refused.
        content_of(await person.delete(f"/api-tokens/{token['id']}"), 204)

        async def is_refused() -> bool:
            answer = await person.post("/secrets/prod/db/url/reveal", token=token["token"])
            return answer.status_code == 401

        await until("the revoked token is refused", is_refused, seconds=1)
        refused(await person.get("/audit/events", token=token["token"]), 401, "unauthorized")

        # The log has every act, in order.
        log = [entry for entry in await person.log(least=7) if entry["action"] != "vault.secret_revealed"]
        assert [(entry["action"], entry["target"]) for entry in log] == [
            ("tenancy.workspace_created", workspace["id"]),
            ("tenancy.member_added", workspace["created_by"]),
            ("vault.keyring_created", workspace["id"]),
            ("auth.token_created", token["id"]),
            ("vault.secret_written", written["id"]),
            ("auth.token_revoked", token["id"]),
        ]
        maker = workspace["created_by"]
        assert [entry["actor"] for entry in log] == [maker, maker, "svc_vault", maker, maker, maker]
        assert {entry["request_id"] for entry in log[:3]} == {log[0]["request_id"]}  # the keyring, too, is its effect
        by_token = [e["action"] for e in await person.log() if e["credential"] == token["id"]]
        assert by_token[:2] == ["vault.secret_written", "vault.secret_revealed"]
        newest = [entry async for entry in person.pages("/audit/events?limit=3")]
        assert newest == list(reversed([e async for e in person.pages("/audit/events?limit=100&order=index")]))
        for entry in log:
            assert content_of(await person.get(f"/audit/events/{entry['id']}")) == entry

    async def test_the_log_is_computed_again_from_the_stored_leaves(self, stack: Stack, owner: Person) -> None:
        for number in range(5):
            content_of(await owner.put(f"/secrets/s{number}", json={"value": "x"}))
        shown = await owner.log(least=8)
        entries, head = await stored_log(stack, owner.workspace)
        assert_computes(entries, head, owner.workspace)
        assert [entry["leaf_hash"].hex() for entry in entries] == [entry["leaf_hash"] for entry in shown]
        for entry, leaf in zip(shown, [json.loads(entry["leaf"]) for entry in entries], strict=True):
            assert entry["data"] == leaf["data"]
            assert (entry["id"], entry["action"], entry["actor"]) == (leaf["id"], leaf["action"], leaf["actor"])
            assert (entry["target"], entry["credential"]) == (leaf["target"], leaf["credential"])
            assert entry["request_id"] == leaf["request"]

    async def test_a_realm_has_a_log_of_its_own_and_no_personal_data_in_clear(self, stack: Stack) -> None:
        person = Person(stack, "user_realm")
        session = await stack.session(person.subject, email="realm@example.test")
        agent = "a very particular browser"
        granted = content_of(
            await stack.http.post("/v1/auth/exchange", json={"subject_token": session}, headers={"user-agent": agent})
        )
        person.realm_token, person.refresh_token = granted["access_token"], granted["refresh_token"]
        await person.create_workspace()
        realm = content_of(await person.get("/workspace"))["created_by"]

        async def arrived() -> list[Any] | None:
            entries, _ = await stored_log(stack, realm)
            return entries if len(entries) >= 4 else None

        await until("the realm's log has four entries", arrived)
        entries, head = await stored_log(stack, realm)
        assert_computes(entries, head, realm)
        assert sorted(entry["action"] for entry in entries) == [
            "auth.session_refreshed",
            "auth.session_started",
            "vault.keyring_created",
            "vault.sealed_value_stored",
        ]
        for entry in entries:
            assert agent not in entry["leaf"]
            assert "127.0.0.1" not in entry["leaf"]
            assert person.subject not in entry["leaf"]

    async def test_acts_of_one_service_are_in_the_order_they_were_done(self, owner: Person) -> None:
        written = [content_of(await owner.put(f"/secrets/in-order/{n}", json={"value": "x"}))["id"] for n in range(12)]
        log = await owner.log(least=3 + len(written))
        assert [entry["target"] for entry in log if entry["action"] == "vault.secret_written"] == written


class TestASecondWorkspace:
    async def test_sees_none_of_it(self, owner: Person, stranger: Person) -> None:
        content_of(await owner.put("/secrets/only/mine", json={"value": "v"}))
        token = await owner.personal_token("secrets:read")
        entry = (await owner.log(least=5))[-1]
        for answer in (
            await stranger.get("/secrets/only/mine"),
            await stranger.post("/secrets/only/mine/reveal"),
            await stranger.get(f"/audit/events/{entry['id']}"),
            await stranger.delete(f"/api-tokens/{token['id']}"),
        ):
            refused(answer, 404, "not_found")
        assert content_of(await stranger.get("/secrets"))["data"] == []
        assert content_of(await stranger.get("/api-tokens"))["data"] == []
        assert {entry["actor"] for entry in await stranger.log()} == {stranger.id, "svc_vault"}
        assert [m["workspace_id"] for m in content_of(await stranger.get("/me/workspaces"))["data"]] == [
            stranger.workspace
        ]
        content_of(await owner.get("/secrets/only/mine", token=token["token"]))  # and the token still works

    async def test_cannot_be_entered_by_who_does_not_belong(
        self, stack: Stack, owner: Person, stranger: Person
    ) -> None:
        entering = {"refresh_token": stranger.refresh_token, "workspace_id": owner.workspace}
        refused(await stack.http.post("/v1/auth/refresh", json=entering), 404, "not_found")
        refused(await stack.exchange(stranger.subject, workspace_id=owner.workspace), 404, "not_found")
        nowhere = ids.new("ws")
        refused(await stack.exchange(stranger.subject, workspace_id=nowhere), 404, "not_found")
        await stranger.move(stranger.workspace)  # the refused attempt cost nothing

    async def test_is_entered_at_once_by_who_belongs(self, stack: Stack, owner: Person) -> None:
        granted = content_of(await stack.exchange(owner.subject, workspace_id=owner.workspace))
        assert granted["workspace_id"] == owner.workspace
        assert "secrets:write" in granted["scope"].split()
        content_of(await owner.get("/workspace", token=granted["access_token"]))


class TestAPersonalAccessToken:
    async def test_reaches_no_route_that_is_for_sessions(self, owner: Person) -> None:
        token = (await owner.personal_token("tokens:own", "tokens:write"))["token"]
        for answer in (
            await owner.get("/me/workspaces", token=token),
            await owner.get("/api-tokens", token=token),
            await owner.post("/api-tokens", json={"name": "n", "scopes": ["secrets:read"]}, token=token),
            await owner.post("/workspaces", json={"name": "n", "slug": "n"}, token=token),
            await owner.post("/auth/logout", token=token),
        ):
            refused(answer, 403, "forbidden")

    async def test_is_listed_without_its_secret_and_revoked_once(self, stack: Stack, owner: Person) -> None:
        made = await owner.personal_token("secrets:read", name="listed")
        answer = await owner.get("/api-tokens")
        (listed,) = content_of(answer)["data"]
        assert listed == {name: value for name, value in made.items() if name != "token"}
        assert made["token"] not in answer.text
        for _ in range(2):
            content_of(await owner.delete(f"/api-tokens/{made['id']}"), 204)
        log = await owner.log(least=5)
        assert [entry["action"] for entry in log].count("auth.token_revoked") == 1
        async with stack.sql() as sql:
            stored = await sql.fetchrow("SELECT * FROM auth.tokens WHERE id = $1", ids.decode(made["id"], "tok"))
        assert stored["digest"] == hashlib.sha256(made["token"].encode()).digest()
