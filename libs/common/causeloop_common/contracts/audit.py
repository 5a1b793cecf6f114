"""Audit's contract: a tenant's log, and proofs about it. Of itself audit announces only what its jobs do."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from causeloop_common.contracts import jobs
from causeloop_common.contracts.base import (
    EXAMPLE_HASH,
    LATER_EPOCH,
    PAGE_BYTES,
    Command,
    Epoch,
    EventId,
    Hash,
    Message,
    Timestamp,
    example_id,
)
from causeloop_common.contracts.limits import MINUTE, PRINCIPAL, Limit
from causeloop_common.contracts.lists import List, Page
from causeloop_common.permissions import Permission
from causeloop_log.tlog.checkpoint import LARGEST_SIZE

RETIRED: frozenset[str] = frozenset({"ListEntries", "GetEntry", "ProveEntry", "ProveConsistency", "ReadLog"})

LAST_INDEX = 2**53
"""No log has an entry here: a page that starts here has no entries, and the log's size."""

_NOTE = "causeloop.localhost/ws_3rf1w7gy3rh1w9gy3rf1w7gy3r\n43\nLCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=\n\n— …\n"

Index = Annotated[int, Field(description="The entry's place in the log, from 0.", examples=[42])]
LeafHash = Annotated[
    str, Field(description="The entry's RFC 6962 hash in hex: a leaf of the log's tree.", examples=[EXAMPLE_HASH])
]
Size = Annotated[int, Field(description="How many entries the log had.", examples=[43])]
SignedNote = Annotated[
    str, Field(description="The signed note (C2SP tlog-checkpoint), which a verifier reads as it is.", examples=[_NOTE])
]


class EventView(Message):
    """One entry of the log."""

    index: Index
    id: EventId
    action: str = Field(description="The act: service and event.", examples=["vault.secret_written"])
    actor: str = Field(description="The principal who acted: a person or a service.", examples=[example_id("usr")])
    credential: str | None = Field(
        description="The session or token that the actor used; null for a service.", examples=[example_id("ses")]
    )
    target: str = Field(description="The id of the thing that was acted on.", examples=[example_id("sec")])
    occurred_at: Timestamp = Field(description="The time of the act, by the clock of the service.")
    request_id: str = Field(
        description="The `X-Request-Id` of the request that caused the act; may be empty.", examples=[example_id("req")]
    )
    data: dict[str, Any] | None = Field(
        description="The event's own fields. Null once retention removed them; the hash stays.",
        examples=[{"secret_id": example_id("sec"), "version": 1}],
    )
    leaf_hash: LeafHash


class EventPage(Page):
    """Entries in the order that was asked for."""

    data: list[EventView] = Field(description="The entries of this page.")


_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:[0-5]\d)", re.ASCII | re.IGNORECASE)


def _moment(given: object) -> object:
    """A time in the one form that is taken; by itself pydantic takes seconds since 1970 too, and leaves out parts."""
    if not isinstance(given, str):
        return given
    if _RFC_3339.fullmatch(given) is None:
        hint = "; in an address, write the + of an offset as %2B" if " " in given else ""
        raise ValueError(f"is not a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z{hint}")
    return datetime.fromisoformat(given.upper())


def _bounded(moment: datetime) -> datetime:
    if not 2000 <= moment.year <= 9000:
        raise ValueError("is not between the years 2000 and 9000")
    return moment


Moment = Annotated[Timestamp, BeforeValidator(_moment), AfterValidator(_bounded)]
Filter = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


Awaited = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{8,64}$")]
WAIT_SECONDS = 3


class ListEvents(
    List[EventPage],
    table="entries",
    orders={"newest": "index", "index": "index"},
    filters={"actor": "actor", "target": "target"},
    tried=("action", "since", "until"),
    besides=("wait_for",),
    permission=Permission.AUDIT_READ,
    keyed=False,
):
    """List the log's entries.

    Newest first, or by index, which is the order of the log. An act enters the log a moment after its answer, some
    later: with `wait_for` the list is answered once it has. To poll, go on by index: a poll by `since` misses those.
    Filters that are given together all hold. For a page at most 10 000 entries are tried: with `action`, `since` or
    `until` it may have fewer entries than `limit`, or none, and another one follows all the same.
    """

    order: Literal["newest", "index"] = Field(
        default="newest", description="`newest` first, or `index`: from the log's beginning."
    )
    actor: Filter | None = Field(default=None, description="Entries of this principal.")
    action: Filter | None = Field(
        default=None, description="Entries of this action, or of those that begin so, such as `vault.`."
    )
    target: Filter | None = Field(default=None, description="Entries about this thing, by its id.")
    since: Moment | None = Field(default=None, description="Entries of acts at or after this time.")
    until: Moment | None = Field(default=None, description="Entries of acts before this time.")
    wait_for: Awaited | None = Field(
        default=None,
        description="Answer once the log has an entry of this request, by its `X-Request-Id`, or event; 404 without "
        f"one within {WAIT_SECONDS} s. Of requests, the last 1000 entries are looked at.",
    )


