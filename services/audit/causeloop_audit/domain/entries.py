"""The entry that a message of the event stream becomes.

An event is entered as it is. A message that cannot be read as an event, whose data has no canonical form, or whose
entry would be larger than `LARGEST`, is entered as `audit.malformed` with its size and digest: nothing stays out of the
log because of its form, and nothing in the log keeps it from being read, streamed and verified.

An entry is a function of its message, and of a key of audit where the message has no salt: entered again, after a
restore of the database, it is the same entry.
"""

import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from causeloop_common import ids
from causeloop_common.contracts.announced import ATTRIBUTES, Announced, digest, event_headers, raw_digest, read_time
from causeloop_log.entry import LARGEST, MALFORMED, NotCanonical, digest_of, read_data, v1
from causeloop_log.tlog.merkle import leaf_hash

_SALT = re.compile(f"[0-9a-f]{{{2 * v1.SALT_BYTES}}}")
_TOKENS = 4
"""Of an event's subject: `evt.<tenant>.<service>.<event>`."""


class Unreadable(NamedTuple):
    """A message that is no event: the subject to which it was published, its headers, its data, and when it came."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    came_at: datetime
    """The time at which the stream stored it."""

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

    @property
    def occurred_at(self) -> datetime:
        """The time that it claims; the one at which it came, where it claims none that can be read."""
        try:
            return read_time(self.headers.get(ATTRIBUTES["occurred_at"].header, ""))
        except ValueError:
            return self.came_at

    @property
    def salt(self) -> str | None:
        """The salt that it brings, if any."""
        return self.headers.get(ATTRIBUTES["salt"].header)


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
    if isinstance(message, Announced):
        return digest(message)
    return raw_digest(message.subject, message.headers, message.data)


def new_entry(message: Announced | Unreadable, key: bytes) -> NewEntry:
    """The entry of a message. Where it brings no salt, the entry's is made with this key: nobody else can guess it."""
    known_by = digest_of_message(message)
    if message.salt is not None and _SALT.fullmatch(message.salt):
        salt = bytes.fromhex(message.salt)
    else:
        salt = hmac.digest(key, known_by, "sha256")[: v1.SALT_BYTES]
    fields, leaf = _written(message, salt)
    return NewEntry(
        *identity(message), known_by, fields.action, fields.actor, fields.credential, fields.target,
        fields.request_id, fields.occurred_at, leaf_hash(leaf), leaf.decode(),
    )  # fmt: skip


def unreadable(message: Announced | Unreadable) -> Unreadable:
    """A message whose entry the database refuses, as one that is no event. It stays the same event."""
    if isinstance(message, Unreadable):
        return message
    subject = f"evt.{message.tenant}.{message.type}"
    return Unreadable(subject, event_headers(message), message.data, message.occurred_at)


def _written(message: Announced | Unreadable, salt: bytes) -> tuple[v1.Fields, bytes]:
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
        message.id, message.tenant, MALFORMED, "svc_audit", None, message.id, message.occurred_at, "",
        digest_of(message.data),
    )  # fmt: skip
    return fields, v1.leaf(fields, salt)
