"""One role's view of its schema: connections, transactions, and the proof of isolation."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import asyncpg

from causeloop_common import idempotency, ids, inbox, jobs, outbox, rls, wire
from causeloop_common.context import AuthContext
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.base import Command
from causeloop_common.database.connections import (
    PASSING,
    SILENCE_SECONDS,
    Connections,
)
from causeloop_common.database.reading import Reading
from causeloop_common.database.transaction import Statements, Transaction
from causeloop_common.errors import Unavailable
from causeloop_common.jobs import Step
from causeloop_common.postgres import CONNECTING_FAULTS, Way, outdated, reason
from causeloop_common.telemetry import UNTRACED, Tracer, metrics

CLOCK_SECONDS = 2.0
"""How far a host's clock may be from the database's: two such hosts are apart by less than any deadline."""


class Database:
    """One role's connections to its schema."""

    def __init__(
        self, dsn: str, schema: str, tables: rls.Tables, *, workers: int = 8, tracer: Tracer = UNTRACED
    ) -> None:
        self._way = Way(dsn, f"causeloop-{schema}")
        self.tables = tables
        self.schema = schema
        self.workers = workers
        self.tracer = tracer
        self.span, self.attributes = f"{schema} transaction", {"db.system.name": "postgresql", "db.namespace": schema}
        """The name and the attributes that the spans of all transactions have."""
        self.seconds = metrics.TRANSACTION_SECONDS.labels(schema)
        self._connections: Connections | None = None
        self.statements = Statements(
            outbox.insert(schema),
            inbox.claim(schema),
            idempotency.find(schema),
            idempotency.forget(schema),
            idempotency.remember(schema),
            jobs.enqueue(schema),
            jobs.advance(schema),
            jobs.open_one(schema),
        )
        self.published = asyncio.Event()
        """Set after a commit that wrote events: the relay's wake-up."""
        self.enqueued: Callable[[], None] = _nobody_waits
        """Called after a commit that enqueued jobs: the worker's wake-up."""
        self.at_once: dict[str, Callable[[Announced], Awaitable[None]]] = {}
        """By type of event, what is called with each that is committed, before its act is answered; must not raise."""

    async def start(self) -> None:
        """Connect; `Unavailable` when the server cannot be reached."""
        try:
            connections = Connections(
                self.workers,
                self._way.connect,
            )
            connections.release(await connections.acquire())
            self._connections = connections
            connections.watch(self.schema)
        except CONNECTING_FAULTS as error:
            raise Unavailable(f"PostgreSQL does not let {self.schema} in. {reason(error)}") from error

    async def stop(self) -> None:
        """Let running transactions end, then disconnect."""
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close(rls.STATEMENT_TIMEOUT_SECONDS)

    def transaction(
        self, ctx: AuthContext, work: Command[Any] | Step[Any] | None = None, *, fence: str | None = None
    ) -> Transaction:
        """A transaction that sees and writes the context's tenant and nothing else.

        A keyed command's use case passes the command. A retry under the same Idempotency-Key then ends at the entry,
        with the first answer, and a transaction that has no `answer` is rolled back with a RuntimeError. A job's step
        passes the step, and ends with `advance` or `end`; LeaseLost when another worker has the job.
        With a leader's `fence` it commits in the leader's term only, else it is rolled back with `Unavailable`.
        """
        return Transaction(self, ctx, _begin(ctx.tenant), work, fence)

    def reading(self, ctx: AuthContext) -> Reading:
        """A reading, for a use case that changes nothing: it sees the context's tenant and nothing else."""
        return Reading(self, ctx, _begin(ctx.tenant, "BEGIN READ ONLY"))

    def reading_of_person(self, ctx: AuthContext) -> Reading:
        """A reading of all that the policies show to the person, across tenants."""
        person = ids.decode(ctx.principal, "usr")
        return Reading(self, ctx, wire.batch("BEGIN READ ONLY", f"SET LOCAL {rls.PERSON_SETTING} = '{person}'"))

    async def prove(self) -> list[str]:
        """The start-up proof of tenant isolation: what is not as declared, as sentences.

        It is made on a new connection. Those that are there go on when their role is let in no more, and a service that
        is at rest has few: under load it would have no others.
        """
        try:
            connection = await self._way.connect()
        except asyncpg.TooManyConnectionsError:  # the load may have taken them, and goes on with what it has
            async with self._borrowed() as connection:
                return await rls.prove(connection, self.schema, self.tables)
        except CONNECTING_FAULTS as error:
            raise Unavailable(f"PostgreSQL does not let {self.schema} in. {reason(error)}") from error
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                findings = await rls.prove(connection, self.schema, self.tables)
                await connection.close()  # in order: the server logs each connection that just ends
                return findings
        except (*PASSING, asyncpg.PostgresError) as error:
            raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}.") from error
        finally:
            connection.terminate()

    async def ping(self) -> None:
        """Raise `Unavailable` unless the server answers and accepts writes; if not, look for another one next time."""
        async with self._borrowed() as connection:
            if await connection.fetchval("SELECT current_setting('transaction_read_only')", timeout=2) == "on":
                connection.terminate()
                self.connected().turn_away()
                raise Unavailable("The database accepts no writes: its server is a standby, or read-only.")

    async def check_clock(self) -> None:
        """Raise `Unavailable` when this host's clock is too far from the database's, which all services share."""
        async with self._borrowed() as connection:
            asked = time.time()
            theirs = (await connection.fetchval("SELECT clock_timestamp()", timeout=2)).timestamp()
            answered = time.time()
        ahead = (asked + answered) / 2 - theirs
        if abs(ahead) - (answered - asked) / 2 > CLOCK_SECONDS:
            raise Unavailable(
                f"This host's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's. Set "
                "both by NTP: commands have a deadline of some seconds, and tokens begin at a moment."
            )

    async def examine(self) -> None:
        """Raise `Unavailable` unless the server accepts writes and its version has no known hole: for `doctor`."""
        await self.ping()
        async with self._borrowed() as connection:
            if (hole := outdated(connection)) is not None:
                raise Unavailable(hole)

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Any]:
        """A connection outside any tenant; `Unavailable` when the server does not answer."""
        connections = self.connected()
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
        except (*PASSING, asyncpg.PostgresError) as error:
            raise Unavailable(f"PostgreSQL does not answer: {type(error).__name__}.") from error

    def connected(self) -> Connections:
        """The connections; Unavailable before `start` and after `stop`."""
        if self._connections is None:
            raise Unavailable("The service is not connected to PostgreSQL. Try again.")
        return self._connections


@lru_cache(maxsize=10_000)
def _begin(tenant: str, begin: str = "BEGIN") -> bytes:
    """How a transaction begins that is bound to this tenant; made once, since a UUID's text costs a microsecond."""
    return wire.batch(begin, f"SET LOCAL {rls.TENANT_SETTING} = '{ids.tenant_uuid(tenant)}'")


def _nobody_waits() -> None:
    """Until there is a worker, nobody is to be woken."""