class GetEvent(Command[EventView], permission=Permission.AUDIT_READ, keyed=False):
    """Show one entry of the log.

    Take `id` from `list_events`.
    """

    id: EventId


class CheckpointView(Message):
    """The log's head, signed."""

    epoch: Epoch = 1
    size: Size
    root: Hash = Field(description="The root of the tree over all entries (RFC 6962), in hex.")
    checkpoint: SignedNote


class GetCheckpoint(Command[CheckpointView], permission=Permission.AUDIT_READ, keyed=False):
    """Show the signed checkpoint of the log.

    The vault signs it, and signs no log that does not continue the one it signed before. Ask for `text/plain` to get
    the signed note alone.
    """


class EventProof(Message):
    """A proof that an entry is in the log: the path from its hash to a signed root (RFC 9162 2.1.3)."""

    index: Index
    leaf: str | None = Field(
        description="The entry's bytes, of which the hash is made; null once retention removed them.",
        examples=['{"action":"vault.secret_written",…}'],
    )
    leaf_hash: Hash = Field(description="The entry's RFC 6962 hash, in hex.")
    size: Size
    path: list[Hash] = Field(description="Hashes in hex, from the leaf's sibling to the root's child.")
    checkpoint: SignedNote
    tlog_proof: str = Field(
        description="The whole proof as one C2SP tlog-proof file, for any tool that reads those.",
        examples=["c2sp.org/tlog-proof@v1\n…"],
    )


class GetEventProof(Command[EventProof], permission=Permission.AUDIT_READ, keyed=False):
    """Prove that an entry is in the log.

    Take `id` from `list_events`. The proof verifies offline, with the key of `get_audit_key`:
    `causeloop audit verify`. Ask for `text/plain` to get the C2SP tlog-proof file alone.
    """

    id: EventId


class ConsistencyProof(Message):
    """A proof that a log begins with an earlier state of it (RFC 9162 2.1.4)."""

    old_size: int = Field(alias="from", description="The size of the earlier log.", examples=[1])
    new_size: int = Field(alias="to", description="The size of the later log.", examples=[43])
    path: list[Hash] = Field(description="Hashes in hex, in the order in which a verifier takes them.")


class GetConsistency(Command[ConsistencyProof], permission=Permission.AUDIT_READ, keyed=False):
    """Prove that the log only grew.

    Between two sizes, such as those of two checkpoints that you kept.
    """

    old_size: int = Field(alias="from", ge=0, le=LARGEST_SIZE, description="The size of the earlier log.", examples=[1])
    new_size: int | None = Field(
        default=None,
        alias="to",
        ge=0,
        le=LARGEST_SIZE,
        description="The size of the later log. Absent: the log as it is now.",
    )


class StreamEntry(Message):
    """One entry as it is stored."""

    index: Index
    leaf: str | None = Field(description="One line of canonical JSON. Null once retention removed it; the hash stays.")
    leaf_hash: LeafHash


class StreamPage(Message):
    """Entries in the order of the log, without gaps."""

    epoch: Epoch = LATER_EPOCH
    entries: list[StreamEntry] = Field(description="The entries from `start` on.")
    size: Size


class ReadStream(
    Command[StreamPage],
    permission=Permission.AUDIT_STREAM,
    keyed=False,
    limit=Limit(60, per=MINUTE, by=PRINCIPAL),
):
    """Read the log from one place on, as it is stored.

    A page is cut at `limit` entries and at `max_bytes` of leaves, each counted with 160 bytes more for what stands
    around it; a single entry is never cut. The limit counts the streams that are begun, not their pages.
    """

    start: int = Field(ge=0, le=LAST_INDEX, description="The first index to read; at or after the end: no entries.")
    limit: int = Field(default=500, ge=1, le=1000, description="The most entries that the page has.")
    max_bytes: int = Field(default=PAGE_BYTES, ge=1, le=PAGE_BYTES, description="The most bytes that the page has.")


ListJobs, GetJob, CancelJob = jobs.commands(__name__)
JobCancelled, JobEnded = jobs.events(__name__)
