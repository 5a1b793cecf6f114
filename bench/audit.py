"""The rows of the log: how many events a second enter it, in process, against a bare insert of the same rows.

Both sides have a database of their own with the same tables, indexes, role, policies and durability, and take turns.
The bare insert is given what ours has to find out: places in the log, hashes, canonical text. It locks no head and
passes over no duplicate.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import asyncpg
import nats
import uvloop
from nats.js.api import AckPolicy, ConsumerConfig

from bench.rows import REFERENCE, servers
from bench.run import Effort, Measure, Row, compare, in_turn
from causeloop_audit.handlers import Intake
from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWriter
from causeloop_audit.service import LogService, Readers
from causeloop_audit.settings import AuditSettings
from causeloop_common import ids
from causeloop_common.application import settle_memory
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced, new_salt
from causeloop_common.database import Database, role_connections
from causeloop_common.keys import reader_seed
from causeloop_common.leader import Leader, Work
from causeloop_common.messaging import Bus, event_headers

BATCH = 500
WORKSPACES = 200
EVENTS_PER_SECOND = 10_000
"""How many events a turn has for each second it may take: what is made for it is made before the clock starts."""

INSERT = """
    INSERT INTO audit.entries (workspace_id, index, service, event_id, digest, action, actor, credential, target,
                               request_id, occurred_at, leaf_hash, leaf)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::uuid[], $5::bytea[], $6::text[], $7::text[],
                         $8::text[], $9::text[], $10::text[], $11::timestamptz[], $12::bytea[], $13::text[])
"""


class Sides(NamedTuple):
    """Ours and the bare one, each a connection or service of its own, and the loop both run in."""

    runner: asyncio.Runner
    house: dict[str, Any]
    log: LogService
    leader: Leader
    bare: asyncpg.Connection


@contextmanager
def sides() -> Iterator[Sides]:
    """Both, connected."""
    with servers() as house, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        settings = AuditSettings.load("audit", house["environ"]["audit"])
        database = Database(settings.dsn("causeloop_audit"), "audit", metadata, workers=1)
        connections = role_connections(settings.dsn(WRITER), WRITER)
        leader = Leader(connections, "audit", "intake")
        dsn = AuditSettings.load("audit", house["reference"]["audit"]).dsn(WRITER)
        bare = runner.run(asyncpg.connect(dsn))
        try:
            yield Sides(runner, house, LogService(database, LogWriter(leader), bytes(32), Readers()), leader, bare)
        finally:
            runner.run(connections.close(1))
            runner.run(bare.close())


class Led(Work):
    """Appends as the leader of the intake, and is done."""

    def __init__(self, append: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.lead = append  # type: ignore[method-assign]

    async def lead(self) -> None:
        """Given."""


def events(count: int, workspaces: list[str]) -> list[Announced]:
    """New events as services announce them, of the workspaces in turn."""
    actor, credential, request = ids.realm("bench", "bench"), ids.new("ses"), ids.new("req")
    trace, now, data = "00-" + "1" * 32 + "-" + "2" * 16 + "-01", datetime.now(UTC), b'{"secret_id":"%b","version":1}'
    made = []
    for number in range(count):
        workspace, target = workspaces[number % len(workspaces)], ids.new("sec")
        made.append(
            Announced(
                ids.new("evt"), workspace, "vault.secret_written", now, data % target.encode(), actor, target,
                credential, request_id=request, traceparent=trace, salt=new_salt(),
            )
        )  # fmt: skip
    return made


class Places:
    """The next index of every log, for who does not ask the database."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def take(self, tenant: str) -> int:
        index = self._next.get(tenant, 0)
        self._next[tenant] = index + 1
        return index


def row(event: Announced, index: int, leaf: bytes) -> tuple[Any, ...]:
    """An entry's row."""
    return (
        ids.tenant_uuid(event.tenant), index, "vault", ids.decode(event.id, "evt"), bytes(32), event.type, event.actor,
        event.credential, event.target, event.request_id, event.occurred_at, hashlib.sha256(leaf).digest(),
        leaf.decode(),
    )  # fmt: skip


async def insert(connection: asyncpg.Connection, rows: list[tuple[Any, ...]]) -> None:
    """One batch, one transaction."""
    async with connection.transaction():
        await connection.execute(INSERT, *map(list, zip(*rows, strict=True)))


