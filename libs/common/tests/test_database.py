"""Transactions: bound to the tenant, undone as a whole, and never without their event."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids, outbox, rls, telemetry
from causeloop_common.context import AuthContext
from causeloop_common.contracts.auth import SessionStarted
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Database
from causeloop_common.errors import AuditUnavailable, NotFound, PayloadTooLarge
from causeloop_common.statements import Statement
from causeloop_dev.testing import context

Probe = Callable[..., Awaitable[Database]]

ADD = Statement.raw("INSERT INTO probe.things (name) VALUES ($1)", "name")
ADD_OWNED = Statement.raw("INSERT INTO probe.things (name, owner) VALUES ($1, $2)", "name", "owner")
ADD_FOR = Statement.raw("INSERT INTO probe.things (workspace_id, name) VALUES ($1, $2)", "tenant", "name")
RENAME = Statement.raw("UPDATE probe.things SET name = $1", "name")
DELETE = Statement.raw("DELETE FROM probe.things WHERE name = $1", "name")
NAMES = Statement.raw("SELECT name FROM probe.things ORDER BY name")
OWNED = Statement.raw("SELECT workspace_id, name FROM probe.things ORDER BY name")
SETTINGS = Statement.raw(
    "SELECT current_setting('app.current_workspace', true) AS tenant, current_setting('app.current_person', true) AS p"
)
SLEEP = Statement.raw("SELECT pg_sleep(30)")
BACKEND = Statement.raw("SELECT pg_backend_pid() AS pid")

SOMETHING = MemberAdded(person_id=ids.INSTALLATION, role="owner")


async def add(database: Database, ctx: AuthContext, *names: str) -> None:
    async with database.transaction(ctx) as tx:
        for name in names:
            await tx.execute(ADD, name=name)
        tx.publish(SOMETHING)


async def names(database: Database, ctx: AuthContext) -> list[str]:
    async with database.transaction(ctx) as tx:
        return [row["name"] for row in await tx.fetch(NAMES)]


async def announced(superuser: asyncpg.Connection, ctx: AuthContext) -> list[asyncpg.Record]:
    return await superuser.fetch("SELECT * FROM probe.outbox WHERE workspace_id = $1 ORDER BY seq", ctx.tenant_uuid)


class TestTenant:
    async def test_sees_and_writes_its_own_rows_and_nobody_elses(self, probe: Probe, workspace: AuthContext) -> None:
        database, other = await probe(), context(ids.new("ws"))
        await add(database, workspace, "ours")
        await add(database, other, "theirs")

        assert await names(database, workspace) == ["ours"]
        async with database.transaction(workspace) as tx:
            assert await tx.execute(RENAME, name="taken") == 1
            assert await tx.execute(DELETE, name="theirs") == 0
            tx.publish(SOMETHING)
        assert await names(database, other) == ["theirs"]

    async def test_a_row_for_another_tenant_is_refused(self, probe: Probe, workspace: AuthContext) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="violates row-level security"):
            async with (await probe()).transaction(workspace) as tx:
                await tx.execute(ADD_FOR, tenant=ids.uuid7(), name="smuggled")

    async def test_the_tenant_does_not_survive_into_the_next_transaction_on_the_connection(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe(workers=1)
        other = context(ids.new("ws"))
        async with database.transaction(workspace) as tx:
            first = await tx.fetchrow(BACKEND)
            assert (await tx.fetchrow(SETTINGS))["tenant"] == str(workspace.tenant_uuid)
        async with database.reading_of_person(workspace) as tx:
            assert (await tx.fetchrow(BACKEND)) == first
            assert not (await tx.fetchrow(SETTINGS))["tenant"]
        async with database.transaction(other) as tx:
            assert (await tx.fetchrow(BACKEND)) == first
            shown = await tx.fetchrow(SETTINGS)
            assert (shown["tenant"], shown["p"] or None) == (str(other.tenant_uuid), None)
        async with database._borrowed() as connection:
            assert not (await connection.fetchrow(SETTINGS.sql))["tenant"]
            assert await connection.fetch(NAMES.sql) == []

    async def test_a_context_without_a_real_tenant_reaches_no_connection(self, probe: Probe) -> None:
        database = await probe()

        with pytest.raises(ValueError, match="is not an id of the form ws_… or usr_…"):
            database.transaction(context("ws_'; DROP TABLE probe.things; --"))

    async def test_many_at_once_keep_apart(self, probe: Probe) -> None:
        database = await probe(workers=4)
        callers = [context(ids.new("ws")) for _ in range(40)]

        await asyncio.gather(*(add(database, ctx, f"of {ctx.tenant}") for ctx in callers))

        found = await asyncio.gather(*(names(database, ctx) for ctx in callers))
        assert found == [[f"of {ctx.tenant}"] for ctx in callers]


class TestRollback:
    async def test_a_refusal_leaves_nothing_behind(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe()

        with pytest.raises(NotFound, match="There is no such thing"):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="gone")
                tx.publish(SOMETHING)
                raise NotFound("There is no such thing.")

        assert await names(database, workspace) == []
        assert await announced(superuser, workspace) == []
        assert not database.published.is_set()

    async def test_a_cancelled_use_case_leaves_nothing_behind_and_a_clean_connection(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe(workers=1)
        inside = asyncio.Event()

        async def use_case() -> None:
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="gone")
                tx.publish(SOMETHING)
                inside.set()
                await tx.fetch(SLEEP)

        task = asyncio.create_task(use_case())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await names(database, workspace) == []

    async def test_even_one_cancelled_twice_hands_no_open_transaction_to_the_next(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe(workers=1)
        inside, other = asyncio.Event(), context(ids.new("ws"))

        async def use_case() -> None:
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="gone")
                inside.set()
                await tx.fetch(SLEEP)

        task = asyncio.create_task(use_case())
        await inside.wait()
        task.cancel()
        await asyncio.sleep(0)  # it rolls back now …
        task.cancel()  # … and is not let finish
        with pytest.raises(asyncio.CancelledError):
            await task

        await add(database, other, "theirs")  # would commit the open transaction, or fail for it
        assert await names(database, other) == ["theirs"]
        assert await names(database, workspace) == []


class TestReadingOfPerson:
    async def test_reads_across_tenants_what_is_the_persons(
        self, probe: Probe, as_user: Callable[..., AuthContext]
    ) -> None:
        database, me, somebody = await probe(), as_user(ids.new("ws")), as_user(ids.new("ws"))
        elsewhere = replace(me, tenant=ids.new("ws"))
        for ctx, name, owner in ((me, "one", me), (elsewhere, "two", me), (somebody, "three", somebody)):
            async with database.transaction(ctx) as tx:
                await tx.execute(ADD_OWNED, name=name, owner=ids.decode(owner.principal, "usr"))
                tx.publish(SOMETHING)

        async with database.reading_of_person(me) as tx:
            found = [(ids.tenant_id(row["workspace_id"]), row["name"]) for row in await tx.fetch(OWNED)]
        assert found == [(me.tenant, "one"), (elsewhere.tenant, "two")]

    async def test_a_tenants_transaction_does_not_see_the_persons_rows_elsewhere(
        self, probe: Probe, as_user: Callable[..., AuthContext]
    ) -> None:
        database, me = await probe(), as_user(ids.new("ws"))
        async with database.transaction(me) as tx:
            await tx.execute(ADD_OWNED, name="one", owner=ids.decode(me.principal, "usr"))
            tx.publish(SOMETHING)

        assert await names(database, replace(me, tenant=ids.new("ws"))) == []

    async def test_writes_nothing(self, probe: Probe, workspace: AuthContext) -> None:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with (await probe()).reading_of_person(workspace) as tx:
                await tx.fetch(ADD, name="x")

    async def test_is_for_persons(self, probe: Probe) -> None:
        service = context(ids.INSTALLATION, principal="svc_gateway")

        with pytest.raises(ValueError, match="is not an id of the form usr_…"):
            (await probe()).reading_of_person(service)


class TestPublish:
    async def test_an_event_is_committed_with_the_act_and_carries_the_caller(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe()
        behalf = ids.new("sva")
        with telemetry.working(telemetry.UNTRACED.start_span("a request")):
            trace = telemetry.traceparent()
            await add(database, replace(workspace, on_behalf_of=behalf), "one")

        (row,) = await announced(superuser, workspace)
        assert (row["type"], row["target"]) == ("tenancy.member_added", ids.INSTALLATION)
        assert (row["actor"], row["credential"], row["on_behalf_of"]) == (
            workspace.principal, workspace.credential, behalf,
        )  # fmt: skip
        assert (row["request_id"], row["traceparent"]) == (workspace.request_id, trace)
        assert MemberAdded.model_validate_json(row["data"]) == SOMETHING
        assert (row["published_at"], row["stream_seq"]) == (None, None)

    async def test_several_keep_their_order(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        roles = [f"role {number}" for number in range(20)]
        async with (await probe()).transaction(workspace) as tx:
            for role in roles:
                tx.publish(MemberAdded(person_id=ids.INSTALLATION, role=role))

        rows = await announced(superuser, workspace)
        assert [MemberAdded.model_validate_json(row["data"]).role for row in rows] == roles
        assert len({row["event_id"] for row in rows}) == 20

    async def test_wakes_the_relay_after_the_commit_and_not_before(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        async with database.transaction(workspace) as tx:
            tx.publish(SOMETHING)
            assert not database.published.is_set()

        assert database.published.is_set()

    async def test_reading_wakes_nobody(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        await names(database, workspace)

        assert not database.published.is_set()

    async def test_an_event_over_64_kib_is_refused_and_undoes_the_act(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe()

        with pytest.raises(PayloadTooLarge, match=r"The event 'auth\.session_started' would be .* the limit is 40960"):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="one")
                tx.publish(SessionStarted(session_id=ids.new("ses"), sealed=f"clv1:1:{'A' * 65_536}"))

        assert await names(database, workspace) == []

    async def test_an_event_that_cannot_be_stored_undoes_the_act(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        odd = replace(workspace, request_id="\x00")  # PostgreSQL's text cannot hold it

        with pytest.raises(AuditUnavailable, match="could not be recorded, so it was not done"):
            await add(database, odd, "one")

        assert await names(database, workspace) == []


class TestGuard:
    @pytest.mark.parametrize(("statement", "value"), [(ADD, "new"), (RENAME, "new"), (DELETE, "one")])
    async def test_a_change_without_an_event_is_refused_at_commit(
        self, probe: Probe, workspace: AuthContext, statement: Statement, value: str
    ) -> None:
        database = await probe()
        await add(database, workspace, "one")

        with pytest.raises(AuditUnavailable, match="would leave no record, so it was not done"):
            async with database.transaction(workspace) as tx:
                assert await tx.execute(statement, name=value) == 1

        assert await names(database, workspace) == ["one"]

    async def test_a_row_cannot_move_to_another_tenant(
        self, probe: Probe, scratch: Any, workspace: AuthContext
    ) -> None:
        """D6: nor with an event of the tenant that it would come to."""
        await add(await probe(), workspace, "moved")
        mine, other = workspace.tenant_uuid, ids.uuid7()
        connection = await asyncpg.connect(scratch.dsn("causeloop_probe"))
        event = outbox.row(workspace, SOMETHING, "")
        try:
            await connection.execute(f"BEGIN; SET LOCAL app.current_workspace = '{mine}'")
            moved = await connection.execute(
                f"UPDATE probe.things SET workspace_id = set_config('app.current_workspace', '{other}', true)::uuid"
            )
            assert moved == "UPDATE 1"
            await connection.execute(outbox.insert("probe"), *outbox.insertion(event))
            with pytest.raises(asyncpg.PostgresError, match="changed without an event") as refused:
                await connection.execute("COMMIT")
            assert refused.value.sqlstate == rls.GUARD_STATE
        finally:
            await connection.close()

    @pytest.mark.parametrize(
        ("role", "table"),
        [
            ("causeloop_auth", "auth.sessions"),
            ("causeloop_auth", "auth.tokens"),
            ("causeloop_vault", "vault.secrets"),
            ("causeloop_vault", "vault.checkpoints"),
            ("causeloop_vault", "vault.keyrings"),
            ("causeloop_vault", "vault.keys"),
            ("causeloop_audit", "audit.checkpoints"),
            ("causeloop_audit_writer", "audit.heads"),
        ],
    )
    async def test_no_role_updates_a_tenant_an_id_or_an_expiry(
        self, superuser: asyncpg.Connection, role: str, table: str
    ) -> None:
        """D6: updates are granted by columns."""
        fixed = "(workspace_id|id|created_at|expires_at|owner|scopes|path|origin|wrapped)"
        rows = await superuser.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped "
            "AND attname ~ $2 AND has_column_privilege($3, attrelid, attnum, 'UPDATE')",
            table, f"^{fixed}$", role,
        )  # fmt: skip
        assert rows == []

    async def test_an_earlier_event_does_not_count(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe(workers=1)
        async with database.transaction(workspace) as tx:
            tx.publish(SOMETHING)

        with pytest.raises(AuditUnavailable, match="would leave no record"):
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="one")

    async def test_a_change_of_nothing_needs_no_event(self, probe: Probe, workspace: AuthContext) -> None:
        async with (await probe()).transaction(workspace) as tx:
            assert await tx.execute(DELETE, name="nothing") == 0

    async def test_the_service_cannot_choose_the_transaction_an_event_counts_for(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        forged = Statement.raw("UPDATE probe.outbox SET xid = pg_current_xact_id()")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for table outbox"):
            async with (await probe()).transaction(workspace) as tx:
                await tx.execute(forged)


class TestClaim:
    async def test_the_first_delivery_of_an_event_is_distinguished_from_the_second(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database, event = await probe(), ids.uuid7()
        shown = []
        for consumer in ("mail", "mail", "search"):
            async with database.transaction(workspace) as tx:
                shown.append(await tx.claim(consumer, event))

        assert shown == [True, False, True]

    async def test_another_tenants_claim_is_not_seen(self, probe: Probe, workspace: AuthContext) -> None:
        database, event = await probe(), ids.uuid7()
        for ctx in (workspace, context(ids.new("ws"))):
            async with database.transaction(ctx) as tx:
                assert await tx.claim("mail", event)

    async def test_a_claim_goes_with_its_transaction(self, probe: Probe, workspace: AuthContext) -> None:
        database, event = await probe(), ids.uuid7()
        with pytest.raises(NotFound, match="Later"):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                assert await tx.claim("mail", event)
                raise NotFound("Later.")

        async with database.transaction(workspace) as tx:
            assert await tx.claim("mail", event)

    async def test_of_many_deliveries_at_once_one_is_the_first(self, probe: Probe, workspace: AuthContext) -> None:
        database, event = await probe(workers=8), ids.uuid7()

        async def deliver() -> bool:
            async with database.transaction(workspace) as tx:
                return await tx.claim("mail", event)

        assert sorted(await asyncio.gather(*(deliver() for _ in range(20)))) == [False] * 19 + [True]
