"""An event as it is announced: its data, and the attributes around it (CloudEvents 1.0), each declared once.

A line of `Announced` names an attribute, its header on the bus and its description. The outbox's columns and statement,
the relay's query, the headers that are written and read, and the AsyncAPI document follow from these lines. A new text
is one line, its value in `outbox.row`, and a migration of the outboxes that exist.
"""

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
