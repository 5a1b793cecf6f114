"""The entry that a message of the event stream becomes.

An event is entered as it is. A message that cannot be read as an event, whose data has no canonical form, or whose
entry would be larger than `LARGEST`, is entered as `audit.malformed` with its size and digest: nothing stays out of the
log because of its form, and nothing in the log keeps it from being read, streamed and verified.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from causeloop_common import ids
from causeloop_common.contracts.announced import Announced
from causeloop_log.entry import LARGEST, MALFORMED, NotCanonical, digest_of, read_data, v1
from causeloop_log.tlog.merkle import leaf_hash


class Unreadable(NamedTuple):
    """A message that is no event: its subject, its sequence in the stream, and its data."""

    subject: str
    sequence: int
    data: bytes

    @property
    def tenant(self) -> str:
        """The tenant in the subject; the installation's realm when there is none."""
        tenant = self.subject.split(".")[1] if self.subject.count(".") else ""
        try:
            ids.tenant_uuid(tenant)
        except ValueError:
            return ids.INSTALLATION
        return tenant

    @property
    def id(self) -> str:
        """The id of its entry, the same at every delivery."""
        return ids.derived("evt", f"{self.sequence}\n{self.subject}\n".encode() + self.data)


class NewEntry(NamedTuple):
    """An entry before it has its index. The fields are in the order of the table's columns."""

    log: UUID
    event: UUID
    action: str
    actor: str
    credential: str | None
    target: str
    request_id: str
    occurred_at: datetime
    leaf_hash: bytes
    leaf: str


def identity(message: Announced | Unreadable) -> tuple[UUID, UUID]:
    """The log that a message belongs to, and its event: a log has one entry of each event."""
    return ids.tenant_uuid(message.tenant), ids.decode(message.id, "evt")


def new_entry(message: Announced | Unreadable, salt: bytes, now: datetime) -> NewEntry:
    """The entry of a message. `now` is the time of an entry that is malformed."""
    fields, leaf = _written(message, salt, now)
    return NewEntry(
        *identity(message), fields.action, fields.actor, fields.credential, fields.target, fields.request_id,
        fields.occurred_at, leaf_hash(leaf), leaf.decode(),
    )  # fmt: skip


def unreadable(message: Announced | Unreadable) -> Unreadable:
    """A message whose entry the database refuses, as one that is no event."""
    if isinstance(message, Unreadable):
        return message
    return Unreadable(f"evt.{message.tenant}.{message.type}", 0, message.id.encode() + message.data)


def _written(message: Announced | Unreadable, salt: bytes, now: datetime) -> tuple[v1.Fields, bytes]:
    """The fields of a message's entry, and its leaf."""
    if isinstance(message, Announced):
        try:
            fields = v1.Fields(
                message.id, message.tenant, message.type, message.actor, message.credential, message.target,
                message.occurred_at, message.request_id, read_data(message.data),
            )  # fmt: skip
            leaf = v1.leaf(fields, salt)
        except NotCanonical:
            pass
        else:
            if len(leaf) <= LARGEST:
                return fields, leaf
    fields = v1.Fields(
        message.id, message.tenant, MALFORMED, "svc_audit", None, message.id, now, "", digest_of(message.data)
    )
    return fields, v1.leaf(fields, salt)
