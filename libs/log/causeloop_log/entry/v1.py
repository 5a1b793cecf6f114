"""Version 1 of the entry format. Frozen: entries in it are verified by these bytes for ever.

The leaf is one line of canonical JSON, stored as text and hashed as stored:

    {"action":"vault.secret_written","actor":"usr_…","credential":"ses_…","data":{…},"id":"evt_…","request":"…",
     "salt":"32 hex digits","target":"sec_…","tenant":"ws_…","time":"2026-01-02T03:04:05.678901+00:00","v":1}

Keys are ASCII and sorted, there is no white space, there are no floats and no integers beyond 2^53. In data, keys and
texts are without the character NUL, and values are nested at most 16 deep, texts 17. An event that is not such a value
is entered as `audit.malformed`, with its digest.
"""

from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from causeloop_log.entry.canonical import LARGEST_INTEGER, NotCanonical, written
from causeloop_log.entry.value import Entry

VERSION = 1
SALT_BYTES = 16
_DEEPEST = 16
_FIELDS = ("action", "actor", "credential", "data", "id", "request", "salt", "target", "tenant", "time", "v")
_fields = itemgetter(*_FIELDS)


class Fields(NamedTuple):
    """An entry before it is salted."""

    id: str
    tenant: str
    action: str
    actor: str
    credential: str | None
    target: str
    occurred_at: datetime
    request_id: str
    data: dict[str, Any]


def leaf(fields: Fields, salt: bytes) -> bytes:
    """The leaf's bytes; NotCanonical when the data has no canonical form."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"An entry needs {SALT_BYTES} random bytes of salt.")
    _check(fields.data, 0)
    return written(
        {
            "action": fields.action,
            "actor": fields.actor,
            "credential": fields.credential,
            "data": fields.data,
            "id": fields.id,
            "request": fields.request_id,
            "salt": salt.hex(),
            "target": fields.target,
            "tenant": fields.tenant,
            "time": fields.occurred_at.isoformat(),
            "v": VERSION,
        }
    )


def entry_of(value: dict[str, Any], leaf: bytes) -> Entry:
    """The entry of a leaf whose JSON is this value; NotCanonical unless these are the very bytes written for it."""
    try:
        action, actor, credential, data, event, request, salt, target, tenant, time, _ = _fields(value)
    except KeyError as error:
        raise NotCanonical(f"is not an entry of version {VERSION}") from error
    if len(value) != len(_FIELDS):
        raise NotCanonical(f"is not an entry of version {VERSION}")
    # A chain, which takes a third of a loop's time: whole logs are read.
    if not (
        type(action) is type(actor) is type(event) is type(request) is type(salt) is type(target) is type(tenant)
        is type(time) is str and (credential is None or type(credential) is str) and type(data) is dict
    ):  # fmt: skip
        raise NotCanonical("has a field of another type")
    _check(data, 0)
    if written(value) != leaf:
        raise NotCanonical("is written in another than its one form")
    return Entry(
        VERSION, event, None, tenant, time, action, None, actor, None, None, credential, target, None, request,
        None, None, data, salt,
    )  # fmt: skip


def _check(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise NotCanonical("is nested too deep")
    match value:
        case dict():
            for key, item in value.items():
                if not key.isascii() or "\x00" in key:
                    raise NotCanonical("has a key that is not ASCII")
                if type(item) is not str or "\x00" in item:  # most are texts without one
                    _check(item, depth + 1)
        case str():
            if "\x00" in value:
                raise NotCanonical("contains a NUL character")  # PostgreSQL text cannot hold it
        case bool() | None:
            return
        case int():
            if abs(value) > LARGEST_INTEGER:
                raise NotCanonical("has an integer beyond 2^53")
        case list():
            for item in value:
                _check(item, depth + 1)
        case _:
            raise NotCanonical(f"has a value of type {type(value).__name__}")
