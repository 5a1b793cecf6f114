"""The intake, with messages and logs that are meant to stop it, or are damaged: each concerns its own tenant alone."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest

from causeloop_audit import app
from causeloop_audit.handlers import intake as room
from causeloop_audit.service import LogService, log as log_room
from causeloop_common import ids
from causeloop_common.application import Application
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced, digest
from causeloop_common.contracts.audit import GetCheckpoint, GetEvent, GetEventProof, ListEvents
from causeloop_common.errors import Conflict
from causeloop_common.messaging import Bus, event_headers
from causeloop_common.messaging.wire import header_block
from causeloop_dev.testing import Servers, context

PATIENCE = 20.0

Make = Callable[..., Announced]


@pytest.fixture
async def audit(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Application]:
    monkeypatch.setattr(room, "_LOOK_SECONDS", 0.2)
    application = app.create(servers.environ["audit"])
    await application.start()
    yield application
    await application.stop()


@pytest.fixture
async def vault(servers: Servers) -> AsyncIterator[Bus]:
    async with servers.connected("vault") as bus:
        yield bus


async def entered(superuser: asyncpg.Connection, tenant: str) -> list[tuple[str, str, str]]:
    """A log: service, event and action of each entry."""
    rows = await superuser.fetch(
        "SELECT service, event_id, action FROM audit.entries WHERE workspace_id = $1 ORDER BY index",
        ids.tenant_uuid(tenant),
    )
    return [(row["service"], ids.encode("evt", row["event_id"]), row["action"]) for row in rows]


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await check():  # noqa: ASYNC110  what is asked lies in other processes
            await asyncio.sleep(0.02)


async def has(superuser: asyncpg.Connection, events: Sequence[Announced]) -> None:
    """Wait until the log has exactly these, in their order."""
    tenant, wanted = events[0].tenant, [one.id for one in events]

    async def there() -> bool:
        return [event for _, event, _ in await entered(superuser, tenant)] == wanted

    await until(there)


async def publish(bus: Bus, *events: Announced) -> None:
    for one in events:
        await bus.jetstream().publish(f"evt.{one.tenant}.{one.type}", one.data, headers=event_headers(one))


async def malformed_before(superuser: asyncpg.Connection, bus: Bus, last: Announced) -> None:
    """Publish one more event, and wait until the log has one malformed entry before it."""
    await publish(bus, last)

    async def there() -> bool:
        return [action for *_, action in await entered(superuser, last.tenant)] == ["audit.malformed", last.type]

    await until(there)


async def send(bus: Bus, subject: bytes, block: bytes, data: bytes, reply: bytes = b"") -> None:
    """Publish bytes as they are."""
    size = len(block)
    head = b" ".join(part for part in (b"HPUB", subject, reply, b"%d" % size, b"%d" % (size + len(data))) if part)
    await bus.client._send_command(b"\r\n".join((head, block + data, b"")))
    await bus.client.flush()
    await bus.client.flush()


class TestPoison:
    @pytest.mark.parametrize("status", ["404", "408", "409", "100", "503"])
    async def test_a_header_of_an_event_is_no_status_of_the_server(
        self,
        audit: Application,
        vault: Bus,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        event: Make,
        status: str,
    ) -> None:
        """P2: one's own event with a status among its headers, or for its first line, is entered like any other."""
        first, second, last = event(), event(), event()
        subject = f"evt.{workspace.tenant}.vault.secret_written".encode()
        await send(vault, subject, header_block(event_headers(first) | {"Status": status}), first.data)
        block = header_block(event_headers(second)).replace(b"NATS/1.0", b"NATS/1.0 %s Odd" % status.encode(), 1)
        await send(vault, subject, block, second.data)
        await send(vault, subject, b"NATS/1.0 %s\r\n\r\n" % status.encode(), b"")
        await publish(vault, last)

        async def there() -> bool:
            return len(await entered(superuser, workspace.tenant)) == 4

        await until(there)
        found = await entered(superuser, workspace.tenant)
        assert [event for _, event, _ in found][::3] == [first.id, last.id]
        assert [event for _, event, _ in found][1] == second.id
        assert found[2][2] == "audit.malformed"

    @pytest.mark.parametrize(
        "name", [b"\xff\xfe", b"x\x0by", b"x\x0cy", b"x\x1cy", b"x\xc2\x85y", b"\x80" * 3000], ids=repr
    )
    async def test_a_subject_that_is_no_text_stops_nobody(
        self,
        audit: Application,
        vault: Bus,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        event: Make,
        name: bytes,
    ) -> None:
        """P2: bytes that are not UTF-8, and spaces that are none for the server, become a malformed entry."""
        tenant = workspace.tenant.encode()
        await send(vault, b"evt.%s.vault.%s" % (tenant, name), header_block({"ce-id": "x"}), b"{}")
        await send(vault, b"evt.%s.vault.secret_written" % name, header_block({"ce-id": "x"}), b"{}")
        await malformed_before(superuser, vault, event())
        assert (await audit.readiness())["intake"] == "ok"

    @pytest.mark.parametrize("block", [b"NATS/1.0 \xff\xff\xff\r\n\r\n", b"NATS/1.0\r\n\xff: \xff\r\n\r\n"], ids=repr)
    async def test_headers_that_are_no_text_stop_nobody(
        self,
        audit: Application,
        vault: Bus,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        event: Make,
        block: bytes,
    ) -> None:
        """P2: what cannot be decoded becomes a malformed entry."""
        await send(vault, b"evt.%s.vault.secret_written" % workspace.tenant.encode(), block, b"{}")
        await malformed_before(superuser, vault, event())

    @pytest.mark.parametrize("reply", [b"_INBOX.gateway.audit.\xff", b"_INBOX.gateway.audit.x\x0by"], ids=repr)
    async def test_a_reply_subject_that_is_no_text_drops_no_other_connection(
        self, servers: Servers, audit: Application, workspace: AuthContext, reply: bytes
    ) -> None:
        """P2: one service cannot drop another's connection."""
        async with servers.connected("gateway") as gateway:
            before = dict(audit.bus.client.stats)
            await send(gateway, b"cmd.audit.get_checkpoint", header_block({}), b"{}", reply=reply)
            assert (await gateway.call(workspace, ListEvents())).data == []
            assert audit.bus.client.stats["reconnects"] == before["reconnects"]


