"""The database as a use case meets it: a transaction that is bound to the tenant and carries its messages.

    async with database.transaction(ctx) as tx:
        await tx.once(command)                      # a retried command ends here with its first answer
        row = await tx.fetchrow(STATEMENT, path=…)  # row security shows this tenant's rows, nobody else's
        tx.publish(SecretWritten(…))                # to the outbox, committed together with the effect
        return tx.answer(reply)                     # remembered for a retry

BEGIN and the tenant's setting share one round trip; the setting is local to the transaction, and exactly one of
tenant and person is set. Events are written just before COMMIT. No bus call belongs inside.

Promises: a refusal leaves nothing behind; `Unavailable` says that nothing was done; when the answer to COMMIT is
lost the outcome is unknown and `Timeout` says so; a change without an event is refused with `AuditUnavailable`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import orjson

from causeloop_common import idempotency, ids, inbox, outbox, rls
from causeloop_common.context import AuthContext
from causeloop_common.contracts.base import Announced, Command, Event, Message
from causeloop_common.errors import (
    AppError,
    AuditUnavailable,
    IdempotencyInProgress,
    IdempotencyMismatch,
    SecretAlreadyShown,
    Timeout,
    Unavailable,
)
from causeloop_common.idempotency import Replayed
from causeloop_common.statements import Statement

_log = logging.getLogger(__name__)

MessageT = TypeVar("MessageT", bound=Message)

STATEMENT_TIMEOUT_SECONDS = 10
SILENCE_SECONDS = STATEMENT_TIMEOUT_SECONDS + 2.0
"""A server that has not answered by then is gone, whatever the network says: the connection is given up."""
KEEPALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
"""So that the server too notices a client that is gone, and frees its locks."""
_CONNECT_SECONDS = 5.0
_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg raises when a connection dies while a statement is being sent
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    OSError,
    TimeoutError,
)
"""Faults that pass: before COMMIT they mean that nothing was done."""


class Connections:
    """At most `size` connections, made when needed, the last used first.

    Smaller than a general pool: there is no session state to reset, since every setting we make is local to its
    transaction, and no proxy between a transaction and its connection. A closed connection is not handed out.
    """

    def __init__(self, size: int, connect: Callable[[], Awaitable[Any]]) -> None:
        self._size = size
        self._connect = connect
        self._count = 0
        self._idle: list[Any] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._all_back = asyncio.Event()
        self._all_back.set()
        self._out = 0

    async def acquire(self) -> Any:
        """A connection; waits in turn while all are in use. Give it back with `release`."""
        while not self._idle and self._count >= self._size:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                self._waiting.remove(turn) if turn in self._waiting else self._wake()
                raise
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._lend()
                return connection
            self._count -= 1
        self._count += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._count -= 1
            self._wake()
            raise
        self._lend()
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back, outside any transaction; a closed one makes room for a new one."""
        self._out -= 1
        if self._out == 0:
            self._all_back.set()
        if connection.is_closed():
            self._count -= 1
        else:
            self._idle.append(connection)
        self._wake()

    async def close(self, seconds: float) -> None:
        """Wait for those in use, then close all."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_back.wait(), timeout=seconds)
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.close(timeout=2)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection.terminate()

    def _lend(self) -> None:
        self._out += 1
        self._all_back.clear()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class _Statements(NamedTuple):
    """The bookkeeping statements of one schema."""

    publish: str
    claim: str
    lock: str
    find: str
    forget: str
    remember: str


class Database:
    """One role's connections to its schema."""

    def __init__(self, dsn: str, schema: str, tables: rls.Tables, *, workers: int = 8) -> None:
        self._dsn = dsn
        self._tables = tables
        self.schema = schema
        self.workers = workers
        self._connections: Connections | None = None
        self._statements = _Statements(
            outbox.insert(schema).sql,
            inbox.claim(schema).sql,
            idempotency.lock(schema).sql,
            idempotency.find(schema).sql,
            idempotency.forget(schema).sql,
            idempotency.remember(schema).sql,
        )
        self.published = asyncio.Event()
        """Set after a commit that wrote events: the relay's wake-up."""
        self.at_once: Callable[[Announced], Awaitable[None]] | None = None
        """Told of every committed event before the act is answered; it must not raise."""

    async def start(self) -> None:
        """Connect; `Unavailable` when the server cannot be reached."""
        try:
            connections = Connections(
                self.workers,
                partial(
                    asyncpg.connect,
                    self._dsn,
                    timeout=_CONNECT_SECONDS,
                    server_settings={
                        **KEEPALIVE,
                        "application_name": f"causeloop-{self.schema}",
                        "statement_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
                        "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_SECONDS}s",
                    },
                ),
            )
            connections.release(await connections.acquire())
            self._connections = connections
        except (OSError, asyncpg.PostgresError, TimeoutError) as error:
            raise Unavailable(f"PostgreSQL does not let {self.schema} in: {type(error).__name__}.") from error

    async def stop(self) -> None:
        """Let running transactions end, then disconnect."""
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close(STATEMENT_TIMEOUT_SECONDS)

    def transaction(self, ctx: AuthContext) -> "Transaction":
        """A transaction that sees and writes the context's tenant and nothing else."""
        return Transaction(self, ctx, f"BEGIN; SET LOCAL {rls.TENANT_SETTING} = '{ctx.tenant_uuid}'")

    def person_transaction(self, ctx: AuthContext) -> "Transaction":
        """A transaction that sees what the policies show to the person across tenants; it can write nothing."""
        person = ids.decode(ctx.principal, "usr")
        return Transaction(self, ctx, f"BEGIN READ ONLY; SET LOCAL {rls.PERSON_SETTING} = '{person}'")

    async def prove(self) -> list[str]:
        """The start-up proof of tenant isolation: what is not as declared, as sentences."""
        async with self._borrowed() as connection:
            return await rls.prove(connection, self.schema, self._tables)

    async def ping(self) -> None:
        """Raise `Unavailable` unless the server answers."""
        async with self._borrowed() as connection:
            await connection.execute("SELECT 1", timeout=2)

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Any]:
        """A connection outside any tenant; `Unavailable` when the server does not answer."""
        connections = self._connected()
        try:
            connection = await connections.acquire()
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    yield connection
            except TimeoutError:
                connection.terminate()
                raise
            finally:
                connections.release(connection)
        except (*_PASSING, asyncpg.PostgresError) as error:
            raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}.") from error

    def _connected(self) -> "Connections":
        if self._connections is None:
            raise Unavailable("The service is not connected to PostgreSQL. Try again.")
        return self._connections


