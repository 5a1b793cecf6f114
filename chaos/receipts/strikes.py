"""What is done to the installation itself while acts go on: each at once what an operator or a thief could do."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from causeloop_cli import services
from causeloop_common import ids
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import EVENT_BYTES, Event
from causeloop_common.database import Database
from causeloop_common.messaging import event_headers
from chaos.receipts.wire import Wire
from tests.support.bus import asking
from tests.support.copies import Copy
from tests.support.stack import Person, Stack, until

BALLAST_BYTES = EVENT_BYTES - 100
_PENDING = 50


class _Ballast:
    """An event of the vault as large as an event may be."""

    type = "vault.secret_written"
    forgets = None

    def __init__(self) -> None:
        self.target_id = ids.new("sec")

    def to_json(self) -> bytes:
        return b'{"ballast":"%s"}' % (b"x" * BALLAST_BYTES)


@asynccontextmanager
async def ballast(stack: Stack, person: Person) -> AsyncIterator["Ballast"]:
    """Events as large as they may be, committed as the vault commits its own."""
    tables = services.tables("vault")
    database = Database(stack.database_url("causeloop_vault"), "vault", tables, workers=1)
    await database.start()
    try:
        yield Ballast(database, person)
    finally:
        await database.stop()


class Ballast:
    """Commits large events."""

    def __init__(self, database: Database, person: Person) -> None:
        self._database = database
        self._ctx = asking(person.workspace, person.id)

    async def commit(self, count: int) -> None:
        """Commit so many, in a few transactions."""
        for _ in range(0, count, 20):
            async with self._database.transaction(self._ctx) as tx:
                for _ in range(20):
                    tx.publish(cast(Event, _Ballast()))
            await asyncio.sleep(0)


async def purge(stack: Stack, wire: Wire) -> int:
    """Purge the stream while the intake has not taken in what it has; how many events were lost with it."""
    with wire.withholding("pull"):
        async with stack.on_bus(topology.OPERATOR) as client:
            pending = await until("events wait for the intake", partial(_pending, client))
            await client.request(f"$JS.API.STREAM.PURGE.{topology.EVENTS.name}", timeout=5)
    return pending


async def _pending(client: Client) -> int:
    """How many events wait for the intake, once they are many: its last pull brings it some for a while."""
    api = f"$JS.API.CONSUMER.INFO.{topology.AUDIT_INTAKE.stream}.{topology.AUDIT_INTAKE.name}"
    info = json.loads((await client.request(api, timeout=5)).data)
    return int(info["num_pending"]) if info["num_pending"] >= _PENDING else 0


async def restore(stack: Stack, copy: Copy) -> int:
    """Have audit go on with a copy of its tables, as after an operator's restore; how many entries it lost."""
    stack.kill("audit")
    async with stack.sql() as sql:
        before = await sql.fetchval("SELECT count(*) FROM audit.entries")
        await copy.put_back(sql)
        after = await sql.fetchval("SELECT count(*) FROM audit.entries")
    await stack.start("audit", wait=False)
    return int(before - after)


@asynccontextmanager
async def thief(stack: Stack, choices: random.Random, share: float) -> AsyncIterator[list[str]]:
    """Publish events of the gateway, with its credential, under ids that other services' live events have."""
    stolen: list[str] = []
    async with stack.on_bus("gateway") as client:

        async def steal(message: Msg) -> None:
            if choices.random() >= share:
                return
            with suppress(nats.errors.Error, ValueError, KeyError):
                stolen.append(await _take(client, message))

        for subject in topology.follows("gateway"):
            await client.subscribe(subject, cb=steal)
        yield stolen


async def _take(client: Client, message: Msg) -> str:
    headers = message.headers or {}
    claimed = headers.get("Nats-Msg-Id") or headers["ce-id"]
    _, tenant, *_ = message.subject.split(".")
    event = Announced(ids.new("evt"), tenant, "gateway.access_denied", datetime.now(UTC), b"{}", "svc_gateway", tenant)
    forged = event_headers(event._replace(id=headers["ce-id"]))
    await client.publish(f"evt.{tenant}.gateway.access_denied", b"{}", headers=forged | {"Nats-Msg-Id": claimed})
    return claimed
