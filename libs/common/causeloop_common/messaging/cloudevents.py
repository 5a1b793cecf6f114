"""Events as they travel: CloudEvents 1.0, NATS binding, binary mode."""

import re
from collections.abc import Mapping
from typing import Any

from nats.aio.msg import Msg

from causeloop_common import ids
from causeloop_common.contracts.announced import ATTRIBUTES, DEFAULTS, TEXTS, Announced, read_time

_MISSING = "\0"
"""In place of an attribute that an event must have: refused like every text that is not printable."""
_TEXTS = tuple((ATTRIBUTES[name].header, DEFAULTS.get(name, _MISSING)) for name in TEXTS)
SUBJECT = "Causeloop-Subject"
"""The header with the subject of the event that became a dead letter."""
FAILURE = "Causeloop-Failure"
"""The header with the kind of error for which an event became a dead letter; without its words, which may be secret."""
_CARRIED = frozenset(
    ("content-type", "ce-specversion", "ce-source", *(attribute.header for attribute in ATTRIBUTES.values()))
)
_LONGEST_SUBJECT = 1024
_SHORT = re.compile(r"[\x20-\x7e]{0,256}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def public_subject(stored: str) -> str:
    """The subject to which an event was published; the stream keeps it with its partition (`topology.EVENTS`)."""
    kind, *tokens = stored.split(".")
    return ".".join((kind, *tokens[1:])) if len(tokens) == 4 and tokens[0].isdecimal() else stored


def announced(message: Msg) -> Announced:
    """An event as it arrived; ValueError or KeyError if it is none.

    Tenant and type are taken from the subject, which the bus guards, and never from what the sender wrote.
    """
    headers = message.headers or {}
    was_dead = message.subject.startswith("redrive.")  # the operator alone publishes there
    return read_event(headers[SUBJECT] if was_dead else public_subject(message.subject), headers, message.data)


def letter_headers(subject: str, headers: Mapping[str, str], failure: str) -> dict[str, str]:
    """The headers of the dead letter of a message that came so; `failure` is the kind of its error.

    It has of the message's own headers those of an event, where they can be read. Others could steer the stream, keep
    the letter out of it, or make it larger than fits.
    """
    carried = {name: text for name, text in headers.items() if name in _CARRIED and _SHORT.fullmatch(text) is not None}
    return {**carried, SUBJECT: headers.get(SUBJECT, subject)[:_LONGEST_SUBJECT], FAILURE: failure}


def read_event(subject: str, headers: Mapping[str, str], data: bytes) -> Announced:
    """The event that was published so; ValueError or KeyError if it is none."""
    _, tenant, service, name = subject.split(".")
    if _NAME.fullmatch(service) is None or _NAME.fullmatch(name) is None:
        raise ValueError("the subject's service or event is no name")
    ids.tenant_uuid(tenant)
    ids.decode(headers["ce-id"], "evt")
    occurred_at = read_time(headers["ce-time"])
    texts: list[Any] = [headers.get(header, default) for header, default in _TEXTS]
    for text in texts:
        if text is not None and _SHORT.fullmatch(text) is None:
            raise ValueError("an attribute is missing, too long or not printable ASCII")
    return Announced(headers["ce-id"], tenant, f"{service}.{name}", occurred_at, data, *texts)
