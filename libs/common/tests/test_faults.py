"""The errors of a use case when the database fails: `Unavailable`: nothing was done, `Timeout`: nobody knows."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from sqlalchemy import MetaData

from causeloop_common import ids, rls
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Database
from causeloop_common.errors import AppError, Timeout, Unavailable
from causeloop_common.statements import Statement

Probe = Callable[..., Awaitable[Database]]

ADD = Statement.raw("INSERT INTO probe.things (name) VALUES ($1)", "name")
COUNT = Statement.raw("SELECT count(*) AS n FROM probe.things")
TRAP = Statement.raw("INSERT INTO probe.traps (kind) VALUES ($1)", "kind")
PID = Statement.raw("SELECT pg_backend_pid() AS pid")
WRONG = Statement.raw("SELECT 1 / 0")
WAIT = Statement.raw("SELECT pg_sleep(1)")
HURRY = Statement.raw("SELECT set_config('statement_timeout', '20ms', true)")
SOMETHING = MemberAdded(person_id=ids.INSTALLATION, role="owner")

NOTHING_DONE = "Nothing was done; try again"
UNKNOWN = "The database did not confirm. Retry with the same Idempotency-Key"


async def things(database: Database, ctx: AuthContext) -> int:
    async with database.transaction(ctx) as tx:
        return int((await tx.fetchrow(COUNT))["n"])


async def kill(superuser: asyncpg.Connection, pid: int) -> None:
    """End a backend, and wait until it is gone."""
    assert await superuser.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)


class TestBeforeCommit:
    async def test_a_connection_cut_in_the_middle_did_nothing(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe(workers=1)

        with pytest.raises(Unavailable, match=NOTHING_DONE):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="one")
                tx.publish(SOMETHING)
                await kill(superuser, (await tx.fetchrow(PID))["pid"])
                await tx.execute(ADD, name="two")

        assert await things(database, workspace) == 0  # on a new connection

    @pytest.mark.parametrize("error", [asyncpg.InternalClientError("cannot switch to state 11"), OSError("reset")])
    async def test_whatever_the_driver_calls_a_cut_it_did_nothing(
        self, probe: Probe, workspace: AuthContext, error: Exception
    ) -> None:
        with pytest.raises(Unavailable, match=NOTHING_DONE):
            async with (await probe()).transaction(workspace):
                raise error

    async def test_a_connection_cut_before_the_event_is_written_did_nothing(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe(workers=1)

        with pytest.raises(Unavailable, match=NOTHING_DONE):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="one")
                tx.publish(SOMETHING)
                await kill(superuser, (await tx.fetchrow(PID))["pid"])

        assert await things(database, workspace) == 0

    async def test_a_connection_cut_while_idle_is_replaced(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe(workers=1)
        async with database.transaction(workspace) as tx:
            pid = (await tx.fetchrow(PID))["pid"]
        await kill(superuser, pid)

        with suppress(Unavailable):  # it may be found out only now
            await things(database, workspace)
        assert await things(database, workspace) == 0

    async def test_a_statement_that_takes_too_long_did_nothing(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe(workers=1)

        with pytest.raises(Unavailable, match=NOTHING_DONE):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.fetch(HURRY)
                await tx.fetch(WAIT)

        assert await things(database, workspace) == 0

    async def test_a_deadlock_did_nothing(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        lock = Statement.raw("SELECT pg_advisory_xact_lock($1)", "key")
        one, two = (int.from_bytes(ids.uuid7().bytes[8:], "big", signed=True) for _ in range(2))
        both = asyncio.Barrier(2)

        async def take(first: int, second: int) -> None:
            async with database.transaction(workspace) as tx:
                await tx.fetch(lock, key=first)
                await both.wait()
                await tx.fetch(lock, key=second)

        shown = await asyncio.gather(take(one, two), take(two, one), return_exceptions=True)

        (refused,) = (error for error in shown if error is not None)
        assert isinstance(refused, Unavailable)
        assert NOTHING_DONE in refused.detail

    async def test_a_mistake_in_a_statement_is_no_passing_fault(self, probe: Probe, workspace: AuthContext) -> None:
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with (await probe()).transaction(workspace) as tx:
                await tx.fetch(WRONG)


class TestCommit:
    async def test_of_a_failed_transaction_is_no_success(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe(workers=1)

        with pytest.raises(Unavailable, match=r"The transaction had failed and was rolled back\. Nothing was done"):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                with suppress(asyncpg.DivisionByZeroError):
                    await tx.fetch(WRONG)

        assert await things(database, workspace) == 0

    async def test_of_a_failed_transaction_with_an_event_is_no_success(
        self, probe: Probe, workspace: AuthContext
    ) -> None:
        database = await probe(workers=1)

        with pytest.raises(AppError, match="not done"):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="one")
                tx.publish(SOMETHING)
                with suppress(asyncpg.DivisionByZeroError):
                    await tx.fetch(WRONG)

        assert await things(database, workspace) == 0

    async def test_that_is_cut_off_leaves_the_outcome_unknown(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe(workers=1)

        with pytest.raises(Timeout, match=UNKNOWN):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.execute(TRAP, kind="cut")
                tx.publish(SOMETHING)

        assert not database.published.is_set()
        assert await things(database, workspace) == 0

    @pytest.mark.parametrize(
        "error", [ConnectionResetError(), asyncpg.InternalClientError("cannot switch to state 11"), TimeoutError()]
    )
    async def test_whose_answer_is_lost_leaves_the_outcome_unknown(
        self, probe: Probe, workspace: AuthContext, error: Exception
    ) -> None:
        database = await probe(workers=1)

        with pytest.raises(Timeout, match=UNKNOWN):  # noqa: PT012  leaving the transaction raises
            async with database.transaction(workspace) as tx:
                await tx.execute(ADD, name="one")
                tx.publish(SOMETHING)
                tx._connection = _Deaf(tx._connection, error)

        assert await things(database, workspace) == 1

    @pytest.mark.parametrize("sqlstate", ["40P01", "40001", "55P03"])
    async def test_that_is_refused_for_a_passing_reason_did_nothing(
        self, probe: Probe, workspace: AuthContext, sqlstate: str
    ) -> None:
        database = await probe(workers=1)

        with pytest.raises(Unavailable, match=NOTHING_DONE):
            async with database.transaction(workspace) as tx:
                await tx.execute(TRAP, kind=sqlstate)

        assert await things(database, workspace) == 0

    async def test_that_is_refused_for_good_tells_the_reason(self, probe: Probe, workspace: AuthContext) -> None:
        with pytest.raises(asyncpg.CheckViolationError, match="a trap"):
            async with (await probe()).transaction(workspace) as tx:
                await tx.execute(TRAP, kind="23514")


class _Deaf:
    """A connection that is cut when the answer to COMMIT is on its way."""

    def __init__(self, connection: Any, error: Exception) -> None:
        self._connection = connection
        self._error = error

    async def execute(self, sql: str, *args: Any) -> str:
        shown = str(await self._connection.execute(sql, *args))
        if sql == "COMMIT":
            self._connection.terminate()
            raise self._error
        return shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class TestReach:
    async def test_a_database_that_is_not_there_is_unavailable(self) -> None:
        nowhere = Database("postgresql://u@127.0.0.1:1/x", "probe", MetaData(schema="probe"))

        with pytest.raises(Unavailable, match=r"PostgreSQL does not let probe in\. Nothing listens at its address\."):
            await nowhere.start()
        with pytest.raises(Unavailable, match="The service is not connected to PostgreSQL"):
            await nowhere.ping()

    async def test_a_stopped_database_is_unavailable(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        await database.ping()
        await database.stop()

        with pytest.raises(Unavailable, match="not connected to PostgreSQL"):
            await things(database, workspace)

    async def test_stopping_lets_a_running_transaction_end(self, probe: Probe, workspace: AuthContext) -> None:
        database = await probe()
        async with database.transaction(workspace) as tx:
            await tx.execute(ADD, name="one")
            tx.publish(SOMETHING)
            stopping = asyncio.create_task(database.stop())
            await asyncio.sleep(0)
        await stopping

        assert await things(await probe(), workspace) == 1

    async def test_the_proof_and_the_ping_say_when_the_server_is_gone(
        self, probe: Probe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = await probe(workers=1)

        async def broken(*_: object) -> list[str]:
            raise ConnectionResetError

        monkeypatch.setattr(rls, "prove", broken)
        with pytest.raises(Unavailable, match="PostgreSQL does not answer: ConnectionResetError"):
            await database.prove()
