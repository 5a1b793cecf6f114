"""Audit's database, restored from an older copy: the stream is entered again, and becomes the same logs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from causeloop_audit import app
from causeloop_audit.domain.position import Position, again_from
from causeloop_audit.handlers import intake as room
from causeloop_cli import streams
from causeloop_common.application import Application
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import CheckpointView, GetCheckpoint
from causeloop_common.messaging import Bus, event_headers
from causeloop_dev.testing import Servers
from causeloop_vault import app as vault_app
from tests.support.copies import Copy

PATIENCE = 20.0
CREATED = "2026-01-02 03:04:05+00:00"

Make = Callable[..., Announced]
Entries = list[tuple[int, str, bytes]]


class House:
    """Audit, which can be stopped, beside the vault, its witness; and services that publish."""

    def __init__(self, servers: Servers, superuser: asyncpg.Connection, ctx: AuthContext, bus: dict[str, Bus]) -> None:
        self._servers, self.sql, self._ctx, self._bus = servers, superuser, ctx, bus
        self.audit: Application

    async def start(self) -> None:
        """Start audit."""
        self.audit = app.create(self._servers.environ["audit"])
        await self.audit.start()

    async def publish(self, *events: Announced, headers: dict[str, str | None] | None = None) -> None:
        """Publish events, with some headers changed or left out."""
        for one in events:
            bus = self._bus[one.type.partition(".")[0]]
            given: dict[str, str | None] = {**event_headers(one), **(headers or {})}
            kept = {name: value for name, value in given.items() if value is not None}
            await bus.jetstream().publish(f"evt.{one.tenant}.{one.type}", one.data, headers=kept)

    async def entries(self) -> Entries:
        """The log of the test's workspace: index, action and hash of each entry."""
        rows = await self.sql.fetch(
            "SELECT index, action, leaf_hash FROM audit.entries WHERE workspace_id = $1 ORDER BY index",
            self._ctx.tenant_uuid,
        )
        return [tuple(row) for row in rows]

    async def has(self, size: int) -> Entries:
        """The log, once it has so many entries."""
        async with asyncio.timeout(PATIENCE):
            while len(found := await self.entries()) < size:  # noqa: ASYNC110  it lies in the database
                await asyncio.sleep(0.02)
        return found

    async def checkpoint(self) -> CheckpointView:
        """The log's head, signed."""
        return await self._bus["gateway"].call(self._ctx, GetCheckpoint())

    async def position(self) -> Position:
        """How far the stream is entered."""
        row = await self.sql.fetchrow("SELECT stream, position FROM audit.intake")
        assert row is not None
        return Position(*row)


