"""Readings: rows that the tenant, or the person, may see, for a use case that changes nothing.

Each statement is a transaction of its own, read only, and one flight: BEGIN, the setting, the statement, COMMIT. The
isolation is READ COMMITTED, under which each statement sees what is committed when it begins anyway.
"""

import asyncio
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from causeloop_common import telemetry, wire
from causeloop_common.context import AuthContext
from causeloop_common.database.connections import PASSING, SILENCE_SECONDS
from causeloop_common.errors import AppError, Unavailable
from causeloop_common.idempotency import Replayed
from causeloop_common.settings import SettingsError
from causeloop_common.statements import Statement
from causeloop_common.telemetry import SpanKind

if TYPE_CHECKING:
    from causeloop_common.database.database import Database


class Reading:
    """A connection for one use case that reads: `async with` borrows it. It is a span, without statement and value."""

    __slots__ = (
        "_began",
        "_begin",
        "_connection",
        "_connections",
        "_database",
        "_is_open",
        "_span",
        "_watchdog",
        "ctx",
    )

    def __init__(self, database: "Database", ctx: AuthContext, begin: bytes) -> None:
        self.ctx = ctx
        self._database = database
        self._begin = begin
        self._connection: Any = None
        self._is_open = False
        """Whether the server has begun a transaction, or is asked to, that has no end yet."""

    async def __aenter__(self) -> Self:
        """Borrow a connection; Unavailable when there is none."""
        self._began = time.perf_counter()
        database = self._database
        self._span = database.tracer.start_span(database.span, kind=SpanKind.CLIENT, attributes=database.attributes)
        self._span.set_attribute("causeloop.tenant", self.ctx.tenant)
        try:
            self._connections = database.connected()
            try:
                self._connection = await self._connections.acquire()
            except (*PASSING, asyncpg.PostgresError, SettingsError) as error:
                raise Unavailable("The database cannot be reached. Nothing was done; try again.") from error
        except BaseException as error:
            self._end(error)
            raise
        # One timer for the whole transaction: one for each statement would cost a tenth of a short one.
        self._watchdog = asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._connection.terminate)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is open, give the connection back, and raise the error that the caller is to get, if another."""
        try:
            try:
                if error is None:
                    await self._commit()
                elif isinstance(error, TimeoutError):
                    self._connection.terminate()  # it does not answer: a rollback would wait as long again
                else:
                    await self._rollback()
            finally:
                self._watchdog.cancel()
                self._connection.wire.clear()
                self._connections.release(self._connection)
                self._database.seconds.observe(time.perf_counter() - self._began)
            if error is None:
                await self._announce()
            elif (converted := self._converted(error)) is not error:
                raise converted from error
        except BaseException as converted:
            error = converted
            raise
        finally:
            self._end(error)

    async def fetch(self, statement: Statement, **values: Any) -> list[Any]:
        """All rows."""
        arguments = statement.args(values)
        self._surround()
        rows: list[Any] = await self._connection.fetch(statement.sql, *arguments)
        self._is_open = not self._connection.wire.has_ended
        return rows

    async def fetchrow(self, statement: Statement, **values: Any) -> Any:
        """The first row, or None."""
        arguments = statement.args(values)
        self._surround()
        row = await self._connection.fetchrow(statement.sql, *arguments)
        self._is_open = not self._connection.wire.has_ended
        return row

    def _surround(self) -> None:
        """Have the next statement travel between BEGIN and COMMIT."""
        line = self._connection.wire
        if not self._is_open:
            line.open(self._begin)
            self._is_open = True
        line.end(wire.COMMIT)

    async def _commit(self) -> None:
        """End the transaction of a statement that failed, or that its connection had to prepare first."""
        if not self._is_open:
            return
        try:
            status = await self._connection.execute("COMMIT")
        except (*PASSING, asyncpg.PostgresError):
            self._connection.terminate()  # the rows have been read
        else:
            require_commit(status)

    async def _announce(self) -> None:
        """Nothing happened that others wait for."""

    async def _rollback(self) -> None:
        if self._connection.wire.clear() or not self._is_open:
            return
        try:
            await self._connection.execute("ROLLBACK")
        except BaseException as error:
            self._connection.terminate()  # the server rolls back what it lost; nobody else may get it still open
            if not isinstance(error, (*PASSING, asyncpg.PostgresError)):
                raise

    def _converted(self, error: BaseException) -> BaseException:
        """The error that the caller gets for one inside a transaction that was rolled back."""
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            return error  # it is the statement that is wrong
        if isinstance(error, PASSING) and not isinstance(error, AppError):
            return Unavailable("The database failed in the middle. Nothing was done; try again.")
        return error

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, Replayed):
            self._span.set_attribute("causeloop.replayed", True)
        elif error is not None:
            telemetry.fail(self._span, error)
        self._span.end()


def require_commit(status: str) -> None:
    """Raise Unavailable unless COMMIT was answered so: a failed transaction answers it with ROLLBACK and no error."""
    if status != "COMMIT":
        raise Unavailable("The transaction had failed and was rolled back. Nothing was done; try again.")
