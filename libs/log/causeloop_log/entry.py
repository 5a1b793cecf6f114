"""The entry format, version 1. Frozen: what is in a log is verified by these bytes for ever.

The leaf is one line of canonical JSON, stored as text and hashed as stored:

    {"action":"vault.secret_written","actor":"usr_…","credential":"ses_…","data":{…},"id":"evt_…","request":"…",
     "salt":"32 hex digits","target":"sec_…","tenant":"ws_…","time":"2026-01-02T03:04:05.678901+00:00","v":1}

Keys are ASCII and sorted, there is no white space, there are no floats and no integers beyond 2^53: on these values
sorted compact JSON is RFC 8785. The salt is 128 random bits, so that an entry whose payload retention removed cannot be
guessed from its hash. An event that is not such a value is entered as `audit.malformed`, with its digest.
"""

import hashlib
from datetime import datetime
from typing import Any, NamedTuple

import orjson

VERSION = 1
SALT_BYTES = 16
MALFORMED = "audit.malformed"
_FIELDS = frozenset(("action", "actor", "credential", "data", "id", "request", "salt", "target", "tenant", "time", "v"))
_TEXTS = _FIELDS - {"credential", "data", "v"}
_LARGEST = 2**53
_DEEPEST = 16


class NotCanonical(ValueError):
    """The value has no canonical form here."""


class EntryFields(NamedTuple):
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


def leaf(fields: EntryFields, salt: bytes) -> bytes:
    """The leaf's bytes; NotCanonical when the data has no canonical form."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"An entry needs {SALT_BYTES} random bytes of salt.")
    _check(fields.data, 0)
    value = {
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
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise NotCanonical("contains text that is not Unicode") from error  # half of a surrogate pair


def read_leaf(leaf: bytes) -> dict[str, Any]:
    """The value of a stored leaf; NotCanonical unless these are the very bytes that `leaf` writes for it."""
    value = read_data(leaf)
    if frozenset(value) != _FIELDS or type(value["v"]) is not int or value["v"] != VERSION:
        raise NotCanonical(f"is not an entry of version {VERSION}")
    if not all(type(value[name]) is str for name in _TEXTS) or type(value["data"]) is not dict:
        raise NotCanonical("has a field of another type")
    if value["credential"] is not None and type(value["credential"]) is not str:
        raise NotCanonical("has a field of another type")
    _check(value["data"], 0)
    if orjson.dumps(value, option=orjson.OPT_SORT_KEYS) != leaf:
        raise NotCanonical("is written in another than its one form")
    return value


def read_data(text: bytes) -> dict[str, Any]:
    """An event's data; NotCanonical when it is no JSON object. Whether an entry can hold it, `leaf` finds out."""
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotCanonical("is not JSON") from error
    if not isinstance(data, dict):
        raise NotCanonical("is not an object")
    return data


def digest_of(raw: bytes) -> dict[str, Any]:
    """What an unreadable event is remembered by."""
    return {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}


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
            if abs(value) > _LARGEST:
                raise NotCanonical("has an integer beyond 2^53")
        case list():
            for item in value:
                _check(item, depth + 1)
        case _:
            raise NotCanonical(f"has a value of type {type(value).__name__}")
