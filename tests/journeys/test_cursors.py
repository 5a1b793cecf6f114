"""Pages cover everything exactly once; a cursor opens for the list, filter and tenant it was made for, and no other."""

from collections.abc import Callable

import pytest

from causeloop_client.calls import EventView
from tests.support.stack import Person, Stack, content_of, refused

PATHS = sorted(f"s/{number:02}" for number in range(11))


@pytest.fixture(scope="module")
async def person(stack: Stack) -> Person:
    person = await stack.sign_up()
    for path in reversed(PATHS):
        content_of(await person.put(f"/secrets/{path}", json={"value": path}))
    for number in range(4):
        await person.personal_token("secrets:read", name=str(number))
        body = {"name": str(number), "slug": "w"}
        content_of(await person.post("/workspaces", json=body, token=person.realm_token), 201)
    await person.log(least=18)
    return person


async def cursor_of(person: Person, path: str) -> str:
    return str(content_of(await person.get(path))["page"]["next_cursor"])


class TestPages:
    @pytest.mark.parametrize(
        ("path", "name", "count"),
        [
            ("/secrets", "path", 11),
            ("/audit/events?order=index", "index", 18),
            ("/audit/events", "index", 18),
            ("/audit/events?action=vault.", "index", 12),
            ("/api-tokens", "id", 4),
            ("/me/workspaces", "workspace_id", 5),
        ],
    )
    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    async def test_cover_everything_exactly_once(
        self, person: Person, path: str, name: str, count: int, limit: int
    ) -> None:
        joint = "&" if "?" in path else "?"
        seen = [item[name] async for item in person.pages(f"{path}{joint}limit={limit}")]
        assert len(seen) == len(set(seen)) == count
        assert seen in (sorted(seen), sorted(seen, reverse=True))

    async def test_say_whether_there_is_more(self, person: Person) -> None:
        page = content_of(await person.get("/secrets?limit=10"))["page"]
        assert page["has_more"] is True
        last = content_of(await person.get(f"/secrets?limit=10&cursor={page['next_cursor']}"))
        assert last["page"] == {"next_cursor": None, "has_more": False}
        assert content_of(await person.get("/secrets?limit=11"))["page"]["has_more"] is False

    async def test_go_on_where_they_were_while_the_list_grows(self, stack: Stack) -> None:
        person = await stack.sign_up()
        for path in ("b", "d", "f"):
            content_of(await person.put(f"/secrets/{path}", json={"value": "v"}))
        cursor = await cursor_of(person, "/secrets?limit=2")
        for path in ("a", "e"):
            content_of(await person.put(f"/secrets/{path}", json={"value": "v"}))
        rest = content_of(await person.get(f"/secrets?limit=2&cursor={cursor}"))["data"]
        assert [secret["path"] for secret in rest] == ["e", "f"]

    async def test_may_change_their_size_on_the_way(self, person: Person) -> None:
        cursor = await cursor_of(person, "/secrets?limit=2")
        page = content_of(await person.get(f"/secrets?limit=5&cursor={cursor}"))
        assert [secret["path"] for secret in page["data"]] == PATHS[2:7]

    @pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", ""])
    async def test_have_one_to_a_hundred_items(self, person: Person, limit: str) -> None:
        assert "limit" in refused(await person.get(f"/secrets?limit={limit}"), 422, "validation_error")["errors"]


