"""An event as it is announced: its data, and the attributes around it (CloudEvents 1.0), each declared once.

A line of `Announced` names an attribute, its header on the bus and its description. The outbox's columns and statement,
the relay's query, the headers that are written and read, and the AsyncAPI document follow from these lines. A new text
is one line, its value in `outbox.row`, and a migration of the outboxes that exist.

The salt is made with the event, so that its entry is the same whenever the log enters it.
"""

import hashlib
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, NamedTuple, get_type_hints


class Attribute(NamedTuple):
    """An attribute's header on the bus, and its description."""

    header: str
    description: str


class Announced(NamedTuple):
    """One event. Tenant and type are its subject, which the bus guards; those after `data` are short texts."""

    id: Annotated[str, Attribute("ce-id", "The event's id.")]
    tenant: str
    type: Annotated[str, Attribute("ce-type", "Service and event, such as `vault.secret_written`.")]
    occurred_at: Annotated[datetime, Attribute("ce-time", "The time of the act, RFC 3339.")]
    data: bytes
    actor: Annotated[str, Attribute("ce-actor", "The principal who acted.")]
    target: Annotated[str, Attribute("ce-subject", "The id of the target: the thing that was acted on.")]
    credential: Annotated[str | None, Attribute("ce-credential", "The session or token they used, if any.")] = None
    on_behalf_of: Annotated[
        str | None, Attribute("ce-onbehalfof", "The principal for whom they acted, if that is another one.")
    ] = None
    request_id: Annotated[str, Attribute("ce-requestid", "The id of the request that caused the event.")] = ""
    traceparent: Annotated[str, Attribute("traceparent", "W3C Trace Context.")] = ""
    salt: Annotated[
        str | None, Attribute("ce-salt", "The salt of the event's entry in the log: 16 random bytes in hex digits.")
    ] = None


ATTRIBUTES: dict[str, Attribute] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Announced, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}
"""Every attribute that has a header."""

DEFAULTS = Announced._field_defaults
"""The values of attributes that a message may lack. One whose default is None is not written then."""

TEXTS = Announced._fields[Announced._fields.index("data") + 1 :]
"""The names of the short texts: alike in the outbox and on the bus."""

_HEADERS = tuple(ATTRIBUTES[name].header for name in TEXTS)
_OMITTED = tuple(ATTRIBUTES[name].header for name in TEXTS if DEFAULTS.get(name, "") is None)
_COUNTED = tuple(
    ATTRIBUTES[name].header
    for name in ("id", "occurred_at", "actor", "target", "credential", "on_behalf_of", "request_id")
)
_ABSENT = "\0"
_SALT_BYTES = 16
_FIRST_YEAR, _LAST_YEAR = 2000, 9000


def new_salt() -> str:
    """The salt of a new event."""
    return os.urandom(_SALT_BYTES).hex()


def read_time(text: str) -> datetime:
    """The time of an event, as its header has it; ValueError without a zone, and before 2000 or after 9000."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None or not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise ValueError("the time has no zone or is out of bounds")
    return time


def event_headers(event: Announced) -> dict[str, str]:
    """The headers with which an event travels; `messaging.announced` reads them."""
    headers: dict[str, str] = dict(zip(_HEADERS, event[-len(_HEADERS) :], strict=True))  # type: ignore[arg-type]
    for header in _OMITTED:
        if headers[header] is None:
            del headers[header]
    headers["ce-id"] = event.id
    headers["ce-specversion"] = "1.0"
    headers["ce-source"] = f"/causeloop/{event.type.partition('.')[0]}"
    headers["ce-type"] = event.type
    headers["ce-time"] = event.occurred_at.isoformat()
    headers["content-type"] = "application/json"
    return headers


def digest(event: Announced) -> bytes:
    """SHA-256 of what counts of an event: salt, subject, attributes, data; not its trace, which is of one publishing.

    Relay and log make it from the same values, so equal digests mean that the log has the very event of the outbox.
    """
    return _hash(
        event.salt, f"evt.{event.tenant}.{event.type}", event.data, event.id, event.occurred_at.isoformat(),
        event.actor, event.target, event.credential, event.on_behalf_of, event.request_id,
    )  # fmt: skip


def raw_digest(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
    """The digest of a message that need not be an event; of an event as it travels, `digest` of it."""
    return _hash(headers.get(ATTRIBUTES["salt"].header), subject, data, *map(headers.get, _COUNTED))


def _hash(salt: str | None, subject: str, data: bytes, *values: str | None) -> bytes:
    """One value a line: a header is one line, and a subject begins with `evt.`, so the lines have one reading."""
    salted = [] if salt is None else [f"salt {salt}"]
    lines = "\n".join([*salted, subject, *[_ABSENT if value is None else value for value in values], ""])
    return hashlib.sha256(lines.encode() + data).digest()
