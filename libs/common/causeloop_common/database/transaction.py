"""One use case's transaction: the rows it sees, the events it announces, and the error its caller gets if it fails."""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from uuid import UUID

import asyncpg
import orjson

from causeloop_common import ids, jobs, leases, outbox, rls, telemetry, wire
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts.base import Command, Event, Job, Message
from causeloop_common.contracts.jobs import JobView
from causeloop_common.database.connections import PASSING
from causeloop_common.database.reading import Reading, require_commit
from causeloop_common.errors import (
    AuditUnavailable,
    IdempotencyInProgress,
    IdempotencyMismatch,
    SecretAlreadyShown,
    Timeout,
    Unavailable,
)
from causeloop_common.idempotency import LOCK, Replayed
from causeloop_common.jobs import LeaseLost, Step
from causeloop_common.statements import Statement

if TYPE_CHECKING:
    from causeloop_common.database.database import Database

_log = logging.getLogger(__name__)

MessageT = TypeVar("MessageT", bound=Message)
Entry = tuple[str, Sequence[tuple[Any, ...]]]
"""A statement, and the rows that it writes."""


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


class Transaction(Reading):
    """One use case's transaction: `async with` begins it; its end commits, an exception rolls back.

    It is a span, and the cause of the events that it writes. BEGIN travels with its first statement, and COMMIT with
    the last of its bookkeeping.
    """

    __slots__ = ("_answer", "_command", "_events", "_fence", "_jobs", "_later", "_settled", "_step")

    def __init__(
        self,
        database: "Database",
        ctx: AuthContext,
        begin: bytes,
        work: Command[Any] | Step[Any] | None,
        fence: str | None = None,
    ) -> None:
        super().__init__(database, ctx, begin)
        self._fence = fence
        self._events: list[tuple[Any, ...]] = []
        self._jobs: list[tuple[Any, ...]] = []
        self._later: list[tuple[str, tuple[Any, ...], Exception | None]] = []
        self._command: Command[Any] | None = None
        self._step: Step[Any] | None = None
        if isinstance(work, Step):
            self._step = work
        elif work is not None and work.keyed:
            self._command = work
        self._answer: Message | None = None
        self._settled: tuple[Any, ...] | None = None

    async def __aenter__(self) -> Self:
        """Begin with the first statement; `Replayed` when the command was done before."""
        await super().__aenter__()
        self._connection.wire.open(self._begin)
        self._is_open = True
        if self._command is not None and self.ctx.idempotency is not None:
            try:
                await self._look_up(self._command, self.ctx.idempotency)
            except BaseException as error:
                await self.__aexit__(type(error), error, error.__traceback__)
                raise
        return self

    async def _announce(self) -> None:
        """Wake those who wait for what was committed."""
        if not self._events:
            return
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

    def later(self, statement: Statement, refusal: Exception | None = None, /, **values: Any) -> None:
        """Write something whose result nobody needs: it travels with the bookkeeping, and takes no flight of its own.

        The caller gets `refusal`, if there is one, when what is written breaks a constraint.
        """
        if statement.has_rows:
            raise RuntimeError("A statement that returns rows cannot be written later.")
        self._later.append((statement.sql, tuple(statement.args(values)), refusal))

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
        line = self._connection.wire
        entries: list[Entry] = []
        try:
            entries.extend(self._entries())
            await self._write(entries)
            if line.has_ended:
                return
        except BaseException as error:
            refused_at, writes = line.refused_at, sum(len(rows) for _, rows in entries)
            if line.has_ended and (refused_at is None or refused_at == writes):
                raise await self._unconfirmed(error) from error
            await self._rollback()
            raise self._unrecorded(error, refused_at) from error
        if self._fence is None and line.clear():
            return  # there was no statement
        try:
            end = "COMMIT" if self._fence is None else f"SELECT {self._fence}; COMMIT"
            status = await self._connection.execute(end)
        except BaseException as error:
            raise await self._unconfirmed(error) from error
        require_commit(status)

    async def _write(self, entries: Sequence[Entry]) -> None:
        """Write what the transaction carries, all in one flight with COMMIT if nothing has to be looked at before."""
        connection, line = self._connection, self._connection.wire
        line.keep()
        for number, (statement, rows) in enumerate(entries, start=1):
            if number < len(entries) or self._step is not None:
                line.hold()
            else:  # a fence that holds has no row
                line.end(
                    wire.COMMIT if self._fence is None else wire.batch(f"SELECT WHERE NOT {self._fence}", "COMMIT")
                )
            if len(rows) == 1:
                await connection.execute(statement, *rows[0])
            else:
                await connection.executemany(statement, rows)
        if (step := self._step) is not None:
            settled = (step.uuid, step.term, *(self._settled or ()))
            if await connection.execute(self._database.statements.advance, *settled) != "UPDATE 1":
                raise LeaseLost

    def _entries(self) -> Iterator[Entry]:
        """The statements of the end, in their order. RuntimeError if the use case left something out."""
        statements = self._database.statements
        command, asked, ctx = self._command, self.ctx.idempotency, self.ctx
        if command is not None and self._answer is None:
            raise RuntimeError(f"The use case of {type(command).__name__} ends without `tx.answer`.")
        if self._jobs and not self._events:
            raise RuntimeError("A transaction that enqueues a job announces it with an event of its own.")
        if self._step is not None and self._settled is None:
            raise RuntimeError(f"The step of {self._step.job.kind} ends without `tx.advance` or `tx.end`.")
        for statement, arguments, _ in self._later:
            yield statement, [arguments]
        if command is not None and asked is not None:
            assert self._answer is not None  # noqa: S101
            names = (ctx.principal, command.operation, asked.key)
            yield statements.forget, [names]
            reply = self._answer.model_dump_json()  # secrets are stars
            yield statements.remember, [(*names, asked.fingerprint, reply)]
        if self._events:
            yield statements.publish, [outbox.insertion(event) for event in self._events]
        if self._jobs:
            yield statements.enqueue, self._jobs

    def _unrecorded(self, error: BaseException, refused_at: int | None) -> BaseException:
        """The error that the caller gets for one that came before COMMIT, at this number of the entries' rows."""
        if refused_at is not None and refused_at < len(self._later):
            refusal = self._later[refused_at][2]
            is_broken = isinstance(error, asyncpg.IntegrityConstraintViolationError)
            return self._converted(error) if refusal is None or not is_broken else refusal
        if isinstance(error, asyncpg.UniqueViolationError):
            return IdempotencyInProgress("A twin of this request was faster. Try again for its answer.")
        if isinstance(error, asyncpg.PostgresError) and not isinstance(error, PASSING):
            return AuditUnavailable("The act could not be recorded, so it was not done. Try again.")
        return self._converted(error)

    async def _unconfirmed(self, error: BaseException) -> BaseException:
        """The error that the caller gets for one that came after COMMIT had been sent."""
        if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError | TimeoutError):
            self._connection.terminate()
            return Timeout("The database did not confirm. Retry with the same Idempotency-Key.")
        if not isinstance(error, asyncpg.PostgresError):  # cancelled: it ends on the server before another one begins
            await self._rollback()
            return error
        if error.sqlstate == rls.GUARD_STATE:
            _log.error("refused at commit: %s", error.args[0])
            return AuditUnavailable("The act would leave no record, so it was not done.")
        if error.sqlstate == leases.TERM_STATE:
            await self._rollback()
            return Unavailable("Another replica does this now. Nothing was done; try again.")
        if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError):
            return Timeout("The database did not confirm. Retry with the same Idempotency-Key.")
        return self._converted(error)  # refused, and so rolled back

    def _converted(self, error: BaseException) -> BaseException:
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self._connection.terminate()
            self._connections.turn_away()
            return Unavailable("The database accepts no writes at the moment. Nothing was done; try again.")
        return super()._converted(error)
