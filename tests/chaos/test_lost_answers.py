"""The act is done and its answer is lost in a crash: a retry with the same Idempotency-Key has no second effect.

Between commit and answer there is no time to aim at, so it is made: a database that waits for a standby that does not
exist has committed and does not answer. Then the process that waits for the answer is killed. And because nobody aims
in real life, the same is done once more at random moments under load.
"""

import asyncio
import itertools
import os
import random
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import pytest

from causeloop_common import ids
from tests.support.faults import commits_without_saying_so, has_committed
from tests.support.log import completed_log
from tests.support.stack import Person, Stack, content_of, refused, until

pytestmark = pytest.mark.chaos


async def insist(ask: Callable[[], Any], seconds: float = 30) -> httpx.Response:
    """Retry until there is an answer that is neither a fault nor a twin's."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer: httpx.Response = await ask()
        except httpx.TransportError:
            answer = httpx.Response(0)
        if answer.status_code not in (0, 503, 504) and not (
            answer.status_code == 409 and answer.json()["code"] == "idempotency_in_progress"
        ):
            return answer
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.05)


def keyed() -> dict[str, str]:
    return {"idempotency-key": secrets.token_hex(8)}


async def lose_the_answer(stack: Stack, service: str, ask: Callable[[], Any]) -> httpx.Response:
    """Ask, let it be committed, kill the service before it knows; then ask again until answered."""
    async with commits_without_saying_so(stack):
        first = asyncio.create_task(ask())
        await until(f"{service} has committed", lambda: has_committed(stack, f"causeloop_{service}"))
        assert not first.done()
        stack.kill(service)
    await stack.start(service)
    again = await insist(ask)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first  # it would get 504 at the end of its patience
    return again


class TestAnAnswerLostBetweenCommitAndReply:
    async def test_of_the_vault_is_replayed_and_the_secret_written_once(self, fragile: Stack, person: Person) -> None:
        # The only commit of the vault is to be the put's: the one that prepares the new workspace's keyring is over.
        async with fragile.sql() as sql:
            taken_in = "SELECT count(*) FROM vault.inbox WHERE workspace_id = $1"
            workspace = ids.tenant_uuid(person.workspace)
            await until("the vault has taken in the workspace", lambda: sql.fetchval(taken_in, workspace))
        headers = keyed()

        async def ask() -> httpx.Response:
            return await person.put("/secrets/once", json={"value": "v"}, headers=headers)

        again = await lose_the_answer(fragile, "vault", ask)
        assert content_of(again)["version"] == 1
        assert again.headers["idempotency-replayed"] == "true"
        entries = await completed_log(fragile, person)
        assert [entry["action"] for entry in entries].count("vault.secret_written") == 1
        assert content_of(await person.post("/secrets/once/reveal"))["value"] == "v"

    async def test_of_tenancy_is_replayed_and_the_workspace_made_once(self, fragile: Stack) -> None:
        person, headers = await fragile.sign_up(workspace=False), keyed()

        async def ask() -> httpx.Response:
            return await person.post("/workspaces", json={"name": "Once", "slug": "once"}, headers=headers)

        again = await lose_the_answer(fragile, "tenancy", ask)
        made = content_of(again, 201)
        assert again.headers["idempotency-replayed"] == "true"
        assert [m["workspace_id"] for m in content_of(await person.get("/me/workspaces"))["data"]] == [made["id"]]
        await person.move(made["id"])
        entries = await completed_log(fragile, person)
        acts = [entry["action"] for entry in entries if entry["action"].startswith("tenancy.")]
        assert acts == ["tenancy.workspace_created", "tenancy.member_added"]

    async def test_of_auth_tells_which_token_was_made_and_makes_no_second(self, fragile: Stack, person: Person) -> None:
        headers = keyed()

        async def ask() -> httpx.Response:
            body = {"name": "once", "scopes": ["secrets:read"]}
            return await person.post("/api-tokens", json=body, headers=headers)

        again = await lose_the_answer(fragile, "auth", ask)
        (token,) = content_of(await person.get("/api-tokens"))["data"]
        assert refused(again, 409, "secret_already_shown")["errors"] == {"id": [token["id"]]}
        entries = await completed_log(fragile, person)
        assert [entry["action"] for entry in entries].count("auth.token_created") == 1

    async def test_by_the_gateway_is_replayed(self, fragile: Stack, person: Person) -> None:
        headers = keyed()

        async def ask() -> httpx.Response:
            return await person.put("/secrets/once", json={"value": "v"}, headers=headers)

        content_of(await person.put("/secrets/first", json={"value": "v"}))  # nothing but the put is still to be asked
        async with fragile.sql() as sql:
            async with sql.transaction():
                await sql.execute("LOCK TABLE vault.secret_versions IN ACCESS EXCLUSIVE MODE")
                first = asyncio.create_task(ask())
                waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                await until("the vault waits", lambda: sql.fetchval(waits))
                os.kill(fragile.processes["gateway"].pid, signal.SIGSTOP)
            stored = "SELECT count(*) FROM vault.secrets WHERE workspace_id = $1 AND path = 'once'"
            await until("it is done", lambda: sql.fetchval(stored, ids.tenant_uuid(person.workspace)))
        fragile.kill("gateway")
        with pytest.raises(httpx.TransportError):
            await first
        await fragile.start("gateway")
        again = await insist(ask)
        assert (content_of(again)["version"], again.headers["idempotency-replayed"]) == (1, "true")

    async def test_of_a_refresh_logs_nobody_out(self, fragile: Stack, person: Person) -> None:
        async def ask() -> httpx.Response:
            return await fragile.http.post("/v1/auth/refresh", json={"refresh_token": person.refresh_token})

        granted = content_of(await lose_the_answer(fragile, "auth", ask))
        content_of(await person.get("/workspace", token=granted["access_token"]))
        body = {"refresh_token": granted["refresh_token"]}
        content_of(await fragile.http.post("/v1/auth/refresh", json=body))


class TestCrashesAtRandom:
    async def test_leave_one_effect_for_every_key(
        self, fragile: Stack, person: Person, tell: Callable[[str], None]
    ) -> None:
        founder = await fragile.sign_up(workspace=False)
        answers: dict[str, list[httpx.Response]] = {}

        async def twice(name: str, ask: Callable[[], Any]) -> None:
            """As a client does that had no answer, and one that asks once more."""
            answers[name] = [await insist(ask), await insist(ask)]

        async def put(worker: int) -> None:
            for number in itertools.count():
                if crashing.done():
                    return
                name, headers = f"s{worker}/{number}", keyed()
                body = {"value": name}
                await twice(name, partial(person.put, f"/secrets/{name}", json=body, headers=headers))

        async def found(worker: int) -> None:
            for number in itertools.count():
                if crashing.done():
                    return
                name, headers = f"w{worker}-{number}", keyed()
                body = {"name": name, "slug": name}
                await twice(name, partial(founder.post, "/workspaces", json=body, headers=headers))

        async def crash() -> None:
            for service in random.sample(["vault", "vault", "tenancy", "tenancy", "gateway", "gateway"], 6):
                await asyncio.sleep(random.uniform(0, 0.2))  # the moment is the point
                fragile.kill(service)
                await fragile.start(service)

        crashing = asyncio.create_task(crash())
        await asyncio.gather(crashing, *(put(worker) for worker in range(5)), *(found(worker) for worker in range(2)))
        puts = {name: both for name, both in answers.items() if name.startswith("s")}
        founded = {name: both for name, both in answers.items() if name.startswith("w")}
        for first, second in puts.values():
            assert content_of(first) == content_of(second)
            assert content_of(first)["version"] == 1
            assert second.headers["idempotency-replayed"] == "true"
        for first, second in founded.values():
            assert content_of(first, 201) == content_of(second, 201)
        entries = await completed_log(fragile, person)
        assert [entry["action"] for entry in entries].count("vault.secret_written") == len(puts)
        mine = [membership["workspace_id"] async for membership in founder.pages("/me/workspaces?limit=100")]
        assert sorted(mine) == sorted(first.json()["id"] for first, _ in founded.values())
        lost = sum("idempotency-replayed" in first.headers for first, _ in answers.values())
        tell(
            f"chaos: 6 crashes while {len(answers)} keys were insisted on, each twice: one effect each; {lost} first "
            "answers were lost"
        )
