"""The intake, with deliveries and an acknowledgement that another intake left behind."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import asyncpg
import pytest
from nats.aio.msg import Msg

from causeloop_audit import app
from causeloop_cli import streams
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.topology import AUDIT_INTAKE
from causeloop_common.messaging import Bus, event_headers
from causeloop_dev.testing import Servers

PATIENCE = 20.0
ENTERED = "SELECT event_id FROM audit.entries WHERE workspace_id = $1 ORDER BY index"


async def publish(servers: Servers, events: Sequence[Announced]) -> None:
    async with servers.connected("vault") as vault:
        stream = vault.jetstream()
        published = [
            await stream.publish_async(f"evt.{one.tenant}.{one.type}", one.data, headers=event_headers(one))
            for one in events
        ]
        await asyncio.gather(*published)


def number(message: Msg) -> int:
    """The message's number in the stream."""
    return message.metadata.sequence.stream


async def state(bus: Bus) -> tuple[int, int]:
    """How many deliveries the consumer has counted, and the number in the stream of the last acknowledged event."""
    info = await bus.reader.jetstream().consumer_info(AUDIT_INTAKE.stream, AUDIT_INTAKE.name)
    assert info.delivered is not None
    assert info.ack_floor is not None
    return info.delivered.consumer_seq, info.ack_floor.stream_seq


class TestBegin:
    async def test_enters_everything_in_order_though_the_server_would_deliver_it_out_of_order(
        self,
        servers: Servers,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        event: Callable[..., Announced],
    ) -> None:
        """One acknowledgement covers all before it: it must not cover an event that is delivered later."""
        batch = [event() for _ in range(1_000)]
        await publish(servers, batch)
        async with servers.connected("audit") as dead:
            subscription = await dead.reader.jetstream().pull_subscribe_bind(AUDIT_INTAKE.name, AUDIT_INTAKE.stream)
            held: list[Msg] = []
            while not held or held[-1].metadata.num_pending:
                held += await subscription.fetch(500)
            for message in held[-500:]:  # they are to be delivered first
                await message.nak()
            await dead.reader.client.flush()
            await dead.reader.client.flush()

        audit = app.create(servers.environ["audit"])
        await audit.start()
        try:
            async with asyncio.timeout(PATIENCE):
                while len(entered := await superuser.fetch(ENTERED, workspace.tenant_uuid)) < len(batch):  # noqa: ASYNC110  it lies in the database
                    await asyncio.sleep(0.05)
        finally:
            await audit.stop()
        assert [ids.encode("evt", row["event_id"]) for row in entered] == [one.id for one in batch]

    async def test_goes_on_though_an_acknowledgement_of_an_earlier_intake_comes_late(
        self,
        servers: Servers,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
        event: Callable[..., Announced],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its count is higher than ours, and the server ignores an acknowledgement with a lower one than the last."""
        batch = [event() for _ in range(200)]
        operator = servers.seeds["operator"]
        with monkeypatch.context() as patched:
            patched.setattr(topology, "CONSUMERS", (replace(AUDIT_INTAKE, ack_wait_seconds=1),))
            await streams.declare(servers.nats_url, operator)
        audit = app.create(servers.environ["audit"])
        try:
            async with servers.connected("audit") as late:
                await late.reader.client.request(topology.reset(AUDIT_INTAKE))
                await publish(servers, batch[:100])
                intake = await late.reader.jetstream().pull_subscribe_bind(AUDIT_INTAKE.name, AUDIT_INTAKE.stream)
                held: list[Msg] = []
                for _ in range(60):  # its count becomes so high that ours would not be as high in time
                    for message in held:
                        await message.nak()
                    held = []
                    while len(held) < 100:
                        held += await intake.fetch(100)

                async with superuser.transaction():
                    await superuser.execute("LOCK TABLE audit.entries IN SHARE MODE")  # nothing is entered meanwhile
                    await audit.start()
                    async with asyncio.timeout(PATIENCE):
                        while not 0 < (await state(late))[0] <= 100:  # noqa: ASYNC110  it lies in the server
                            await asyncio.sleep(0.05)
                    await min(held, key=number).ack()
                    await late.reader.client.flush()
                    await late.reader.client.flush()
                last = number(max(held, key=number))
                await publish(servers, batch[100:])
                async with asyncio.timeout(PATIENCE):
                    while (await state(late))[1] < last + 100:  # noqa: ASYNC110  the same
                        await asyncio.sleep(0.05)
        finally:
            await audit.stop()
            await streams.declare(servers.nats_url, operator)
        entered = await superuser.fetch(ENTERED, workspace.tenant_uuid)
        assert [ids.encode("evt", row["event_id"]) for row in entered] == [one.id for one in batch]


class TestAWrongConsumer:
    @pytest.mark.parametrize("is_missing", [True, False])
    async def test_is_not_ready_until_it_is_as_it_should_be(self, servers: Servers, is_missing: bool) -> None:
        """P1: a consumer that was removed, or whose filter was narrowed, enters nothing of what it leaves out."""
        operator = servers.seeds["operator"]
        audit = app.create(servers.environ["audit"])

        async def until(is_ready: bool) -> None:
            async with asyncio.timeout(PATIENCE):
                while ((await audit.readiness())["intake"] == "ok") != is_ready:  # noqa: ASYNC110  others answer
                    await asyncio.sleep(0.05)

        try:
            await audit.start()
            await until(is_ready=True)
            client = await streams.connect(servers.nats_url, topology.OPERATOR, operator)
            try:
                stream = client.jetstream()
                if is_missing:
                    await stream.delete_consumer(AUDIT_INTAKE.stream, AUDIT_INTAKE.name)
                else:
                    config = (await stream.consumer_info(AUDIT_INTAKE.stream, AUDIT_INTAKE.name)).config
                    config.filter_subject, config.filter_subjects = "evt.*.vault.>", None
                    await stream.add_consumer(AUDIT_INTAKE.stream, config)
            finally:
                await client.close()
            await until(is_ready=False)
            await streams.declare(servers.nats_url, operator)
            await until(is_ready=True)
        finally:
            await audit.stop()
            await streams.declare(servers.nats_url, operator)
