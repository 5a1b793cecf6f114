"""A role's connections, and how long anybody waits for one that fell silent."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from causeloop_common.errors import Unavailable
from causeloop_common.postgres import CONNECTING_FAULTS, Way, reason
from causeloop_common.rls import STATEMENT_TIMEOUT_SECONDS
from causeloop_common.settings import SettingsError
from causeloop_common.telemetry import metrics

SILENCE_SECONDS = STATEMENT_TIMEOUT_SECONDS + 2.0
"""A server that has not answered by then is gone, even if the network reports nothing: the connection is given up."""
PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # raised when a connection dies while a statement is being sent
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidCachedStatementError,  # a table was altered since the statement was planned
    asyncpg.ReadOnlySQLTransactionError,  # the server is one that others write to now
    OSError,
    TimeoutError,
)
"""Faults that pass: before COMMIT they mean that nothing was done."""


class Connections:
    """At most `size` connections, made when needed, the last used first.

    Less than asyncpg's pool, which halves the rate (`docs/decisions/0018-connections-of-our-own.md`): no session state
    is reset, since every setting of ours is local to its transaction, and no proxy stands between a transaction and its
    connection. A closed connection is not handed out.
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

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Any]:
        """A connection for the block, between two transactions. It is given up unless the server answered all."""
        connection = await self.acquire()
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                self.turn_away()
            if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                connection.terminate()
            raise
        finally:
            self.release(connection)

    def turn_away(self) -> None:
        """Give up the idle ones: their server accepts no writes any more, and another one may."""
        for connection in self._idle:
            connection.terminate()

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

    def watch(self, service: str) -> None:
        """Count those in use and idle, and the waiting use cases, whenever the metrics are read."""
        gauge = metrics.CONNECTIONS
        gauge.labels(service, "in_use").set_function(lambda: self._out)
        gauge.labels(service, "idle").set_function(lambda: len(self._idle))
        gauge.labels(service, "waiting").set_function(lambda: len(self._waiting))

    def _lend(self) -> None:
        self._out += 1
        self._all_back.clear()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def role_connections(dsn: str, role: str, *, size: int = 4) -> Connections:
    """The connections of a role that works across tenants. They have no state of a session, as a pooler demands."""
    name = role.replace("_", "-")
    return Connections(size, Way(dsn, name, command_timeout=SILENCE_SECONDS).connect)


async def look_at(role: str, connections: Connections) -> None:
    """`Unavailable` when the server does not let a role in.

    SettingsError when its address is of another role, or leads through a pooler that is not fit.
    """
    try:
        async with connections.borrowed() as connection:
            me = await connection.fetchval("SELECT current_user::text")
    except CONNECTING_FAULTS as error:
        raise Unavailable(f"PostgreSQL does not let {role} in. {reason(error)}") from error
    if me != role:
        raise SettingsError(
            f"DATABASE_URL_{role.removeprefix('causeloop_').upper()} logs in as {me}: write {role} into it, or have "
            "the pooler pass the role on."
        )
