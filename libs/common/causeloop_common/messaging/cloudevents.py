"""Events as they travel: CloudEvents 1.0, NATS binding, binary mode. JetStream deduplicates by the event's id."""

import re
from datetime import datetime

from nats.aio.msg import Msg

from causeloop_common import ids
from causeloop_common.contracts.base import Announced
from causeloop_common.messaging.wire import TRACEPARENT

_ATTRIBUTES = ("ce-actor", "ce-credential", "ce-subject", "ce-requestid", TRACEPARENT)
_ATTRIBUTE = re.compile(r"[\x20-\x7e]{0,256}")
_FIRST_YEAR, _LAST_YEAR = 2000, 9000


def announced(message: Msg) -> Announced:
    """An event as it arrived; ValueError or KeyError if it is none.

    Tenant and type are taken from the subject, which the bus guards, and never from what the sender wrote.
    """
    _, tenant, service, name = message.subject.split(".")
    headers = message.headers or {}
    ids.tenant_uuid(tenant)
    ids.decode(headers["ce-id"], "evt")
    if not all(_ATTRIBUTE.fullmatch(headers.get(name, "")) for name in _ATTRIBUTES):
        raise ValueError("an attribute is too long or not printable ASCII")
    occurred_at = datetime.fromisoformat(headers["ce-time"])
    if occurred_at.tzinfo is None or not _FIRST_YEAR <= occurred_at.year <= _LAST_YEAR:
        raise ValueError("the time has no zone or is out of bounds")
    return Announced(
        id=headers["ce-id"],
        tenant=tenant,
        type=f"{service}.{name}",
        occurred_at=occurred_at,
        actor=headers["ce-actor"],
        credential=headers.get("ce-credential"),
        target=headers["ce-subject"],
        request_id=headers.get("ce-requestid", ""),
        traceparent=headers.get(TRACEPARENT, ""),
        data=message.data,
    )


def event_headers(event: Announced) -> dict[str, str]:
    """The headers with which an event travels; `announced` reads them."""
    headers = {
        "Nats-Msg-Id": event.id,
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": f"/causeloop/{event.type.partition('.')[0]}",
        "ce-type": event.type,
        "ce-subject": event.target,
        "ce-time": event.occurred_at.isoformat(),
        "ce-actor": event.actor,
        "ce-requestid": event.request_id,
        "content-type": "application/json",
        TRACEPARENT: event.traceparent,
    }
    if event.credential is not None:
        headers["ce-credential"] = event.credential
    return headers