@pytest.fixture
async def house(
    servers: Servers,
    superuser: asyncpg.Connection,
    workspace: AuthContext,
    compose: Callable[..., Awaitable[Application]],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[House]:
    monkeypatch.setattr(room, "_LOOK_SECONDS", 0.2)
    await compose(vault_app.create, "vault")
    async with servers.connected("vault") as vault, servers.connected("gateway") as gateway:
        made = House(servers, superuser, workspace, {"vault": vault, "gateway": gateway})
        await made.start()
        yield made
        await made.audit.stop()


async def differing(house: House, event: Make) -> int:
    """Publish messages of every kind, some twice; how many entries they become."""
    first, second = event(), event()
    await house.publish(first, second)
    await house.publish(event(salt=None), event(salt="odd"))
    await house.publish(event(data=b'{"rate":1.5}'), event(data=b'{"rate":2.5}', salt=None))
    await house.publish(event(), headers={"ce-time": None})
    await house.publish(event(), headers={"ce-time": "noon", "ce-id": None, "ce-salt": None})
    await house.publish(first._replace(type="gateway.access_denied"), second, first)
    return 9


class TestRestore:
    async def test_is_followed_by_the_same_entries_and_the_signed_root(self, house: House, event: Make) -> None:
        """P6: with EVENTS whole a log continues: its entries are the same, and its checkpoints go on."""
        copy = Copy("audit")
        await house.publish(event(), event())
        await house.has(2)
        await copy.take(house.sql)
        size = 2 + await differing(house, event)
        before, signed = await house.has(size), await house.checkpoint()
        assert signed.size == size

        await house.audit.stop()
        await copy.put_back(house.sql)
        assert len(await house.entries()) == 2
        await house.start()

        assert await house.has(size) == before
        assert await house.checkpoint() == signed
        await house.publish(event())
        assert (await house.has(size + 1))[:size] == before
        assert (await house.checkpoint()).size == size + 1

    async def test_keeps_the_places_of_what_was_held(self, house: House, event: Make, workspace: AuthContext) -> None:
        """P6: a copy that was taken while a log was damaged has its events held, and the stream has those after."""
        damage = "UPDATE audit.heads SET peaks = $2 WHERE workspace_id = $1"
        copy = Copy("audit")
        await house.publish(event(), event(), event())
        await house.has(3)
        peaks = await house.sql.fetchval("SELECT peaks FROM audit.heads WHERE workspace_id = $1", workspace.tenant_uuid)
        await house.sql.execute(damage, workspace.tenant_uuid, b"")
        await house.publish(event(), event(), headers={"ce-time": None})

        async def are_held(count: int) -> None:
            held = "SELECT count(*) FROM audit.held WHERE workspace_id = $1"
            async with asyncio.timeout(PATIENCE):
                while await house.sql.fetchval(held, workspace.tenant_uuid) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        await are_held(2)
        await copy.take(house.sql)
        await house.publish(event(), event())
        await house.sql.execute(damage, workspace.tenant_uuid, peaks)
        before, signed = await house.has(7), await house.checkpoint()

        await house.audit.stop()
        await copy.put_back(house.sql)
        await house.start()
        await are_held(4)
        await house.sql.execute(damage, workspace.tenant_uuid, peaks)
        assert await house.has(7) == before
        assert await house.checkpoint() == signed

    async def test_is_not_ready_until_the_stream_is_entered(
        self, house: House, event: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """P6: while logs are shorter than what was signed of them, `/ready` is not 200, after a restart neither."""
        copy = Copy("audit")
        await copy.take(house.sql)
        await house.publish(event(), event())
        await house.has(2)
        await house.audit.stop()
        await copy.put_back(house.sql)
        await house.sql.execute("BEGIN; LOCK TABLE audit.entries IN SHARE MODE")  # nothing is entered meanwhile
        for is_started_again in (False, True):
            if is_started_again:
                await house.audit.stop()
            await house.start()
            async with asyncio.timeout(PATIENCE):
                while (found := (await house.audit.readiness())["restore"]) == "ok":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert found.startswith("Audit's database was restored from an older copy")
        await house.sql.execute("COMMIT")
        await house.has(2)
        async with asyncio.timeout(PATIENCE):
            while (await house.audit.readiness())["restore"] != "ok":  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def test_is_over_where_the_stream_ends(self, house: House, event: Make) -> None:
        """P6: what the stream has no more, as after a purge, comes from the outboxes: its number is not waited for."""
        await house.publish(event(), event())
        await house.has(2)
        await house.audit.stop()
        await house.sql.execute("UPDATE audit.intake SET again_to = position + 5")
        await house.start()
        async with asyncio.timeout(PATIENCE):
            while await house.sql.fetchval("SELECT again_to FROM audit.intake"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while (await house.audit.readiness())["restore"] != "ok":  # noqa: ASYNC110
                await asyncio.sleep(0.02)


class TestPosition:
    async def test_moves_with_every_batch_whatever_becomes_of_it(
        self, house: House, event: Make, workspace: AuthContext
    ) -> None:
        """P6: what was known or held counts, too, or it would come again after every restore."""

        async def reached(number: int) -> None:
            async with asyncio.timeout(PATIENCE):
                while (await house.position()).number < number:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        one = event()
        await house.publish(one)
        await house.has(1)
        number = (await house.position()).number
        await house.publish(one)  # known
        await reached(number + 1)
        await house.publish(event(actor="usr_\x7f"), event())  # no event
        await reached(number + 3)
        await house.sql.execute("UPDATE audit.heads SET peaks = '' WHERE workspace_id = $1", workspace.tenant_uuid)
        await house.publish(event())  # held
        await reached(number + 4)
        await house.sql.execute("DELETE FROM audit.held WHERE workspace_id = $1", workspace.tenant_uuid)

    @pytest.mark.parametrize("is_held", [False, True])
    async def test_that_is_gone_is_named_and_ends_no_process(
        self, house: House, event: Make, workspace: AuthContext, is_held: bool
    ) -> None:
        """D12: without the row of its position the intake ended audit, at each start again."""
        await house.publish(event())
        await house.has(1)
        peaks = await house.sql.fetchval("SELECT peaks FROM audit.heads WHERE workspace_id = $1", workspace.tenant_uuid)
        if is_held:
            await house.sql.execute("UPDATE audit.heads SET peaks = '' WHERE workspace_id = $1", workspace.tenant_uuid)
        row = await house.sql.fetchrow("DELETE FROM audit.intake RETURNING *")
        assert row is not None
        try:
            await house.publish(event())
            async with asyncio.timeout(PATIENCE):
                while not (found := (await house.audit.readiness())["intake"]).endswith("a copy of audit's database."):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert found.startswith("The intake waits: The row of audit.intake is gone")
        finally:
            places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
            await house.sql.execute(f"INSERT INTO audit.intake ({', '.join(row.keys())}) VALUES ({places})", *row)
            await house.sql.execute(
                "UPDATE audit.heads SET peaks = $2 WHERE workspace_id = $1", workspace.tenant_uuid, peaks
            )
        await house.has(2)

    async def test_belongs_to_one_stream(self, house: House, servers: Servers, event: Make) -> None:
        """P6: a stream that is made anew counts from 1: its numbers are not those of the old one."""
        await house.publish(event(), event(), event())
        await house.has(3)
        old = await house.position()
        await house.audit.stop()
        client = await streams.connect(servers.nats_url, topology.OPERATOR, servers.seeds["operator"])
        try:
            await client.jetstream().delete_stream("EVENTS")
        finally:
            await client.close()
            await streams.declare(servers.nats_url, servers.seeds["operator"])
        await house.start()
        await house.publish(event())
        await house.has(4)
        new = await house.position()
        assert new.stream != old.stream
        assert new.number == 1

    @pytest.mark.parametrize(
        ("position", "ends", "floor", "begin"),
        [
            pytest.param((CREATED, 70), (1, 90), 80, 71, id="the copy is older"),
            pytest.param((CREATED, 0), (1, 90), 80, 1, id="the copy has nothing"),
            pytest.param((CREATED, 80), (1, 90), 80, None, id="nothing is missing"),
            pytest.param((CREATED, 85), (1, 90), 80, None, id="the last batch was not acknowledged"),
            pytest.param((CREATED, 70), (76, 90), 80, 76, id="a part was purged"),
            pytest.param((CREATED, 70), (91, 90), 90, None, id="all was purged, and the floor moved"),
            pytest.param((CREATED, 95), (1, 90), 90, None, id="the stream lost its tail"),
            pytest.param(("2025-01-01", 70), (1, 90), 0, None, id="the stream is new"),
            pytest.param(("2025-01-01", 70), (1, 90), 80, 1, id="a copy from before the stream was made anew"),
            pytest.param(("", 0), (1, 90), 80, None, id="a database of before"),
        ],
    )
    def test_leads_to_where_the_stream_is_entered_again(
        self, position: Sequence[Any], ends: tuple[int, int], floor: int, begin: int | None
    ) -> None:
        first, last = ends
        assert again_from(Position(*position), stream=CREATED, first=first, last=last, floor=floor) == begin
