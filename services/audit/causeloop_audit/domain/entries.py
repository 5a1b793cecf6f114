"""The entry that a message of the event stream becomes.

An event is entered as it is. A message that cannot be read as an event, whose data has no canonical form, or whose
entry would be larger than `LARGEST`, is entered as `audit.malformed` with its size and digest: nothing stays out of the
log because of its form, and nothing in the log keeps it from being read, streamed and verified.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from causeloop_common import ids
from causeloop_common.contracts.announced import Announced, digest, event_headers, raw_digest
from causeloop_log.entry import LARGEST, MALFORMED, NotCanonical, digest_of, read_data, v1
from causeloop_log.tlog.merkle import leaf_hash

_TOKENS = 4
"""Of an event's subject: `evt.<tenant>.<service>.<event>`."""


class Unreadable(NamedTuple):
    """A message that is no event: the subject to which it was published, its headers, and its data."""

    subject: str
    headers: Mapping[str, str]
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
    def service(self) -> str:
        """The service in the subject, where there is one."""
        tokens = self.subject.split(".")
        return tokens[2] if len(tokens) == _TOKENS else ""

    @property
    def id(self) -> str:
        """The id that it claims; without one, an id that is the same for the same message, however often it comes."""
        claimed = self.headers.get("ce-id", "")
        try:
            ids.decode(claimed, "evt")
        except ValueError:
            return ids.derived("evt", self.subject.encode() + b"\n" + self.data)
        return claimed


class NewEntry(NamedTuple):
    """An entry before it has its index. The fields are in the order of the table's columns."""

    log: UUID
    service: str
    event: UUID
    digest: bytes
    action: str
    actor: str
    credential: str | None
    target: str
    request_id: str
    occurred_at: datetime
    leaf_hash: bytes
    leaf: str


def identity(message: Announced | Unreadable) -> tuple[UUID, str, UUID]:
    """An event is known by these: its tenant, its service, its id. A log has one entry of each."""
    service = message.type.partition(".")[0] if isinstance(message, Announced) else message.service
    return ids.tenant_uuid(message.tenant), service, ids.decode(message.id, "evt")


def digest_of_message(message: Announced | Unreadable) -> bytes:
    """The digest by which the announcing service recognizes its event."""
    return digest(message) if isinstance(message, Announced) else raw_digest(*message)


def new_entry(message: Announced | Unreadable, salt: bytes, now: datetime) -> NewEntry:
    """The entry of a message. `now` is the time of an entry that is malformed."""
    fields, leaf = _written(message, salt, now)
    return NewEntry(
        *identity(message), digest_of_message(message), fields.action, fields.actor, fields.credential, fields.target,
        fields.request_id, fields.occurred_at, leaf_hash(leaf), leaf.decode(),
    )  # fmt: skip


def unreadable(message: Announced | Unreadable) -> Unreadable:
    """A message whose entry the database refuses, as one that is no event. It stays the same event."""
    if isinstance(message, Unreadable):
        return message
    return Unreadable(f"evt.{message.tenant}.{message.type}", event_headers(message), message.data)


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
