"""Jobs as every owner shows them: list, show, cancel, and the events of a cancellation and of an end.

An owner's contract module takes them over in two lines, so that `cmd.vault.get_job` is the vault's and
`vault.job_ended` is announced by it:

    ListJobs, GetJob, CancelJob = jobs.commands(__name__)
    JobCancelled, JobEnded = jobs.events(__name__)
"""

from datetime import datetime
from types import new_class
from typing import Any, Literal, Self, TypeVar

from pydantic import Field

from causeloop_common.contracts.base import (
    Command,
    Event,
    JobId,
    Message,
    Timestamp,
    example_id,
)
from causeloop_common.contracts.lists import List, Page
from causeloop_common.permissions import OF_THE_JOB

MessageT = TypeVar("MessageT", bound=Message)

JobKind = Field(description="The kind of work.", examples=["reencrypt_keyring"])
Outcome = Literal["done", "failed", "cancelled"]
State = Literal["waiting", "running", "cancelling", "done", "failed", "cancelled"]


class JobProgress(Message):
    """How far a job got. It never runs backwards."""

    done: int = Field(description="How many things are done.", examples=[12000])
    total: int | None = Field(description="How many there are; null while they are not counted.", examples=[21000])
    detail: str = Field(description="A sentence for people.", examples=["12000 of 21000 values are re-encrypted."])


class JobView(Message):
    """A job: its state and progress, and in the end its result or error."""

    id: JobId
    kind: str = JobKind
    state: State = Field(
        description="`waiting` before its first step; `cancelling` until the step that runs has ended.",
        examples=["running"],
    )
    progress: JobProgress
    result: str | None = Field(description="The result of a job that is done, a sentence for people.", examples=[None])
    error: str | None = Field(
        description="The reason why it failed, or why its last attempt did; for people.", examples=[None]
    )
    attempts: int = Field(description="How often its next step was begun already, without success.", examples=[0])
    retry_at: Timestamp | None = Field(
        description="The time of the next attempt, after one that failed.", examples=[None]
    )
    created_by: str = Field(
        description="The principal it acts for: the one who began it.", examples=[example_id("usr")]
    )
    created_at: Timestamp = Field(description="The time at which it was asked for.")
    started_at: Timestamp | None = Field(description="The time at which its first step was done; null before.")
    ended_at: Timestamp | None = Field(
        description="The time at which it ended; it is kept for 7 days more.", examples=[None]
    )

    @classmethod
    def waiting(cls, job_id: str, kind: str, principal: str, now: datetime) -> Self:
        """A job as it begins."""
        return cls(
            id=job_id, kind=kind, state="waiting", progress=JobProgress(done=0, total=None, detail=""), result=None,
            error=None, attempts=0, retry_at=None, created_by=principal, created_at=now, started_at=None, ended_at=None,
        )  # fmt: skip


class JobPage(Page):
    """Jobs, newest first."""

    data: list[JobView] = Field(description="The jobs of this page.")
    unanswered: list[str] = Field(
        default_factory=list, description="Services that did not answer: their jobs are missing here.", examples=[[]]
    )


class ListJobs(List[JobPage], table="jobs", orders={"newest": "id"}, permission=OF_THE_JOB, keyed=False, timeout=2.0):
    """List the workspace's jobs.

    Newest first, from all services: those for whose kind the caller has the permission. `unanswered` names the services
    that did not answer in time.
    """


class GetJob(Command[JobView], permission=OF_THE_JOB, keyed=False):
    """Show a job.

    Take `id` from `rotate_keyring`. Shown are its state and progress, and in the end its result or error. It needs the
    permission that the job's kind needs.
    """

    id: JobId


class CancelJob(Command[JobView], permission=OF_THE_JOB, keyed=False):
    """Cancel a job.

    Take `id` from `rotate_keyring`. It ends when the step that runs has ended; what was done until then stays. A job
    that has ended stays as it is. It needs the permission that the job's kind needs.
    """

    id: JobId


COMMANDS = (ListJobs, GetJob, CancelJob)
"""The commands that every owner answers."""


class JobCancelled(Event, target="job_id"):
    """Somebody asked for the end of a job."""

    job_id: JobId
    kind: str = JobKind


class JobEnded(Event, target="job_id"):
    """A job ended."""

    job_id: JobId
    kind: str = JobKind
    outcome: Outcome = Field(description="How it ended.")
    done: int = Field(description="How many things it did.")


def commands(module: str) -> tuple[type[ListJobs], type[GetJob], type[CancelJob]]:
    """The three commands as those of the owner whose contract module this is."""
    return _of(ListJobs, module), _of(GetJob, module), _of(CancelJob, module)


def events(module: str) -> tuple[type[JobCancelled], type[JobEnded]]:
    """The two events as those of the owner whose contract module this is."""
    return _of(JobCancelled, module), _of(JobEnded, module)


def _of(kind: type[MessageT], module: str) -> type[MessageT]:
    line: dict[str, Any] = {"target": "job_id"}
    if issubclass(kind, Command):
        line = {"permission": kind.permission, "keyed": kind.keyed, "timeout": kind.timeout, "limit": kind.rate_limit}
    body = {"__module__": module, "__doc__": kind.__doc__}
    return new_class(kind.__name__, (kind,), line, lambda namespace: namespace.update(body))