def audit_append(workspaces: int, effort: Effort) -> Row:
    """Events into the log through `LogService`, in batches of 500."""
    with sides() as both:
        tenants = [ids.new("ws") for _ in range(workspaces)]
        count, places = _count(effort.seconds), Places()

        def ours() -> dict[str, Any]:
            made = [events(BATCH, tenants) for _ in range(count // BATCH)]

            async def append() -> None:
                for batch in made:
                    await both.log.append(batch)

            return _rate(both.runner, partial(both.leader.once, Led(append)), count)

        def bare() -> dict[str, Any]:
            # The text of the leaf is as long as ours: a canonical entry with its salt.
            made = [
                [row(event, places.take(event.tenant), b"x" * 420) for event in events(BATCH, tenants)]
                for _ in range(count // BATCH)
            ]

            async def append() -> None:
                for rows in made:
                    await insert(both.bare, rows)

            return _rate(both.runner, append, count)

        found = in_turn([ours, bare], effort.rounds)
    return compare(*found, bar=0.5)


def audit_intake(effort: Effort) -> Row:
    """Events from the stream into the log, by the intake itself, of 200 workspaces."""
    with sides() as both:
        house = both.house
        tenants = [ids.new("ws") for _ in range(WORKSPACES)]
        count, places = _count(effort.seconds), Places()
        settings = AuditSettings.load("audit", house["environ"]["audit"])
        bus = Bus(settings, settings.keyring())
        both.runner.run(bus.connect())
        reference = both.runner.run(_reference_consumer(house))

        class Counting(LogService):
            """Knows when everything is appended."""

            done = 0
            all_done = asyncio.Event()

            async def append(self, batch: Any, *, position: int | None = None) -> Any:
                grown = await super().append(batch, position=position)
                self.done += len(batch)
                if self.done >= count:
                    self.all_done.set()
                return grown

        def publish() -> dict[str, Any]:
            both.runner.run(_publish(house, events(count, tenants)))
            return {}

        def ours() -> dict[str, Any]:
            service = Counting(both.log._database, both.log._writer, bytes(32), Readers())
            service.all_done.clear()

            async def take_in() -> None:
                taking = asyncio.create_task(both.leader.run(Intake(bus, service, both.leader)))
                await service.all_done.wait()
                await asyncio.sleep(0)
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)

            return _rate(both.runner, take_in, count)

        def bare() -> dict[str, Any]:
            async def take_in() -> None:
                taken = 0
                stream = reference.jetstream(prefix=topology.STREAMS_API)
                subscription = await stream.pull_subscribe_bind(REFERENCE.name, REFERENCE.stream)
                while taken < count:
                    batch = await subscription.fetch(BATCH, timeout=5)
                    rows = []
                    for message in batch:
                        headers = message.headers
                        tenant = message.subject.split(".")[2]
                        event = Announced(
                            headers["ce-id"], tenant, headers["ce-type"], datetime.fromisoformat(headers["ce-time"]),
                            message.data, headers["ce-actor"], headers["ce-subject"], headers["ce-credential"],
                            headers["ce-requestid"],
                        )  # fmt: skip
                        rows.append(row(event, places.take(tenant), message.data))
                    await insert(both.bare, rows)
                    await batch[-1].ack()
                    taken += len(batch)
                await subscription.unsubscribe()

            return _rate(both.runner, take_in, count)

        found: list[list[dict[str, Any]]] = [[], []]
        for number in range(effort.rounds):
            publish()
            for side in (0, 1) if number % 2 else (1, 0):
                found[side].append((ours, bare)[side]())
        both.runner.run(bus.close())
        both.runner.run(reference.close())
    return compare(*found, bar=0.5)


async def _reference_consumer(house: dict[str, Any]) -> Any:
    """The bare side's place on the bus: audit's credential, and a consumer like audit's own."""
    operator = await nats.connect(
        house["nats_url"], nkeys_seed_str=house["seeds"]["operator"], inbox_prefix=topology.inbox("operator")
    )
    config = ConsumerConfig(
        durable_name=REFERENCE.name,
        ack_policy=AckPolicy.ALL,
        max_ack_pending=REFERENCE.max_ack_pending,
        filter_subject="evt.>",
    )
    await operator.jetstream().add_consumer(REFERENCE.stream, config)
    await operator.close()
    return await nats.connect(
        house["nats_url"],
        nkeys_seed_str=reader_seed(house["seeds"]["audit"]),
        inbox_prefix=topology.inbox(topology.reader("audit")),
    )


async def _publish(house: dict[str, Any], made: list[Announced]) -> None:
    """Put events on the stream as the vault's relay does."""
    vault = await nats.connect(
        house["nats_url"],
        nkeys_seed_str=house["seeds"]["vault"],
        inbox_prefix=topology.inbox("vault"),
        pending_size=2**28,
    )
    stream = vault.jetstream(prefix=topology.STREAMS_API)
    for start in range(0, len(made), BATCH):
        acks = [
            await stream.publish_async(f"evt.{e.tenant}.{e.type}", e.data, headers=event_headers(e))
            for e in made[start : start + BATCH]
        ]
        await asyncio.gather(*acks)
    await vault.close()


def _count(seconds: float) -> int:
    return int(seconds * EVENTS_PER_SECOND) // BATCH * BATCH


def _rate(runner: asyncio.Runner, work: Callable[[], Coroutine[Any, Any, None]], count: int) -> dict[str, Any]:
    settle_memory()  # as a service does
    began = time.perf_counter()
    runner.run(work())
    return {"rate": count / (time.perf_counter() - began)}


ROWS: dict[str, Measure] = {
    "audit_append_1": partial(audit_append, 1),
    "audit_append_200": partial(audit_append, WORKSPACES),
    "audit_intake": audit_intake,
}