class TestIdentity:
    async def test_an_id_of_one_service_is_not_that_of_another(
        self,
        servers: Servers,
        audit: Application,
        vault: Bus,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        event: Make,
    ) -> None:
        """P3: a service that publishes first under the id of another service's event does not keep that one out."""
        one = event()
        async with servers.connected("gateway") as gateway:
            await publish(gateway, one._replace(type="gateway.access_denied"))
        await publish(vault, one)

        async def there() -> bool:
            found = await entered(superuser, workspace.tenant)
            return [(service, event) for service, event, _ in found] == [("gateway", one.id), ("vault", one.id)]

        await until(there)
        async with servers.connected("gateway") as gateway:
            with pytest.raises(Conflict, match="of each of gateway and vault"):
                await gateway.call(workspace, GetEvent(id=one.id))
            with pytest.raises(Conflict, match="of each of gateway and vault"):
                await gateway.call(workspace, GetEventProof(id=one.id))
            listed = (await gateway.call(workspace, ListEvents())).data
        assert [entry.id for entry in listed] == [one.id, one.id]


class TestLoss:
    async def test_nothing_is_acknowledged_that_is_not_entered(
        self, audit: Application, vault: Bus, superuser: asyncpg.Connection, workspace: AuthContext, event: Make
    ) -> None:
        """P1: large events, while the connection of the intake is cut every 10 to 120 ms."""
        batch = [event(data=b'{"a":"%s"}' % (b"x" * 20_000)) for _ in range(600)]
        publishing = asyncio.create_task(publish(vault, *batch))
        dice = random.Random(1)
        for _ in range(40):
            await asyncio.sleep(dice.uniform(0.01, 0.12))
            if (wire := audit.bus.reader._client) is not None and wire._transport is not None:
                wire._transport.close()  # type: ignore[no-untyped-call]
        await publishing
        await has(superuser, batch)

    async def test_more_than_a_pull_holds_in_bytes_is_entered(
        self, audit: Application, vault: Bus, superuser: asyncpg.Connection, workspace: AuthContext, event: Make
    ) -> None:
        """P1: what is fetched is bounded in bytes, and goes on after the bound."""
        batch = [event(data=b'{"a":"%s"}' % (b"x" * 40_000)) for _ in range(420)]
        async with held_up(superuser):
            await publish(vault, *batch)
        await has(superuser, batch)


@asynccontextmanager
async def held_up(superuser: asyncpg.Connection) -> AsyncIterator[None]:
    """Nothing is entered meanwhile."""
    async with superuser.transaction():
        await superuser.execute("LOCK TABLE audit.entries IN SHARE MODE")
        yield


DAMAGE = {
    "peaks": "UPDATE audit.heads SET peaks = peaks || '\\x00' WHERE workspace_id = $1",
    "no peaks": "UPDATE audit.heads SET peaks = '' WHERE workspace_id = $1",
    "size too small": "UPDATE audit.heads SET size = 1, peaks = substr(peaks, 1, 32) WHERE workspace_id = $1",
    "size too large": "UPDATE audit.heads SET size = 7 WHERE workspace_id = $1",
}