class TestACursor:
    async def test_that_was_changed_anywhere_is_malformed(self, person: Person) -> None:
        cursor = await cursor_of(person, "/secrets?limit=3")
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        changed = {cursor[:-1], f"{cursor}A", f"{cursor}=", cursor[1:], cursor.swapcase(), ""}
        for at, letter in enumerate(cursor):
            changed |= {f"{cursor[:at]}{other}{cursor[at + 1 :]}" for other in (alphabet[alphabet.index(letter) - 1],)}
        changed |= {f"{cursor[:-1]}{letter}" for letter in alphabet if letter != cursor[-1]}
        changed |= {"x" * 2000, "%00", "....", "%F0%9F%92%A5", cursor.replace("-", "%2B").replace("_", "%2F")}
        for text in changed - {cursor}:
            refused(await person.get(f"/secrets?limit=3&cursor={text}"), 400, "malformed")

    async def test_of_another_tenant_is_malformed(self, person: Person, stranger: Person) -> None:
        cursor = await cursor_of(person, "/secrets?limit=3")
        refused(await stranger.get(f"/secrets?limit=3&cursor={cursor}"), 400, "malformed")

    async def test_of_another_workspace_of_the_same_person_is_malformed(self, stack: Stack) -> None:
        person = await stack.sign_up()
        cursor = await cursor_of(person, "/audit/events?limit=1")
        await person.create_workspace()
        await person.log(least=3)
        refused(await person.get(f"/audit/events?limit=1&cursor={cursor}"), 400, "malformed")

    @pytest.mark.parametrize(
        ("made_for", "used_for"),
        [
            ("/audit/events?limit=2", "/secrets?limit=2"),
            ("/audit/events?limit=2", "/api-tokens?limit=2"),
            ("/audit/events?limit=2", "/audit/events?limit=2&order=index"),
            ("/audit/events?limit=2&order=index", "/audit/events?limit=2"),
            ("/audit/events?limit=2&action=vault.", "/audit/events?limit=2"),
            ("/audit/events?limit=2&action=vault.", "/audit/events?limit=2&action=vault.s"),
            ("/audit/events?limit=2&action=vault.", "/audit/events?limit=2&target=vault."),
        ],
    )
    async def test_of_another_list_or_filter_is_malformed(self, person: Person, made_for: str, used_for: str) -> None:
        cursor = await cursor_of(person, made_for)
        content_of(await person.get(f"{made_for}&cursor={cursor}"))
        refused(await person.get(f"{used_for}&cursor={cursor}"), 400, "malformed")

    async def test_does_not_care_for_the_order_of_parameters(self, person: Person) -> None:
        cursor = await cursor_of(person, "/audit/events?limit=2&action=vault.&order=index")
        content_of(await person.get(f"/audit/events?cursor={cursor}&order=index&action=vault.&limit=7"))

    async def test_is_not_to_be_had_by_its_inner_name(self, person: Person) -> None:
        refused(await person.get("/secrets?position=s/03"), 422, "validation_error")


class TestFilters:
    @pytest.mark.parametrize(
        ("query", "actions"),
        [
            ("action=tenancy.", {"tenancy.workspace_created", "tenancy.member_added"}),
            ("action=vault.secret_w", {"vault.secret_written"}),
            ("action=%25", set()),
            ("action=%25.secret_written", set()),
            ("action=vault_secret_written", set()),
            ("action=vault%5C.", set()),
            ("action=%5C", set()),
        ],
    )
    async def test_an_action_is_a_prefix_and_no_pattern(self, person: Person, query: str, actions: set[str]) -> None:
        page = content_of(await person.get(f"/audit/events?limit=100&{query}"))["data"]
        assert {entry["action"] for entry in page} == actions

    async def test_narrow_by_actor_target_and_time(self, person: Person) -> None:
        entries = await person.log()
        middle = entries[9]["occurred_at"].replace("+", "%2B")
        asks: dict[str, Callable[[EventView], bool]] = {
            f"actor={person.id}": lambda entry: entry["actor"] == person.id,
            "actor=svc_vault": lambda entry: entry["action"] == "vault.keyring_created",
            "actor=usr_00000000000000000000000000": lambda entry: False,
            f"target={entries[0]['target']}": lambda entry: entry["target"] == entries[0]["target"],
            f"since={middle}": lambda entry: entry["occurred_at"] >= entries[9]["occurred_at"],
            f"until={middle}": lambda entry: entry["occurred_at"] < entries[9]["occurred_at"],
        }
        for query, holds in asks.items():
            found = [entry async for entry in person.pages(f"/audit/events?order=index&limit=4&{query}")]
            assert found == [entry for entry in entries if holds(entry)], query
