"""The relay: every committed event reaches the stream, in order, and nothing else does."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from nats.js.errors import NotFoundError

from causeloop_common import ids, telemetry
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Database
from causeloop_common.errors import NotFound
from causeloop_common.messaging import Bus
from causeloop_common.relay import work as rooms
from causeloop_dev.testing import context
from tests.support.relaying import PERSON, Run, announce, arrived, until

pytestmark = pytest.mark.usefixtures("hurried")


class TestOrder:
    async def test_what_was_committed_arrives_as_it_was_committed(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        await run()
        await announce(database, workspace, "one", "two")
        await announce(database, workspace, "three")
        await arrived(house, workspace, "one", "two", "three")

        async def marked() -> bool:
            rows = await superuser.fetch(
                "SELECT stream_seq FROM tenancy.outbox "
                "WHERE workspace_id = $1 AND published_at IS NOT NULL ORDER BY seq",
                workspace.tenant_uuid,
            )
            sequences = [row["stream_seq"] for row in rows]
            return len(sequences) == 3 and sequences == sorted(sequences)

        await until(marked)

    async def test_a_backlog_of_more_than_a_batch_keeps_its_order(
        self, house: Any, run: Run, database: Database, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rooms, "BATCH", 50)
        roles = [f"role {number:03}" for number in range(120)]
        await announce(database, workspace, *roles)

        await run()
        await arrived(house, workspace, *roles)

    async def test_an_event_carries_its_caller_and_its_own_id(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        await run()
        with telemetry.working(telemetry.UNTRACED.start_span("a request")):
            trace = telemetry.traceparent()
            await announce(database, workspace, "one")
        await arrived(house, workspace, "one")

        stream = (await house.operator()).jetstream()
        message = await stream.get_last_msg("EVENTS", f"evt.*.{workspace.tenant}.tenancy.member_added")
        stored = await superuser.fetchval(
            "SELECT event_id FROM tenancy.outbox WHERE workspace_id = $1", workspace.tenant_uuid
        )
        assert message.headers is not None
        assert message.headers["ce-id"] == ids.encode("evt", stored)
        assert message.headers["ce-actor"] == workspace.principal
        assert message.headers["ce-requestid"] == workspace.request_id
        assert message.headers["traceparent"] == trace

    async def test_nobody_can_publish_first_what_the_stream_then_drops(
        self,
        house: Any,
        run: Run,
        bus: Callable[[str], Awaitable[Bus]],
        database: Database,
        superuser: asyncpg.Connection,
        workspace: AuthContext,
    ) -> None:
        """P3: the id of an event, which others learn before it is in the stream, is not the id of its message."""
        await announce(database, workspace, "one")
        stored = await superuser.fetchval(
            "SELECT event_id FROM tenancy.outbox WHERE workspace_id = $1", workspace.tenant_uuid
        )
        other = (await bus("gateway")).jetstream()
        for name in (ids.encode("evt", stored), str(stored)):
            await other.publish(
                f"evt.{workspace.tenant}.gateway.access_denied", b"{}", headers={"Nats-Msg-Id": name, "ce-id": name}
            )
        await run()

        async def there() -> bool:
            stream = (await house.operator()).jetstream()
            try:
                await stream.get_last_msg("EVENTS", f"evt.*.{workspace.tenant}.tenancy.member_added")
            except NotFoundError:
                return False
            return True

        await until(there)

    async def test_an_event_of_a_realm_goes_to_the_realm(self, house: Any, run: Run, database: Database) -> None:
        person = ids.realm("https://issuer.test", ids.new("sub"))
        await run()
        await announce(database, realm := context(person, principal=person), "one")

        await arrived(house, realm, "one")


class TestWhatIsAnnounced:
    async def test_nothing_of_a_rolled_back_act_is(
        self, house: Any, run: Run, database: Database, workspace: AuthContext
    ) -> None:
        await run()
        with pytest.raises(NotFound, match="No"):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                tx.publish(MemberAdded(person_id=PERSON, role="never"))
                raise NotFound("No.")
        await announce(database, workspace, "afterwards")

        await arrived(house, workspace, "afterwards")

    async def test_a_late_commit_is(
        self, house: Any, run: Run, scratch: Any, database: Database, workspace: AuthContext
    ) -> None:
        early = await asyncpg.connect(scratch.dsn("causeloop_tenancy"))
        open_one = early.transaction()
        await open_one.start()
        await early.execute(f"SET LOCAL app.current_workspace = '{workspace.tenant_uuid}'")
        await early.execute(
            "INSERT INTO tenancy.outbox (event_id, type, target, actor, request_id, traceparent, occurred_at, data) "
            "VALUES (gen_random_uuid(), 'tenancy.member_added', $1, $1, '', '', now(), $2)",
            PERSON,
            MemberAdded(person_id=PERSON, role="late").to_json().decode(),
        )
        await run()
        await announce(database, workspace, "early")  # a later number, committed first
        await arrived(house, workspace, "early")

        await open_one.commit()
        await early.close()
        await arrived(house, workspace, "early", "late")
