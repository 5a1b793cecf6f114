"""What audit answers: the tenant's log. It announces nothing: it is where announcements end."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from causeloop_common.contracts.base import PAGE_BYTES, Command, EventId, Hash, Message, Page, Timestamp
from causeloop_common.permissions import Permission
from causeloop_log.tlog.checkpoint import LARGEST_SIZE

RETIRED: frozenset[str] = frozenset({"ListEntries", "GetEntry", "ProveEntry", "ProveConsistency", "ReadLog"})

LAST_INDEX = 2**53
"""No log has an entry here: who starts to read here is told the log's size and nothing else."""


class EventView(Message):
    """One entry of the log. `index` is its place, from 0; `leaf_hash` the RFC 6962 hash in hex."""

    index: int
    id: EventId
    action: str
    actor: str
    credential: str | None
    target: str
    occurred_at: Timestamp
    request_id: str
    data: dict[str, Any] | None = Field(description="Null once retention removed it; the hash stays.")
    leaf_hash: str


class EventPage(Page):
    """Entries in the order asked for."""

    data: list[EventView]


def _bounded(moment: datetime) -> datetime:
    if not 2000 <= moment.year <= 9000:
        raise ValueError("is not between the years 2000 and 9000")
    return moment


Moment = Annotated[Timestamp, AfterValidator(_bounded)]
Filter = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


class ListEvents(Command[EventPage], permission=Permission.AUDIT_READ, keyed=False):
    """The log, newest first or by index, filtered."""

    limit: int = Field(default=25, ge=1, le=100)
    position: str | None = Field(default=None, max_length=512)
    order: Literal["newest", "index"] = "newest"
    actor: Filter | None = None
    action: Filter | None = Field(default=None, description="The action or a prefix of it, such as 'vault.'.")
    target: Filter | None = None
    since: Moment | None = Field(default=None, description="Occurred at or after.")
    until: Moment | None = Field(default=None, description="Occurred before.")


class GetEvent(Command[EventView], permission=Permission.AUDIT_READ, keyed=False):
    """One entry by its event id."""

    id: EventId


class CheckpointView(Message):
    """What the log is now, signed: a note of origin, size and root (C2SP tlog-checkpoint)."""

    size: int
    root: Hash
    checkpoint: str = Field(description="The signed note; this text is what a verifier needs.")


class GetCheckpoint(Command[CheckpointView], permission=Permission.AUDIT_READ, keyed=False):
    """The log's head, signed by the vault, which signs only what continues what it signed before."""


class EventProof(Message):
    """That an entry is in the log: its leaf hash, and the path from there to a signed root (RFC 9162 2.1.3)."""

    index: int
    leaf: str | None = Field(description="The entry's bytes, which are hashed; null once retention removed them.")
    leaf_hash: Hash
    size: int = Field(description="The checkpoint's size.")
    path: list[Hash] = Field(description="From the leaf's sibling to the root's child.")
    checkpoint: str
    tlog_proof: str = Field(description="All of it as one C2SP tlog-proof file, which anybody's tools can verify.")


class GetEventProof(Command[EventProof], permission=Permission.AUDIT_READ, keyed=False):
    """A proof that an entry is in the log, which verifies offline."""

    id: EventId


class ConsistencyProof(Message):
    """That the log of size `to` begins with the log of size `from` (RFC 9162 2.1.4)."""

    old_size: int = Field(alias="from")
    new_size: int = Field(alias="to")
    path: list[Hash]


class GetConsistency(Command[ConsistencyProof], permission=Permission.AUDIT_READ, keyed=False):
    """A proof that the log only grew between two sizes, such as those of two checkpoints."""

    old_size: int = Field(alias="from", ge=0, le=LARGEST_SIZE)
    new_size: int | None = Field(default=None, alias="to", ge=0, le=LARGEST_SIZE, description="Absent: as it is now.")


class StreamEntry(Message):
    """One entry as it lies in the log: its place, from 0, and the leaf's stored bytes with their hash."""

    index: int
    leaf: str | None = Field(description="One line of canonical JSON. Null once retention removed it; the hash stays.")
    leaf_hash: str = Field(description="The RFC 6962 hash of the leaf, in hex.")


class StreamPage(Message):
    """Entries in the order of the log, without gaps, and the size of the log at the moment they were read."""

    entries: list[StreamEntry]
    size: int


class ReadStream(Command[StreamPage], permission=Permission.AUDIT_STREAM, keyed=False):
    """The log from one place on, as it is stored.

    A page is cut at `limit` entries and at `max_bytes` of leaves, each counted with 160 bytes more for what stands
    around it; a single entry is never cut.
    """

    start: int = Field(ge=0, le=LAST_INDEX, description="The first index to read; at or after the end: no entries.")
    limit: int = Field(default=500, ge=1, le=1000)
    max_bytes: int = Field(default=PAGE_BYTES, ge=1, le=PAGE_BYTES)
