"""One use case's transaction: the rows it sees, the events it announces, and the error its caller gets if it fails."""

import asyncio
import logging
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

import asyncpg
import orjson

from causeloop_common import ids, jobs, leases, outbox, rls, telemetry
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.base import Command, Event, Job, Message
from causeloop_common.contracts.jobs import JobView
from causeloop_common.database.connections import PASSING, SILENCE_SECONDS
from causeloop_common.errors import (
    AppError,
    AuditUnavailable,
    IdempotencyInProgress,
    IdempotencyMismatch,
    SecretAlreadyShown,
    Timeout,
    Unavailable,
)
from causeloop_common.idempotency import LOCK, Replayed
from causeloop_common.jobs import LeaseLost, Step
from causeloop_common.settings import SettingsError
from causeloop_common.statements import Statement
from causeloop_common.telemetry import SpanKind

if TYPE_CHECKING:
    from causeloop_common.database.database import Database

_log = logging.getLogger(__name__)

MessageT = TypeVar("MessageT", bound=Message)


class Statements(NamedTuple):
    """The bookkeeping statements of one schema."""

    publish: str
    claim: str
    find: str
    forget: str
    remember: str
    enqueue: str
    advance: str
    open_job: str


class Transaction:
    """One use case's transaction: `async with` begins it; its end commits, an exception rolls back.

    It is a span, and the cause of the events that it writes. The span has no statement and no value.
    """

    __slots__ = (
        "_answer",
        "_began",
        "_begin",
        "_command",
        "_connection",
        "_connections",
        "_database",
        "_ending",
        "_events",
        "_jobs",
        "_settled",
        "_span",
        "_step",
        "_watchdog",
        "ctx",
    )

    def __init__(
        self,
        database: "Database",
        ctx: AuthContext,
        begin: str,
        work: Command[Any] | Step[Any] | None,
        end: str = "COMMIT",
    ) -> None:
        self.ctx = ctx
        self._database = database
        self._begin, self._ending = begin, end
        self._connection: Any = None
        self._events: list[tuple[Any, ...]] = []
        self._jobs: list[tuple[Any, ...]] = []
        self._command: Command[Any] | None = None
        self._step: Step[Any] | None = None
        if isinstance(work, Step):
            self._step = work
        elif work is not None and work.keyed:
            self._command = work
        self._answer: Message | None = None
        self._settled: tuple[Any, ...] | None = None

    async def __aenter__(self) -> "Transaction":
        """Begin on a connection; `Replayed` when the command was done before."""
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
            # One timer for the whole transaction: one for each statement would cost a tenth of a short one.
            self._watchdog = asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._connection.terminate)
            try:
                await self._connection.execute(self._begin)
            except BaseException as error:
                self._watchdog.cancel()
                self._connection.terminate()
                self._connections.release(self._connection)
                raise self._converted(error) from error
        except BaseException as error:
            self._end(error)
            raise
        if self._command is not None and self.ctx.idempotency is not None:
            try:
                await self._look_up(self._command, self.ctx.idempotency)
            except BaseException as error:
                await self.__aexit__(type(error), error, error.__traceback__)
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit or roll back, give the connection back, and raise the error that the caller is to get, if another."""
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
                self._connections.release(self._connection)
                self._database.seconds.observe(time.perf_counter() - self._began)
            if error is not None:
                if (converted := self._converted(error)) is not error:
                    raise converted from error
            elif self._events:
                await self._announce()
        except BaseException as converted:
            error = converted
            raise
        finally:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if isinstance(error, Replayed):
            self._span.set_attribute("causeloop.replayed", True)
        elif error is not None:
            telemetry.fail(self._span, error)
        self._span.end()

    async def _announce(self) -> None:
        """Wake those who wait for what was committed."""
        database = self._database
        database.published.set()
        if self._jobs:
            database.enqueued()
        for row in self._events:
            if (react := database.at_once.get(outbox.kind(row))) is not None:
                await react(outbox.read(row))

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
        self._events.append(outbox.row(self.ctx, event, telemetry.traceparent(self._span)))

    def enqueue(self, job: Job) -> JobView:
        """Have a job of this service done after this transaction, which announces it; the job as it begins.

        The job acts with the identity of the context, whose permission is asked again before it begins.
        """
        ctx, uuid, now = self.ctx, ids.uuid7(), datetime.now(UTC)
        origin = jobs.origin(ctx, telemetry.traceparent(self._span))
        self._jobs.append((uuid, job.kind, job.to_json().decode(), now, *origin))
        return JobView.waiting(ids.encode(f"job_{self._database.schema}", uuid), job.kind, ctx.principal, now)

    async def open_job(self, kind: type[Job]) -> str | None:
        """The id of the tenant's job of this kind that has not ended, if there is one."""
        found = await self._connection.fetchval(self._database.statements.open_job, kind.kind)
        return None if found is None else ids.encode(f"job_{self._database.schema}", found)

    def advance(self, cursor: str | None, *, done: int, detail: str, total: int | None = None, wait: float = 0) -> None:
        """Settle a step: `cursor` is for the next one, `done` counts what this one did, `detail` is the new state.

        `total` is what there is to do, where that is known; else it stays as it was. The next step follows after `wait`
        seconds; meanwhile the job is nobody's.
        """
        self._settled = (cursor, done, total, detail, None, None, None, float(wait))

    def end(self, result: str, *, done: int = 0) -> None:
        """Settle the last step: the job is done, with a sentence for people as its result."""
        self.settle("done", result=result, done=done)

    def settle(self, outcome: str, *, done: int = 0, result: str | None = None, error: str | None = None) -> None:
        """End the job, with its result or error, and announce that."""
        step = self._step
        if step is None:
            raise RuntimeError("This transaction is no step of a job.")
        event = {"job_id": step.id, "kind": step.job.kind, "outcome": outcome, "done": step.done + done}
        self.publish(step.ended.model_validate(event))
        self._settled = (step.cursor, done, step.total, result, result, error, outcome, 0.0)

    async def claim(self, consumer: str, event_id: UUID) -> bool:
        """Whether this delivery of an event is the first; begin an event's use case with it."""
        status = await self._connection.execute(self._database.statements.claim, consumer, event_id)
        return str(status) == "INSERT 0 1"

    async def _look_up(self, command: Command[Any], asked: Idempotency) -> None:
        """Raise `Replayed` with the first answer when this command was done under the same Idempotency-Key."""
        statements, ctx = self._database.statements, self.ctx
        names = (ctx.principal, command.operation, asked.key)
        if not await self._connection.fetchval(LOCK, "\n".join((ctx.tenant, *names))):
            raise IdempotencyInProgress(
                "The first request with this Idempotency-Key is still running. Wait for its answer.", retry_after=1
            )
        if (done := await self._connection.fetchrow(statements.find, *names)) is not None:
            if done["fingerprint"] != asked.fingerprint:
                raise IdempotencyMismatch(
                    "This Idempotency-Key was used with another request. Use a new key for a new request."
                )
            if command.reply.is_sealed:
                shown = str(orjson.loads(done["reply"]).get("id", ""))
                raise SecretAlreadyShown(
                    f"This request was done before and its secret was shown then. It made {shown}.",
                    fields={"id": [shown]},
                )
            raise Replayed(done["reply"].encode())

    def answer(self, reply: MessageT) -> MessageT:
        """The reply of a keyed command's use case, remembered for a retry if the request has an Idempotency-Key."""
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
            if isinstance(error, asyncpg.PostgresError) and not isinstance(error, PASSING):
                raise AuditUnavailable("The act could not be recorded, so it was not done. Try again.") from error
            raise self._converted(error) from error
        try:
            status = await self._connection.execute(self._ending)
        except asyncpg.PostgresError as error:
            if error.sqlstate == rls.GUARD_STATE:
                _log.error("refused at commit: %s", error.args[0])
                raise AuditUnavailable("The act would leave no record, so it was not done.") from error
            if error.sqlstate == leases.TERM_STATE:
                await self._rollback()
                raise Unavailable("Another replica does this now. Nothing was done; try again.") from error
            if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError):
                raise Timeout("The database did not confirm. Retry with the same Idempotency-Key.") from error
            raise self._converted(error) from error  # refused, and so rolled back
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as error:
            self._connection.terminate()
            raise Timeout("The database did not confirm. Retry with the same Idempotency-Key.") from error
        if status != "COMMIT":  # a failed transaction answers COMMIT with ROLLBACK and no error
            raise Unavailable("The transaction had failed and was rolled back. Nothing was done; try again.")

    async def _write_bookkeeping(self) -> None:
        connection, statements = self._connection, self._database.statements
        command, asked, ctx = self._command, self.ctx.idempotency, self.ctx
        if command is not None and self._answer is None:
            raise RuntimeError(f"The use case of {type(command).__name__} ends without `tx.answer`.")
        if command is not None and asked is not None:
            assert self._answer is not None  # noqa: S101
            names = (ctx.principal, command.operation, asked.key)
            await connection.execute(statements.forget, *names)
            await connection.execute(
                statements.remember,
                *names,
                asked.fingerprint,
                self._answer.model_dump_json(),  # secrets are stars
            )
        if len(self._events) == 1:
            await connection.execute(statements.publish, *outbox.insertion(self._events[0]))
        elif self._events:
            await connection.executemany(statements.publish, map(outbox.insertion, self._events))
        if self._jobs:
            if not self._events:
                raise RuntimeError("A transaction that enqueues a job announces it with an event of its own.")
            await connection.executemany(statements.enqueue, self._jobs)
        if (step := self._step) is not None:
            if self._settled is None:
                raise RuntimeError(f"The step of {step.job.kind} ends without `tx.advance` or `tx.end`.")
            if await connection.execute(statements.advance, step.uuid, step.term, *self._settled) != "UPDATE 1":
                raise LeaseLost

    async def _rollback(self) -> None:
        try:
            await self._connection.execute("ROLLBACK")
        except BaseException as error:
            self._connection.terminate()  # the server rolls back what it lost; nobody else may get it still open
            if not isinstance(error, (*PASSING, asyncpg.PostgresError)):
                raise

    def _converted(self, error: BaseException) -> BaseException:
        """The error that the caller gets for one inside a transaction that was rolled back."""
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            if self._begin.startswith("BEGIN READ ONLY"):
                return error  # it is the statement that is wrong
            self._connection.terminate()
            self._connections.turn_away()
            return Unavailable("The database accepts no writes at the moment. Nothing was done; try again.")
        if isinstance(error, PASSING) and not isinstance(error, AppError):
            return Unavailable("The database failed in the middle. Nothing was done; try again.")
        return error
