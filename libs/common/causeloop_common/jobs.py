"""The jobs of a service: long work, enqueued with its announcement and done in steps.

A row has what the work needs, for whom it is done, how far it got, and a lease. The service's role sees the rows of the
transaction's tenant, as of every table. One more role, `causeloop_<s>_jobs`, takes due jobs of all tenants: it sees id,
tenant, due time and lease of jobs that have not ended, and may change the lease alone.

A step's transaction ends with `advance`, which changes the row only under the lease that the step was begun under. The
row stays locked until COMMIT, so no other worker can take the job between that check and the commit: a worker that was
stopped and woken either still has the job, or commits nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime, MetaData, SmallInteger, Table, Text
from sqlalchemy.dialects import postgresql

from causeloop_common import rls
from causeloop_common.context import CLAIMS, Assurance, AuthContext
from causeloop_common.contracts.base import Job
from causeloop_common.contracts.jobs import JobEnded
from causeloop_common.contracts.personal import PERSON

JobT = TypeVar("JobT", bound=Job)

KEPT_DAYS = 7
"""How long an ended job can be seen."""

IDENTITY = tuple(name for name in CLAIMS if name not in ("tenant", "permissions"))
"""The columns with the identity that began the job: all that a service token carries of it."""
_identity = attrgetter(*IDENTITY)

_REASON = "what a job does writes its events; its lease and its progress are no acts"
_SEEN = ("workspace_id", "id", "due_at", "lease_term", "lease_until", "expires_at")
_LEASE = ("lease_term", "lease_until")
_CHANGED = (
    "due_at", "lease_until", "settled_term", "cursor", "done", "total", "detail", "result", "error", "outcome",
    "started_at", "cancelled_at", "ended_at", "expires_at",
)  # fmt: skip
_IS_OPEN = "(due_at IS NOT NULL)"
_IS_OVER = "(expires_at < now())"
_COLUMNS = {"tenant_update": _CHANGED, "jobs_select": _SEEN, "jobs_update": _LEASE}


def _policies(schema: str) -> tuple[rls.Policy, ...]:
    role = f"causeloop_{schema}_jobs"
    return (
        rls.Policy("jobs_select", "select", role, using=f"({_IS_OPEN} OR {_IS_OVER})"),
        rls.Policy("jobs_update", "update", role, using=_IS_OPEN, check=_IS_OPEN),
        rls.Policy("jobs_delete", "delete", role, using=_IS_OVER),
    )


def table(metadata: MetaData) -> Table:
    """Declare the table in a service's metadata."""
    moment = DateTime(timezone=True)
    return Table(
        "jobs",
        metadata,
        rls.tenant_column(),
        Column("id", postgresql.UUID, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("payload", Text, nullable=False),
        Column("principal", Text, nullable=False, info=PERSON.info),
        Column("credential", Text),
        Column("assurance", SmallInteger, nullable=False),
        Column("authenticated_at", BigInteger),
        Column("on_behalf_of", Text, info=PERSON.info),
        Column("request_id", Text, nullable=False),
        Column("traceparent", Text, nullable=False),
        Column("due_at", moment),
        Column("lease_term", BigInteger, nullable=False),
        Column("lease_until", moment),
        Column("settled_term", BigInteger, nullable=False),
        Column("cursor", Text),
        Column("done", BigInteger, nullable=False),
        Column("total", BigInteger),
        Column("detail", Text, nullable=False),
        Column("result", Text),
        Column("error", Text),
        Column("outcome", Text),
        Column("created_at", moment, nullable=False),
        Column("started_at", moment),
        Column("cancelled_at", moment),
        Column("ended_at", moment),
        Column("expires_at", moment),
        info=rls.protected(
            "select", "insert", "update",
            columns=_COLUMNS, extra=_policies(str(metadata.schema)), audited=False, reason=_REASON,
        ) | {"expired": _IS_OVER},
    )  # fmt: skip


def ddl(schema: str) -> Iterator[str]:
    """The statements that make the table, for a service's migration."""
    yield f"""
        CREATE TABLE {schema}.jobs (
            workspace_id uuid NOT NULL DEFAULT {schema}.app_current_tenant(),
            id uuid NOT NULL,
            kind text NOT NULL,
            payload text NOT NULL CHECK (octet_length(payload) <= 65536),
            principal text NOT NULL,
            credential text,
            request_id text NOT NULL,
            traceparent text NOT NULL,
            due_at timestamptz DEFAULT now(),
            lease_term bigint NOT NULL DEFAULT 0,
            lease_until timestamptz,
            settled_term bigint NOT NULL DEFAULT 0,
            cursor text,
            done bigint NOT NULL DEFAULT 0 CHECK (done >= 0),
            total bigint,
            detail text NOT NULL DEFAULT '',
            result text,
            error text,
            outcome text CHECK (outcome IN ('done', 'failed', 'cancelled')),
            created_at timestamptz NOT NULL DEFAULT now(),
            started_at timestamptz,
            cancelled_at timestamptz,
            ended_at timestamptz,
            expires_at timestamptz,
            CHECK ((outcome IS NULL) = (due_at IS NOT NULL)),
            CHECK ((outcome IS NULL) = (expires_at IS NULL)),
            PRIMARY KEY (workspace_id, id)
        )
    """
    yield f"CREATE INDEX ON {schema}.jobs (due_at) WHERE due_at IS NOT NULL"
    yield f"CREATE INDEX ON {schema}.jobs (expires_at) WHERE expires_at IS NOT NULL"
    yield from rls.protect(
        schema, "jobs", "select", "insert", "update",
        columns=_COLUMNS, extra=_policies(schema), audited=False, reason=_REASON,
    )  # fmt: skip


def identity_ddl(schema: str) -> Iterator[str]:
    """The statements that add how the principal had signed in and for whom it acts, for a later migration."""
    yield f"""
        ALTER TABLE {schema}.jobs ADD COLUMN assurance smallint NOT NULL DEFAULT {Assurance.NONE:d},
            ADD COLUMN authenticated_at bigint, ADD COLUMN on_behalf_of text
    """


def open_ddl(schema: str) -> Iterator[str]:
    """The statements that have a tenant's open jobs found by their kind, for a later migration than the table's."""
    yield f"CREATE INDEX ON {schema}.jobs (workspace_id, kind, id) WHERE outcome IS NULL"


class LeaseLost(Exception):
    """Another worker has the job, or may take it: this step is not committed."""


@dataclass(frozen=True, slots=True)
class Step(Generic[JobT]):
    """One step of a job: what to do, and how far it got. Give it to `database.transaction`, as a command is given.

    `cursor` is what the step before left, None at first; `done` and `total` are the progress until now. `ended` is the
    owner's event of the end.
    """

    job: JobT
    id: str
    uuid: UUID
    term: int
    ended: type[JobEnded]
    cursor: str | None = None
    done: int = 0
    total: int | None = None


def enqueue(schema: str) -> str:
    """Inserts a job by id, kind, payload, time, and its `origin`."""
    columns = ("id", "kind", "payload", "created_at", *IDENTITY, "request_id", "traceparent")
    marks = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    return f"INSERT INTO {schema}.jobs ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608


def origin(ctx: AuthContext, traceparent: str) -> tuple[Any, ...]:
    """The values of `enqueue` that name who began the job, in which request and trace."""
    return (*_identity(ctx), ctx.request_id, traceparent)


def identity(row: Any) -> dict[str, Any]:
    """The fields of the context that a job's row has kept: it acts as the one who began it."""
    return {name: row[name] for name in IDENTITY} | {"assurance": Assurance(row["assurance"])}


def advance(schema: str) -> str:
    """Settles a step of the job $1, under the lease of the term $2 alone: 'UPDATE 0' means that it is lost.

    Then cursor, number of things done by this step, total, sentence, result, error, outcome (null: the job goes on),
    and the seconds to wait before the next step (0: it may follow at once, under the same lease).
    """
    return f"""
        UPDATE {schema}.jobs SET settled_term = lease_term, cursor = $3, done = done + $4, total = coalesce($5, total),
            detail = coalesce($6, detail),
            result = $7, error = $8, outcome = $9, started_at = coalesce(started_at, clock_timestamp()),
            due_at = CASE WHEN $9::text IS NULL THEN clock_timestamp()
                + CASE WHEN cancelled_at IS NULL THEN $10::float8 ELSE 0 END * interval '1 second' END,
            lease_until = CASE WHEN $9::text IS NULL AND $10 = 0 THEN lease_until END,
            ended_at = CASE WHEN $9::text IS NOT NULL THEN clock_timestamp() END,
            expires_at = CASE WHEN $9::text IS NOT NULL THEN clock_timestamp() + interval '{KEPT_DAYS} days' END
        WHERE id = $1 AND lease_term = $2 AND lease_until > clock_timestamp()
    """  # noqa: S608


def open_one(schema: str) -> str:
    """The job of a kind that has not ended, oldest first."""
    return f"SELECT id FROM {schema}.jobs WHERE kind = $1 AND outcome IS NULL ORDER BY id LIMIT 1"  # noqa: S608
