"""The client that users have (libs/client), against the whole house."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import islice
from typing import Any

import httpx
import pytest

from causeloop_client import AsyncClient, Client, Problem
from causeloop_client.calls import (
    CreateApiToken,
    CreateKey,
    CreateWorkspace,
    Decrypt,
    Encrypt,
    Exchange,
    GetAuditKey,
    GetCheckpoint,
    GetConsistency,
    GetEvent,
    GetEventProof,
    GetSecret,
    GetWorkspace,
    ListApiTokens,
    ListEvents,
    ListKeys,
    ListMyWorkspaces,
    ListSecrets,
    Logout,
    PutSecret,
    Refresh,
    RevealSecret,
    RevokeApiToken,
)
from tests.support.stack import Person, Stack, until


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.url, patience=10) as client:
        yield client


SCOPES = "secrets:read secrets:write secrets:reveal keys:read keys:write keys:use audit:read audit:stream"


class TestTheClient:
    async def test_calls_every_operation(self, stack: Stack, client: AsyncClient) -> None:
        session = await stack.session(f"user_{secrets.token_hex(8)}")
        grant = await client.send(Exchange(subject_token=session))
        client.token = grant["access_token"]
        making, key = CreateWorkspace(name="Acme", slug="acme"), secrets.token_hex(8)
        first, again = await client.answer(making, key=key), await client.answer(making, key=key)
        assert (first.status, first.is_replayed, again.is_replayed) == (201, False, True)
        assert first.body == again.body
        workspace = first.body["id"]
        grant = await client.send(Refresh(refresh_token=grant["refresh_token"], workspace_id=workspace))
        client.token = grant["access_token"]
        assert await client.send(GetWorkspace()) == first.body
        assert [mine["role"] async for mine in client.items(ListMyWorkspaces())] == ["owner"]

        scopes = [
            "secrets:read",
            "secrets:write",
            "secrets:reveal",
            "keys:read",
            "keys:write",
            "keys:use",
            "audit:read",
        ]
        token = await client.send(CreateApiToken(name="ci", scopes=[*scopes, "audit:stream"], expires_in_days=1))
        assert [listed["id"] async for listed in client.items(ListApiTokens())] == [token["id"]]
        program = stack.client(token["token"])

        for number in range(5):
            await program.send(PutSecret(path=f"db/password-{number}", value=f"s3cret {number}"))
        revealed = await program.send(RevealSecret(path="db/password-3"))
        assert revealed["value"] == "s3cret 3"
        assert (await program.send(GetSecret(path="db/password-3")))["id"] == revealed["id"]
        assert [secret["path"] async for secret in program.items(ListSecrets(limit=2))] == [
            f"db/password-{number}" for number in range(5)
        ]
        with pytest.raises(Problem, match="version is not the one") as refusal:
            await program.send(PutSecret(path="db/password-3", value="x", version=7))
        assert (refusal.value.status, refusal.value.code) == (409, "conflict")
        assert refusal.value.trace_id.startswith("req_")

        made = await program.send(CreateKey(name="orders", type="aes256-gcm"))
        assert [named["id"] async for named in program.items(ListKeys())] == [made["id"]]
        sealed = await program.send(
            Encrypt(name="orders", items=[{"plaintext": "SUJBTg==", "context": {"order": "7"}}])
        )
        opened = await program.send(
            Decrypt(name="orders", ciphertext=sealed["results"][0]["ciphertext"], context={"order": "7"})
        )
        assert opened["plaintext"] == "SUJBTg=="

        async def arrived() -> list[Any]:
            events = [event async for event in program.items(ListEvents(order="index", limit=4))]
            return events if events[-1]["action"] == "vault.data_decrypted" else []

        events = await until("every act is in the log", arrived)
        assert await program.send(GetEvent(id=events[4]["id"])) == events[4]
        assert (await program.send(GetEventProof(id=events[4]["id"])))["index"] == 4
        size = (await program.send(GetCheckpoint()))["size"]
        assert (await program.send(GetConsistency(from_=3, to=size)))["from"] == 3
        assert (await program.send(GetAuditKey()))["origin"].endswith(workspace)
        entries = [entry async for entry in program.follow(0, count=len(events))]
        assert [entry.body["id"] for entry in entries] == [event["id"] for event in events]

        await client.send(RevokeApiToken(id=token["id"]))
        await client.send(Logout())
        with pytest.raises(Problem) as refusal:
            await client.send(GetWorkspace())
        assert refusal.value.code == "unauthorized"

    async def test_that_waits_does_the_same(self, stack: Stack, owner: Person) -> None:
        def journey() -> list[int]:
            with Client(stack.url, owner.token, http=httpx.Client(trust_env=False)) as client:
                for number in range(3):
                    client.send(PutSecret(path=f"a/{number}", value="x"))
                assert [secret["path"] for secret in client.items(ListSecrets(limit=2))] == ["a/0", "a/1", "a/2"]
                return [entry.index for entry in islice(client.follow(0), 6)]

        assert await asyncio.to_thread(journey) == list(range(6))

    async def test_follows_until_it_may_not(self, stack: Stack, owner: Person) -> None:
        made = await owner.personal_token("audit:stream")
        found: list[str] = []

        async def follow() -> None:
            async with aclosing(stack.client(made["token"]).follow(0)) as entries:
                async for entry in entries:
                    found.append(entry.body["action"])
                    if entry.body["target"] == made["id"]:
                        await owner.client().send(RevokeApiToken(id=made["id"]))

        with pytest.raises(Problem) as end:
            await follow()
        assert (end.value.code, end.value.status) == ("unauthorized", 200)
        assert found[3] == "auth.token_created"


@pytest.mark.chaos
class TestPatience:
    async def test_outlasts_restarts_and_does_everything_once(self, fragile: Stack) -> None:
        await fragile.mend()
        person = await fragile.sign_up()
        url, token = fragile.url, person.token
        over = asyncio.Event()
        written: list[str] = []

        async def write() -> None:
            async with AsyncClient(url, token, patience=30) as client:
                while not over.is_set():
                    path = f"s/{len(written)}"
                    assert (await client.send(PutSecret(path=path, value="x")))["version"] == 1
                    written.append(path)

        async def follow() -> list[str]:
            found: list[str] = []
            async with AsyncClient(url, token, patience=30) as client, aclosing(client.follow(0)) as entries:
                async for entry in entries:
                    if entry.body["action"] == "vault.secret_written":
                        found.append(entry.body["id"])
                    if over.is_set() and len(found) == len(written):
                        return found
            raise AssertionError

        writing, following = asyncio.create_task(write()), asyncio.create_task(follow())
        for number, service in enumerate(("gateway", "vault", "gateway"), 1):

            async def wrote(least: int = number * 5) -> bool:
                return len(written) >= least

            await until("it writes again", wrote)
            await fragile.restart(service)
        over.set()
        await writing
        async with asyncio.timeout(30):
            found = await following
        assert len(set(found)) == len(found) == len(written) >= 15
