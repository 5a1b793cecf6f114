"""The outbox: partitions that are emptied in turn, what its relay may change, and rows that cannot be announced."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Database
from causeloop_common.outbox import BUCKETS
from causeloop_dev.testing import context
from tests.support.relaying import PERSON, Run, announce, arrived, until

pytestmark = pytest.mark.usefixtures("hurried")


class TestBuckets:
    @property
    def bucket(self) -> int:
        """The partition that is to be emptied."""
        return (int(datetime.now(UTC).timestamp()) // 86_400 + 1) % BUCKETS

    async def put(
        self, connection: asyncpg.Connection, *, days: float, published: bool, confirmed: bool = True
    ) -> None:
        """A row in it, from some days ago."""
        when = datetime.now(UTC) - timedelta(days=days)
        await connection.execute(
            "INSERT INTO tenancy.outbox (bucket, workspace_id, event_id, type, target, actor, request_id, traceparent, "
            "occurred_at, data, published_at, confirmed_batch) "
            "VALUES ($1, $2, $3, 'tenancy.member_added', $4, $4, '', '', $5, $6, $7, $8)",
            self.bucket,
            ids.uuid7(),
            ids.uuid7(),
            PERSON,
            when,
            MemberAdded(person_id=PERSON, role="old").to_json().decode(),
            when if published else None,
            1 if confirmed and published else None,
        )

    @pytest.fixture(autouse=True)
    async def emptied(self, superuser: asyncpg.Connection) -> AsyncIterator[None]:
        yield
        await superuser.execute(f"TRUNCATE tenancy.outbox_{self.bucket}")

    async def rows(self, superuser: asyncpg.Connection) -> int:
        return int(await superuser.fetchval(f"SELECT count(*) FROM tenancy.outbox_{self.bucket}"))

    async def looked(self, house: Any, database: Database, run: Run) -> None:
        """Run a relay until it has looked for what is old and moved an event."""
        ctx = context(ids.new("ws"))
        await run()
        await announce(database, ctx, "one")
        await arrived(house, ctx, "one")

    async def test_a_turn_that_is_over_is_emptied(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)

        await self.looked(house, database, run)
        assert await self.rows(superuser) == 0

    async def test_a_young_row_keeps_its_partition(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)
        await self.put(superuser, days=0.5, published=True)

        await self.looked(house, database, run)
        assert await self.rows(superuser) == 2

    async def test_a_row_that_the_log_has_not_receipted_keeps_its_partition(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)
        await self.put(superuser, days=2.1, published=True, confirmed=False)

        await self.looked(house, database, run)
        assert await self.rows(superuser) == 2

    async def test_a_row_that_is_committed_while_it_is_emptied_is_not_lost(
        self, house: Any, run: Run, scratch: Any, database: Database, superuser: asyncpg.Connection
    ) -> None:
        await self.put(superuser, days=2.1, published=True)
        late = await asyncpg.connect(scratch.superuser_url)
        open_one = late.transaction()
        await open_one.start()
        await self.put(late, days=0, published=False)
        await run()

        async def waits_or_went_on() -> Any:
            return await superuser.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'causeloop-tenancy-relay' "
                "AND datname = current_database() AND (wait_event_type = 'Lock' OR query LIKE '%published_at IS NULL%')"
            )

        await until(waits_or_went_on)
        await open_one.commit()
        await late.close()

        async def marked() -> Any:
            return await superuser.fetchval(
                f"SELECT count(*) = 0 FROM tenancy.outbox_{self.bucket} WHERE published_at IS NULL"
            )

        await until(marked)
        assert await self.rows(superuser) == 2


MARKS = {
    "published_at": "now()",
    "stream_seq": "1",
    "digest": "''::bytea",
    "confirmed_batch": "1",
    "attempts": "1",
}


class TestRights:
    @pytest.mark.parametrize("column", ["data", "workspace_id", "actor", "event_id", "type", "occurred_at", *MARKS])
    async def test_the_relay_changes_its_marks_alone(self, scratch: Any, database: Database, column: str) -> None:
        """D13: data, tenant and actor of an event cannot be rewritten by the role that publishes it."""
        relay = await asyncpg.connect(scratch.dsn("causeloop_tenancy_relay"))
        try:
            statement = f"UPDATE tenancy.outbox SET {column} = {MARKS.get(column, column)} WHERE false"
            if column in MARKS:
                await relay.execute(statement)
            else:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await relay.execute(statement)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await relay.execute("DELETE FROM tenancy.outbox WHERE false")
        finally:
            await relay.close()


INSERT = (
    "INSERT INTO tenancy.outbox (event_id, type, target, actor, request_id, traceparent, occurred_at, data) "
    "VALUES ($1, $2, $3, $4, '', '', $5::text::timestamptz, '{}')"
)
FINE: dict[str, Any] = {"id": ids.uuid7(), "type": "tenancy.odd", "target": "t", "actor": "a", "at": "now"}
ODD: dict[str, dict[str, Any]] = {
    "nil id": {"id": ids.NIL},
    "infinity": {"at": "infinity"},
    "minus infinity": {"at": "-infinity"},
    "year 294276": {"at": "294276-12-31 23:59:59+00"},
    "before Christ": {"at": "0044-03-15 12:00:00+00 BC"},
    "foreign type": {"type": "vault.secret_written"},
    "no type": {"type": "tenancy."},
    "wildcard": {"type": "tenancy.*"},
    "more tokens": {"type": "tenancy.a.b"},
    "a header in a text": {"target": "t\r\nNats-Rollup: all"},
    "a space at its end": {"actor": "a "},
    "too long": {"target": "t" * 257},
    "not ASCII": {"actor": "\u00e9"},
}


class TestWhatCannotBeAnnounced:
    @pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
    async def test_is_refused_by_the_database(
        self, scratch: Any, database: Database, workspace: AuthContext, odd: dict[str, Any]
    ) -> None:
        """D11: a row of a form that no reader takes cannot be written, by the service's role either."""
        service = await asyncpg.connect(scratch.dsn("causeloop_tenancy"))
        try:
            for given, refused in ((FINE, False), ({**FINE, **odd}, True)):
                transaction = service.transaction()
                await transaction.start()
                await service.execute(f"SET LOCAL app.current_workspace = '{workspace.tenant_uuid}'")
                try:
                    await service.execute(INSERT, *given.values())
                except asyncpg.CheckViolationError:
                    assert refused
                else:
                    assert not refused
                await transaction.rollback()
        finally:
            await service.close()

    async def test_in_a_realm_without_a_tenant_is_refused(self, scratch: Any, database: Database) -> None:
        """D11: the nil tenant."""
        service = await asyncpg.connect(scratch.dsn("causeloop_tenancy"))
        try:
            async with service.transaction():
                await service.execute(f"SET LOCAL app.current_workspace = '{ids.NIL}'")
                with pytest.raises(asyncpg.CheckViolationError):
                    await service.execute(INSERT, *FINE.values())
        finally:
            await service.close()

    async def test_is_set_aside_and_the_rest_moves_on(
        self, house: Any, run: Run, database: Database, superuser: asyncpg.Connection, workspace: AuthContext
    ) -> None:
        """D11: rows that are there all the same are kept for an operator, counted, and hold up nobody."""
        check = "can_be_announced"
        constraint = await superuser.fetchval(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1 "
            "AND conrelid = 'tenancy.outbox'::regclass",
            check,
        )
        await superuser.execute(f"ALTER TABLE tenancy.outbox DROP CONSTRAINT {check}")
        try:
            for odd in ODD.values():
                given = {**FINE, **odd}
                await superuser.execute(
                    INSERT.replace("(event_id", "(workspace_id, event_id").replace("VALUES (", "VALUES ($6, "),
                    *given.values(),
                    ids.uuid7(),
                )
            await announce(database, workspace, "one")
            await run()
            await arrived(house, workspace, "one")
            await announce(database, workspace, "two")
            await arrived(house, workspace, "one", "two")
            kept = await superuser.fetch("SELECT event ->> 'type' AS type FROM tenancy.outbox_set_aside")
            assert len(kept) == len(ODD)
        finally:
            await superuser.execute("TRUNCATE tenancy.outbox_set_aside")
            await superuser.execute("DELETE FROM tenancy.outbox WHERE actor IN ('a', 'a ', '\u00e9')")
            await superuser.execute(f"ALTER TABLE tenancy.outbox ADD CONSTRAINT {check} {constraint}")
