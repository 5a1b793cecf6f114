"""Three replicas of the vault follow new workspaces, and die while they do: each event has its effect once."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from causeloop_cli import dead
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.topology import VAULT_EVENTS
from tests.support.stack import Person, Stack, content_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.campaign]

WORKSPACES = 240
KILLS = 3
_INBOX = "SELECT workspace_id, count(*) FROM vault.inbox WHERE workspace_id = ANY($1) AND consumer = $2 GROUP BY 1"
_KEYRINGS = "SELECT workspace_id, count(*) FROM vault.keyrings WHERE workspace_id = ANY($1) GROUP BY 1"
_ENTRIES = """
    SELECT workspace_id, count(*) FROM audit.entries
    WHERE workspace_id = ANY($1) AND action = 'vault.keyring_created' GROUP BY 1
"""


async def test_every_new_workspace_gets_one_keyring_whatever_is_killed(
    fragile: Stack, person: Person, tell: Callable[[str], None]
) -> None:
    async with fragile.replicas("vault", 2) as more:
        replicas = ["vault", *more]
        made: list[UUID] = []

        async def create(number: int) -> None:
            body = {"name": f"Followed {number}", "slug": "followed"}
            answer = await person.post("/workspaces", json=body, token=person.realm_token)
            made.append(ids.tenant_uuid(content_of(answer, 201)["id"]))

        async def counted(query: str, *values: Any) -> dict[UUID, int]:
            async with fragile.sql() as sql:
                return dict(await sql.fetch(query, made, *values))

        async def prepared(least: int) -> bool:
            return len(await counted(_KEYRINGS)) >= least

        for turn, victim in enumerate(replicas):
            share = WORKSPACES // KILLS
            creating = [asyncio.create_task(create(turn * share + number)) for number in range(share)]
            await until("some are prepared", lambda least=turn * share + share // 4: prepared(least))  # type: ignore[misc]
            fragile.kill(victim)
            await asyncio.gather(*creating)
            await fragile.start(victim)
        await until("all are prepared", lambda: prepared(WORKSPACES), seconds=60)

        async def all_once(query: str, *values: Any) -> bool:
            return await counted(query, *values) == dict.fromkeys(made, 1)

        await until("each event is claimed once", lambda: all_once(_INBOX, VAULT_EVENTS.name), seconds=60)
        await until("each keyring has one entry", lambda: all_once(_ENTRIES), seconds=60)
        assert await all_once(_KEYRINGS)
        shares = [await fragile.metric(name, f'causeloop_consumed_total{{consumer="{VAULT_EVENTS.name}"}}')
                  for name in replicas]  # fmt: skip
        async with fragile.on_bus(topology.OPERATOR) as operator:
            letters = [letter async for letter in dead.letters(operator.jetstream())]
        assert letters == []
        await fragile.ready()
        tell(
            f"followers: {WORKSPACES} keyrings by three replicas, {KILLS} kills; since its start each handled {shares}"
        )
