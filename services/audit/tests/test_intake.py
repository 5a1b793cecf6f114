"""The intake, with deliveries that another intake left behind."""

import asyncio
from collections.abc import Callable

import asyncpg
from nats.aio.msg import Msg

from causeloop_audit import app
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.topology import AUDIT_INTAKE
from causeloop_common.messaging import event_headers
from causeloop_dev.testing import Servers

PATIENCE = 20.0
ENTERED = "SELECT event_id FROM audit.entries WHERE workspace_id = $1 ORDER BY index"


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
        async with servers.connected("vault") as vault:
            stream = vault.jetstream()
            published = [
                await stream.publish_async(f"evt.{one.tenant}.{one.type}", one.data, headers=event_headers(one))
                for one in batch
            ]
            await asyncio.gather(*published)
        async with servers.connected("audit") as dead:
            subscription = await dead.jetstream().pull_subscribe_bind(AUDIT_INTAKE.name, AUDIT_INTAKE.stream)
            held: list[Msg] = []
            while not held or held[-1].metadata.num_pending:
                held += await subscription.fetch(500)
            for message in held[-500:]:  # they are to be delivered first
                await message.nak()
            await dead.flush()

        audit = app.create(servers.environ["audit"])
        await audit.start()
        try:
            async with asyncio.timeout(PATIENCE):
                while len(entered := await superuser.fetch(ENTERED, workspace.tenant_uuid)) < len(batch):  # noqa: ASYNC110  it lies in the database
                    await asyncio.sleep(0.05)
        finally:
            await audit.stop()
        assert [ids.encode("evt", row["event_id"]) for row in entered] == [one.id for one in batch]