class TestHeld:
    async def test_is_entered_part_by_part_and_log_by_log(
        self, log: LogService, superuser: asyncpg.Connection, event: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A mended log with much that is held delays the events of others by one part at a time."""
        monkeypatch.setattr(log_room, "_AT_ONCE", 3)
        monkeypatch.setattr(log_room, "_BYTES_AT_ONCE", 50_000)
        await superuser.execute("DELETE FROM audit.held")  # of logs that other tests damaged
        tenants = [ids.new("ws") for _ in range(2)]
        small = [event(tenant=tenants[0]) for _ in range(7)]
        large = [event(tenant=tenants[1], data=b'{"a":"%s"}' % (b"x" * 30_000)) for _ in range(2)]
        log._held.update(tenants)
        answer = await log.append([*small, *large])
        assert len(answer.known) == 9
        await superuser.execute("UPDATE audit.held SET until = now()")
        found, goes_on = [], True
        while goes_on:
            appended, goes_on = await log.enter_held()
            found.append(len(appended.entries))
        assert not log._held
        assert sorted(found) == [0, 1, 1, 1, 3, 3]
        for events in (small, large):
            assert [one for _, one, _ in await entered(superuser, events[0].tenant)] == [one.id for one in events]


class TestDamage:
    async def test_of_a_log_and_a_subject_that_no_table_holds_stop_nobody(
        self, audit: Application, vault: Bus, superuser: asyncpg.Connection, workspace: AuthContext, event: Make
    ) -> None:
        """P2: a damaged log's messages are held, whatever bytes are in them."""
        await publish(vault, first := event())
        await has(superuser, [first])
        await superuser.execute(DAMAGE["no peaks"], workspace.tenant_uuid)
        subject = b"evt.%s.vault.a\x00b" % workspace.tenant.encode()
        await send(vault, subject, b"NATS/1.0\r\nx: \x00\r\n\r\n", b"{}")
        await publish(vault, other := event(tenant=ids.new("ws")))
        await has(superuser, [other])

        async def is_held() -> bool:
            query = "SELECT count(*) FROM audit.held WHERE workspace_id = $1"
            return bool(await superuser.fetchval(query, workspace.tenant_uuid) == 1)

        await until(is_held)
        await publish(vault, another := event(tenant=ids.new("ws")))
        await has(superuser, [another])
        assert (await audit.readiness())["intake"] == "ok"
        await superuser.execute("DELETE FROM audit.held WHERE workspace_id = $1", workspace.tenant_uuid)

    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    async def test_of_one_head_concerns_its_log_alone(
        self,
        servers: Servers,
        audit: Application,
        vault: Bus,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        event: Make,
        damage: str,
    ) -> None:
        """D12: that log alone waits, answers 409 and is named in an alarm; mended, it has everything in its order."""
        other = context(ids.new("ws"))
        before = [event(), event(), event()]
        await publish(vault, *before)
        await has(superuser, before)
        keep = await superuser.fetchrow("SELECT * FROM audit.heads WHERE workspace_id = $1", workspace.tenant_uuid)
        assert keep is not None
        await superuser.execute(damage, workspace.tenant_uuid)
        waiting = [event() for _ in range(5)]
        others = [event(tenant=other.tenant) for _ in range(5)]
        receipted: dict[str, tuple[str, int]] = {}

        async def on_receipt(message: Any) -> None:
            body = orjson.loads(message.data)
            receipted.update({entry[1]: (entry[2], body["batch"]) for entry in body["entries"]})

        await vault.subscribe(topology.entered("vault"), on_receipt)
        await vault.client.flush()
        for pair in zip(waiting, others, strict=True):
            await publish(vault, *pair)

        await has(superuser, others)
        await has(superuser, before)

        async def all_receipted() -> bool:
            return {one.id for one in waiting} <= receipted.keys()

        await until(all_receipted)  # or they would be sent again without end, and fill the stream
        assert [receipted[one.id][0] for one in waiting] == [digest(one).hex() for one in waiting]
        batch = await superuser.fetchval("SELECT batch FROM audit.intake")
        assert all(0 < receipted[one.id][1] <= batch for one in waiting)
        async with servers.connected("gateway") as gateway:
            with pytest.raises(Conflict, match="damaged"):
                await gateway.call(workspace, GetCheckpoint())
        assert (await audit.readiness())["intake"] == "ok"

        await superuser.execute(
            "UPDATE audit.heads SET size = $2, root = $3, peaks = $4 WHERE workspace_id = $1", *keep
        )
        await has(superuser, before + waiting)

        async def emptied() -> bool:
            return not await superuser.fetchval(
                "SELECT count(*) FROM audit.held WHERE workspace_id = $1", workspace.tenant_uuid
            )

        await until(emptied)
        await publish(vault, last := event())
        await has(superuser, [*before, *waiting, last])