class Transaction:
    """One use case's transaction. Use it with `async with`; leaving it in peace commits, an exception rolls back."""

    __slots__ = (
        "_answer",
        "_begin",
        "_command",
        "_connection",
        "_connections",
        "_database",
        "_events",
        "_watchdog",
        "ctx",
    )

    def __init__(self, database: Database, ctx: AuthContext, begin: str) -> None:
        self.ctx = ctx
        self._database = database
        self._begin = begin
        self._connection: Any = None
        self._events: list[tuple[Any, ...]] = []
        self._command: Command[Any] | None = None
        self._answer: Message | None = None

    async def __aenter__(self) -> "Transaction":
        self._connections = self._database._connected()
        try:
            self._connection = await self._connections.acquire()
        except (*_PASSING, asyncpg.PostgresError) as error:
            raise Unavailable("The database cannot be reached. Nothing was done; try again.") from error
        # One timer for the whole transaction: one for each statement would cost a tenth of a short one.
        self._watchdog = asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._connection.terminate)
        try:
            await self._connection.execute(self._begin)
        except BaseException as error:
            self._watchdog.cancel()
            self._connection.terminate()
            self._connections.release(self._connection)
            raise _converted(error) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
            elif isinstance(error, TimeoutError):
                self._connection.terminate()  # it does not answer: asking it to roll back would wait as long again
            else:
                await self._rollback()
        finally:
            self._watchdog.cancel()
            self._connections.release(self._connection)
        if error is not None:
            if (told := _converted(error)) is not error:
                raise told from error
        elif self._events:
            self._database.published.set()
            if self._database.at_once is not None:
                for values in self._events:
                    await self._database.at_once(outbox.announced(self.ctx, values))

    async def fetch(self, statement: Statement, **values: Any) -> list[Any]:
        """All rows."""
        return await self._connection.fetch(statement.sql, *statement.args(values))  # type: ignore[no-any-return]

    async def fetchrow(self, statement: Statement, **values: Any) -> Any:
        """The first row, or None."""
        return await self._connection.fetchrow(statement.sql, *statement.args(values))

    async def execute(self, statement: Statement, **values: Any) -> int:
        """How many rows the statement changed."""
        status = await self._connection.execute(statement.sql, *statement.args(values))
        return int(status.rpartition(" ")[2])

    def publish(self, event: Event) -> None:
        """Announce: the event is committed with this transaction and put on the bus after it."""
        self._events.append(outbox.row(self.ctx, event))

    async def claim(self, consumer: str, event_id: UUID) -> bool:
        """Whether this delivery of an event is the first; begin an event's use case with it."""
        status = await self._connection.execute(self._database._statements.claim, consumer, event_id)
        return str(status) == "INSERT 0 1"

    async def once(self, command: Command[Any]) -> None:
        """Raise `Replayed` with the first answer when this command was done under the same Idempotency-Key."""
        asked = self.ctx.idempotency
        if asked is None or command.pure:
            return
        statements, ctx = self._database._statements, self.ctx
        names = (ctx.principal, command.operation, asked.key)
        if not await self._connection.fetchval(statements.lock, "\n".join((ctx.tenant, *names))):
            raise IdempotencyInProgress(
                "The first request with this Idempotency-Key is still running. Wait for its answer.", retry_after=1
            )
        if (done := await self._connection.fetchrow(statements.find, *names)) is not None:
            if done["fingerprint"] != asked.fingerprint:
                raise IdempotencyMismatch(
                    "This Idempotency-Key was used with another request. Use a new key for a new request."
                )
            if command.reply.sealed_fields:
                shown = str(orjson.loads(done["reply"]).get("id", ""))
                raise SecretAlreadyShown(
                    f"This request was done before and its secret was shown then. It made {shown}.",
                    fields={"id": [shown]},
                )
            raise Replayed(done["reply"].encode())
        self._command = command

    def answer(self, reply: MessageT) -> MessageT:
        """The use case's reply, remembered for a retry when the command carries a key."""
        self._answer = reply
        return reply

    async def _commit(self) -> None:
        try:
            await self._write_bookkeeping()
        except asyncpg.UniqueViolationError as error:
            await self._rollback()
            raise IdempotencyInProgress("A twin of this request was faster. Try again for its answer.") from error
        except BaseException as error:
            await self._rollback()
            if isinstance(error, asyncpg.PostgresError) and not isinstance(error, _PASSING):
                raise AuditUnavailable("The act could not be recorded, so it was not done. Try again.") from error
            raise _converted(error) from error
        try:
            status = await self._connection.execute("COMMIT")
        except asyncpg.PostgresError as error:
            if error.sqlstate == rls.GUARD_STATE:
                _log.error("refused at commit: %s", error.args[0])
                raise AuditUnavailable("The act would leave no record, so it was not done.") from error
            if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError):
                raise Timeout("The database did not confirm. Retry with the same Idempotency-Key.") from error
            raise _converted(error) from error  # refused, and so rolled back
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
            self._connection.terminate()
            raise Timeout("The database did not confirm. Retry with the same Idempotency-Key.") from error
        if status != "COMMIT":  # a failed transaction answers COMMIT with ROLLBACK and no error
            raise Unavailable("The transaction had failed and was rolled back. Nothing was done; try again.")

    async def _write_bookkeeping(self) -> None:
        connection, statements = self._connection, self._database._statements
        if self._command is not None and self._answer is not None:
            asked, ctx = self.ctx.idempotency, self.ctx
            assert asked is not None  # noqa: S101  `once` sets `_command` only with a key
            await connection.execute(statements.forget)
            await connection.execute(
                statements.remember,
                ctx.principal,
                self._command.operation,
                asked.key,
                asked.fingerprint,
                self._answer.to_wire().decode(),  # without an envelope secrets are stars
            )
        if len(self._events) == 1:
            await connection.execute(statements.publish, *self._events[0])
        elif self._events:
            await connection.executemany(statements.publish, self._events)

    async def _rollback(self) -> None:
        try:
            await self._connection.execute("ROLLBACK")
        except BaseException as error:
            self._connection.terminate()  # the server rolls back what it lost; nobody else may get it still open
            if not isinstance(error, (*_PASSING, asyncpg.PostgresError)):
                raise


def _converted(error: BaseException) -> BaseException:
    """What the caller should hear of an error inside a transaction that was rolled back."""
    if isinstance(error, _PASSING) and not isinstance(error, AppError):
        return Unavailable("The database failed in the middle. Nothing was done; try again.")
    return error
