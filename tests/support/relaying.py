"""A relay of tenancy that a test runs beside its own acts, and what the stream and the metrics then have."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from prometheus_client import REGISTRY

from causeloop_cli import services
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Connections, Database, role_connections
from causeloop_common.leader import Leader
from causeloop_common.messaging import Bus
from causeloop_common.relay import Relay

KEY = b"k" * 32
PERSON = ids.realm("https://issuer.test", "user_1")
ROLE = "causeloop_tenancy_relay"


class Running(NamedTuple):
    """A relay that runs: its part in the lead, and its task."""

    leader: Leader
    task: asyncio.Task[None]


Run = Callable[[], Awaitable[Running]]


def begin(connections: Connections, bus: Bus, database: Database) -> Running:
    """Start a relay of tenancy."""
    leader = Leader(connections, "tenancy", "relay")
    relay = Relay(leader, "tenancy", bus, database.published, KEY)
    return Running(leader, asyncio.create_task(leader.run(relay)))


@asynccontextmanager
async def relays(dsn: str, bus: Bus, database: Database) -> AsyncIterator[Run]:
    """Starts relays on connections of their own, and ends them with the block."""
    tasks: list[asyncio.Task[None]] = []
    connections = role_connections(dsn, ROLE)

    async def start() -> Running:
        running = begin(connections, bus, database)
        tasks.append(running.task)
        return running

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await connections.close(1)


@asynccontextmanager
async def connected(scratch: Any) -> AsyncIterator[Database]:
    """The database as a process of the service has it."""
    database = Database(scratch.dsn("causeloop_tenancy"), "tenancy", services.tables("tenancy"))
    await database.start()
    yield database
    await database.stop()


async def announce(database: Database, ctx: AuthContext, *roles: str) -> None:
    async with database.transaction(ctx) as tx:
        for role in roles:
            tx.publish(MemberAdded(person_id=PERSON, role=role))


async def streamed(house: Any, tenant: str) -> list[str]:
    """What the stream has of a tenant, in its order, by the role that the events name."""
    stream = (await house.operator()).jetstream()
    subscription = await stream.subscribe(f"evt.*.{tenant}.>", ordered_consumer=True)
    pending = (await subscription.consumer_info()).num_pending
    messages = [await subscription.next_msg() for _ in range(pending)]
    await subscription.unsubscribe()
    return [MemberAdded.model_validate_json(message.data).role for message in messages]


async def until(check: Callable[[], Awaitable[Any]], *, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110  what is asked lies outside this process
            await asyncio.sleep(0.01)


async def arrived(house: Any, ctx: AuthContext, *roles: str) -> None:
    """Wait until exactly these are in the stream."""

    async def there() -> bool:
        return await streamed(house, ctx.tenant) == list(roles)

    await until(there)


def lag() -> float:
    """The age of the oldest event that waits, as the metric has it."""
    return REGISTRY.get_sample_value("causeloop_leader_lag_seconds", {"service": "tenancy", "name": "relay"}) or 0.0
