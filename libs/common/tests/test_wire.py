"""What travels together on a connection's wire, and faults at each point of it: the right answer, nothing half done."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from causeloop_common import ids, wire
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import MemberAdded
from causeloop_common.database import Database, Reading, Transaction, reading
from causeloop_common.errors import AuditUnavailable, NotFound, Timeout, Unavailable
from causeloop_common.statements import Statement
from causeloop_dev.testing import context

Probe = Callable[..., Awaitable[Database]]

ADD = Statement.raw("INSERT INTO probe.things (name) VALUES ($1)", "name")
ADD_NULL = Statement.raw("INSERT INTO probe.things (name) VALUES (nullif($1, $1))", "name")
FIND = Statement.raw("SELECT name FROM probe.things WHERE name = $1", "name")
NAMES = Statement.raw("SELECT name FROM probe.things ORDER BY name")
TRAP = Statement.raw("INSERT INTO probe.traps (kind) VALUES ($1)", "kind")
WRONG = Statement.raw("SELECT 1 / ($1::integer - 1)", "one")
MARK = Statement.raw("SELECT set_config('app.current_person', '', true) WHERE $1", "yes")
SOMETHING = MemberAdded(person_id=ids.INSTALLATION, role="owner")

NOTHING_DONE = "Nothing was done; try again"
UNKNOWN = "The database did not confirm. Retry with the same Idempotency-Key"


class Socket:
    """A connection's transport that counts its writes, and is cut at one of them.

    `before` it is written, `within` it, or `after` it: then the server has it, and its answer does not arrive; in the
    `middle` of that answer.
    """

    def __init__(self, line: wire.Wire, at: int = 0, how: str = "") -> None:
        self._line, self._transport, self._protocol = line, line.transport, line.get_protocol()
        self._at, self._how = at, how
        self.writes: list[bytes] = []
        self.was_cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))
        if len(self.writes) != self._at:
            self._transport.write(data)
            return
        self.was_cut = True
        if self._how == "before":
            self._transport.abort()
        elif self._how == "within":
            self._transport.write(bytes(data)[: len(data) // 2])
            self._transport.close()
        else:
            self._line.set_protocol(self)
            self._transport.write(data)

    def mend(self) -> None:
        """Cut no later write."""
        self._at = 0

    def data_received(self, data: bytes) -> None:
        if self._how == "middle":
            self._protocol.data_received(data[: len(data) // 2])
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)


def line_of(database: Database) -> wire.Wire:
    """The wire of the connection that is used next."""
    line: wire.Wire = database.connected()._idle[-1].wire
    return line


def watched(database: Database, at: int = 0, how: str = "") -> Socket:
    line = line_of(database)
    line.transport = socket = Socket(line, at, how)
    return socket


def kinds(data: bytes) -> str:
    """The types of the messages of one write."""
    return "".join(chr(kind) for kind, _ in wire._messages(data))


async def act(database: Database, ctx: AuthContext) -> None:
    """Three changes: one whose answer is looked at, one later, and the event."""
    async with database.transaction(ctx) as tx:
        assert await tx.execute(ADD, name="first") == 1
        tx.later(ADD, name="later")
        tx.publish(SOMETHING)


async def read(database: Database, ctx: AuthContext, name: str = "first") -> Any:
    async with database.reading(ctx) as tx:
        return await tx.fetchrow(FIND, name=name)


async def done(superuser: asyncpg.Connection, ctx: AuthContext) -> tuple[int, int]:
    """How many things and how many events of the tenant are committed."""
    counts = ", ".join(f"(SELECT count(*) FROM probe.{one} WHERE workspace_id = $1)" for one in ("things", "outbox"))
    row = await superuser.fetchrow(f"SELECT {counts}", ctx.tenant_uuid)
    assert row is not None
    return row[0], row[1]


@pytest.fixture
async def warm(probe: Probe) -> Database:
    """A database with one connection, on which everything was done before."""
    database = await probe(workers=1)
    for _ in range(2):
        await act(database, context(ids.new("ws")))
        await read(database, context(ids.new("ws")))
    return database


class TestFlights:
    async def test_an_act_is_two_and_a_reading_is_one(self, warm: Database, workspace: AuthContext) -> None:
        socket = watched(warm)

        await act(warm, workspace)
        assert [kinds(flight) for flight in socket.writes] == ["PBEPBEBES", "BEBEPBES"]
        assert (await read(warm, workspace))["name"] == "first"
        assert [kinds(flight) for flight in socket.writes[2:]] == ["PBEPBEBEPBES"]

    async def test_an_event_alone_is_one(self, warm: Database, workspace: AuthContext) -> None:
        socket = watched(warm)

        async with warm.transaction(workspace) as tx:
            tx.publish(SOMETHING)

        assert [kinds(flight) for flight in socket.writes] == ["PBEPBEBEPBES"]

    async def test_without_a_statement_there_is_none(self, warm: Database, workspace: AuthContext) -> None:
        socket = watched(warm)

        async with warm.transaction(workspace):
            pass
        with pytest.raises(NotFound):
            async with warm.transaction(workspace):
                raise NotFound("There is no such thing.")
        async with warm.reading(workspace):
            pass

        assert socket.writes == []

    async def test_a_connection_that_does_not_know_a_statement_asks_for_it_first(
        self, probe: Probe, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        database = await probe(workers=1)
        socket = watched(database)

        await act(database, workspace)

        first, *_, last = [kinds(flight) for flight in socket.writes]
        assert (first, last) == ("PBEPBEPDH", "Q")
        assert await done(superuser, workspace) == (2, 1)

    async def test_a_simple_query_takes_its_opening_along(self, warm: Database, workspace: AuthContext) -> None:
        socket = watched(warm)

        async with warm.transaction(workspace) as tx:
            assert await tx.execute(Statement.raw("DELETE FROM probe.things")) == 0

        assert socket.writes[0][5:].startswith(b"BEGIN; SET LOCAL app.current_workspace = '")
        assert [kinds(flight) for flight in socket.writes] == ["Q", "Q"]

    async def test_a_reading_leaves_no_transaction_open(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        async with warm.reading(workspace) as tx:
            pid = (await tx.fetchrow(Statement.raw("SELECT pg_backend_pid() AS pid")))["pid"]
            for _ in range(2):
                await tx.fetchrow(FIND, name="first")
            assert await superuser.fetchval("SELECT state FROM pg_stat_activity WHERE pid = $1", pid) == "idle"

    async def test_a_reading_writes_nothing(self, warm: Database, workspace: AuthContext) -> None:
        for _ in range(2):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                async with warm.reading(workspace) as tx:
                    await tx.fetch(ADD, name="smuggled")
        assert await read(warm, workspace, "smuggled") is None

    async def test_a_failed_reading_is_no_success(self, warm: Database, workspace: AuthContext) -> None:
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"had failed and was rolled back\. Nothing was done"):  # noqa: PT012
                async with warm.reading(workspace) as tx:
                    with suppress(asyncpg.DivisionByZeroError):
                        await tx.fetch(WRONG, one=1)
        assert await read(warm, workspace) is None


class TestCut:
    @pytest.mark.parametrize("how", ["before", "within", "after", "middle"])
    @pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
    async def test_at_any_write_of_an_act_nothing_is_half_done(
        self, probe: Probe, superuser: asyncpg.Connection, how: str, is_warm: bool
    ) -> None:
        shown: list[type[BaseException] | None] = []
        while not shown or shown[-1] is not None:
            database, ctx = await probe(workers=1), context(ids.new("ws"))
            if is_warm:
                for _ in range(2):
                    await act(database, context(ids.new("ws")))
            socket, error = watched(database, len(shown) + 1, how), None
            try:
                await act(database, ctx)
            except (Unavailable, Timeout) as raised:
                error = raised
            shown.append(None if error is None else type(error))

            socket.mend()
            assert socket.was_cut == (error is not None)
            committed = await done(superuser, ctx)
            assert committed in [(0, 0), (2, 1)]
            if isinstance(error, Unavailable):
                assert NOTHING_DONE in error.detail
                assert committed == (0, 0)
            elif error is None or how in ("after", "middle"):
                assert committed == (2, 1)
            await act(database, other := context(ids.new("ws")))  # a new connection, and nothing left on it
            assert await done(superuser, other) == (2, 1)

        *before, last, success = shown
        assert success is None
        assert last is Timeout
        assert set(before) == {Unavailable}
        assert is_warm == (len(before) == 1)

    @pytest.mark.parametrize("how", ["before", "within", "after", "middle"])
    async def test_at_a_reading_is_unavailable(self, warm: Database, workspace: AuthContext, how: str) -> None:
        watched(warm, 1, how)

        with pytest.raises(Unavailable, match=NOTHING_DONE):
            await read(warm, workspace)
        assert await read(warm, workspace) is None

    async def test_by_the_server_in_the_last_flight_before_commit_did_nothing(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        """COMMIT was sent, but the server ends the session at the statement before it."""
        pid = warm.connected()._idle[-1].get_server_pid()
        async with superuser.transaction():
            await superuser.execute("LOCK TABLE probe.outbox IN SHARE MODE")
            task = asyncio.create_task(act(warm, workspace))
            await waits(superuser)
            assert await superuser.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
            with pytest.raises(Unavailable, match=NOTHING_DONE):
                await task

        assert await done(superuser, workspace) == (0, 0)


class TestRefused:
    @pytest.mark.parametrize(
        ("sqlstate", "error"),
        [
            ("40001", Unavailable), ("40P01", Unavailable), ("23505", asyncpg.UniqueViolationError),
            ("57014", Timeout), ("CL001", AuditUnavailable), ("23514", asyncpg.CheckViolationError),
        ],
    )  # fmt: skip
    async def test_at_a_commit_that_travels_with_the_event(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection, sqlstate: str,
        error: type[Exception],
    ) -> None:  # fmt: skip
        for _ in range(2):  # the connection prepares the trap first
            socket = watched(warm)
            with pytest.raises(error):  # noqa: PT012  leaving the transaction raises
                async with warm.transaction(workspace) as tx:
                    await tx.execute(TRAP, kind=sqlstate)
                    tx.publish(SOMETHING)
            assert kinds(socket.writes[-1]) == "BEPBES"
            assert await done(superuser, workspace) == (0, 0)
        assert await read(warm, workspace) is None

    async def test_the_guard_refuses_what_is_written_later_without_an_event(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        with pytest.raises(AuditUnavailable, match="would leave no record"):
            async with warm.transaction(workspace) as tx:
                tx.later(ADD, name="later")
        assert await done(superuser, workspace) == (0, 0)

    async def test_what_is_written_later_is_refused_as_if_at_once(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        for refusal, expected in ((NotFound("Gone."), NotFound), (None, asyncpg.NotNullViolationError)):
            for _ in range(2):
                with pytest.raises(expected):  # noqa: PT012  leaving the transaction raises
                    async with warm.transaction(workspace) as tx:
                        tx.later(ADD, name="one")
                        tx.later(ADD_NULL, refusal, name="two")
                        tx.publish(SOMETHING)
                assert await done(superuser, workspace) == (0, 0)
        await act(warm, workspace)
        assert await done(superuser, workspace) == (2, 1)

    async def test_a_statement_with_rows_cannot_be_written_later(self, warm: Database, workspace: AuthContext) -> None:
        for rows in (FIND, Statement.raw("INSERT INTO probe.things (name) VALUES ($1)\nRETURNING name", "name")):
            with pytest.raises(RuntimeError, match="returns rows cannot be written later"):
                async with warm.transaction(workspace) as tx:
                    tx.later(rows, name="first")

    async def test_an_event_that_is_refused_behind_what_is_written_later(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        with pytest.raises(AuditUnavailable, match="could not be recorded, so it was not done"):  # noqa: PT012
            async with warm.transaction(workspace) as tx:
                tx.later(ADD, NotFound("Gone."), name="one")
                tx.publish(SOMETHING)
                tx._events[0] = (*tx._events[0][:4], "x" * 70_000, *tx._events[0][5:])
        assert await done(superuser, workspace) == (0, 0)
        await act(warm, workspace)

    async def test_in_a_transaction_that_had_failed(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="could not be recorded, so it was not done"):  # noqa: PT012
                async with warm.transaction(workspace) as tx:
                    await tx.execute(ADD, name="one")
                    tx.publish(SOMETHING)
                    with suppress(asyncpg.DivisionByZeroError):
                        await tx.fetch(WRONG, one=1)
            assert await done(superuser, workspace) == (0, 0)

    async def test_a_beginning_that_fails_keeps_its_statement_back(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        """The statement would commit by itself, without a tenant and without a read-only mode."""
        tx = Transaction(warm, workspace, wire.batch("BEGIN ISOLATION LEVEL nonsense"), None)
        with pytest.raises(asyncpg.PostgresSyntaxError):
            async with tx:
                await tx.fetch(FIND, name="first")
        line = Reading(warm, workspace, wire.batch("BEGIN READ ONLY", "SET LOCAL statement_timeout = 'nonsense'"))
        with pytest.raises(asyncpg.InvalidParameterValueError):
            async with line:
                await line.fetch(FIND, name="first")
        await act(warm, workspace)
        assert await done(superuser, workspace) == (2, 1)


class TestCancelled:
    async def test_in_the_last_flight_leaves_nothing_half_done_and_a_clean_connection(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection
    ) -> None:
        async with superuser.transaction():
            await superuser.execute("LOCK TABLE probe.outbox IN SHARE MODE")
            task = asyncio.create_task(act(warm, workspace))
            await waits(superuser)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        assert await done(superuser, workspace) == (0, 0)
        await act(warm, other := context(ids.new("ws")))
        assert await done(superuser, other) == (2, 1)

    async def test_a_server_that_falls_silent_in_the_last_flight_is_given_up(
        self, warm: Database, workspace: AuthContext, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "SILENCE_SECONDS", 0.3)
        async with superuser.transaction():
            await superuser.execute("LOCK TABLE probe.outbox IN SHARE MODE")
            with pytest.raises(Timeout, match=UNKNOWN):
                await act(warm, workspace)
        monkeypatch.undo()
        await act(warm, other := context(ids.new("ws")))
        assert await done(superuser, other) == (2, 1)


async def waits(superuser: asyncpg.Connection) -> None:
    """Return when a statement of the probe waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'causeloop_probe' AND wait_event_type = 'Lock'"
    async with asyncio.timeout(5):
        while not await superuser.fetchval(waiting):  # noqa: ASYNC110  another process waits
            await asyncio.sleep(0.01)
