"""Version 2 of the entry format.

One line of canonical JSON (RFC 8785), stored as text and hashed as stored; wrapped here, without white space there:

    {"action":"vault.secret_revealed","actor":"svc_…","actor_kind":"service_account",
     "address":{"key":"usr_…","text":"clv1:1:…"},"credential":"tok_…","data":{…},"id":"evt_…","on_behalf_of":"usr_…",
     "outcome":"success","request":"req_…","salt":"32 hex digits","source":"vault","target":"sec_…",
     "target_kind":"secret","tenant":"ws_…","time":"2026-01-02T03:04:05.678901Z","user_agent":null,"v":2}

Every field is there in every entry; `Entry` has their meanings. A reader refuses a leaf that breaks one of `RULES`.

A proof file has the entry in it, in base64. `LARGEST` keeps the file of the longest proof, with one signature, below
64 KiB, and an entry below what a tile of C2SP tlog-tiles can hold.
"""

import re
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NoReturn

from causeloop_log.entry.canonical import LARGEST_INTEGER, NotCanonical, written
from causeloop_log.entry.value import Entry, Sealed

VERSION = 2
LARGEST = 45 * 1024
"""Bytes of a leaf."""

RULES = {
    1: f"a leaf has at most {LARGEST} bytes",
    2: "a leaf is a JSON object in UTF-8, without half a surrogate pair",
    3: "the fields are those of version 2, all of them and no others, and v is the integer 2",
    4: "an id or action is 1 to 256 printable ASCII characters without spaces, "
    "or null for credential, on_behalf_of and request",
    5: "source and target_kind match [a-z][a-z0-9_]{0,63}, actor_kind is person, service_account or service, "
    "outcome is success, denied or failure",
    6: "time is UTC in the form 2026-01-02T03:04:05.678901Z, a moment that exists, from the year 1970 on",
    7: "salt is 32 hexadecimal digits in lower case",
    8: "on_behalf_of is not the actor",
    9: "address and user_agent are null, or an object of key (an id) and text "
    "(1 to 1024 printable ASCII characters without spaces)",
    10: "data is an object",
    11: "objects and arrays are nested at most 16 deep, data being the first",
    12: "a key in data is 1 to 128 printable ASCII characters without spaces",
    13: "a text in data does not contain the character NUL",
    14: "a number in data is an integer from -2^53 to 2^53, written without fraction and exponent",
    15: "a leaf is written in its one form: sorted keys, no white space, no escape that is not needed (RFC 8785)",
}
"""The definition of a leaf. The numbers never change."""

_FIELDS = frozenset(
    (
        "action", "actor", "actor_kind", "address", "credential", "data", "id", "on_behalf_of", "outcome", "request",
        "salt", "source", "target", "target_kind", "tenant", "time", "user_agent", "v",
    )
)  # fmt: skip
_ID = "[!-~]{1,256}"
_WORD = "[a-z][a-z0-9_]{0,63}"
_FORMS = {
    "action": _ID, "actor": _ID, "id": _ID, "target": _ID, "tenant": _ID,
    "source": _WORD, "target_kind": _WORD,
    "actor_kind": "(?:person|service_account|service)", "outcome": "(?:success|denied|failure)",
    "time": r"(?:19[7-9][0-9]|[2-9][0-9]{3})-[01][0-9]-[0-3][0-9]"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z",
    "salt": "[0-9a-f]{32}",
    "credential": _ID, "on_behalf_of": _ID, "request": _ID,
}  # fmt: skip
"""Every field that is a text, and its form, in which there is no space; the last three may be null."""
_OPTIONAL = ("credential", "on_behalf_of", "request")
_SEALED = frozenset(("key", "text"))
_DEEPEST = 16

_id = re.compile(_ID).fullmatch
_texts = re.compile(" ".join(_FORMS.values())).fullmatch
_sealed_text = re.compile("[!-~]{1,1024}").fullmatch
_key = re.compile("[!-~]{1,128}").fullmatch
_firm, _optional = itemgetter(*list(_FORMS)[:-3]), itemgetter(*_OPTIONAL)


def leaf(entry: Entry) -> bytes:
    """The leaf's bytes; NotCanonical when the entry breaks a rule."""
    value = entry._asdict()
    value["v"] = value.pop("version")
    value |= {"address": _value_of(entry.address), "user_agent": _value_of(entry.user_agent)}
    _check(value)
    leaf = written(value)
    if len(leaf) > LARGEST:
        _refuse(1, f"it has {len(leaf)}")
    return leaf


def entry_of(value: dict[str, Any], leaf: bytes) -> Entry:
    """The entry of a leaf whose JSON is this value; NotCanonical when the leaf breaks a rule."""
    if len(leaf) > LARGEST:
        _refuse(1, f"it has {len(leaf)}")
    _check(value)
    if written(value) != leaf:
        _refuse(15)
    return Entry(
        VERSION, value["id"], value["source"], value["tenant"], value["time"], value["action"], value["outcome"],
        value["actor"], value["actor_kind"], value["on_behalf_of"], value["credential"], value["target"],
        value["target_kind"], value["request"], _sealed_of(value["address"]), _sealed_of(value["user_agent"]),
        value["data"], value["salt"],
    )  # fmt: skip


def time_of(moment: datetime) -> str:
    """The form that a moment has in an entry; ValueError when it has no time zone."""
    if moment.tzinfo is None:
        raise ValueError("A moment without a time zone is no moment.")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _check(value: dict[str, Any]) -> None:
    """Rules 3 to 14."""
    if value.keys() != _FIELDS or type(value["v"]) is not int or value["v"] != VERSION:
        _refuse(3)
    if not _texts_fit(value):
        _refuse_a_text(value)
    if not _exists(value["time"]):
        _refuse(6)
    if value["on_behalf_of"] == value["actor"]:
        _refuse(8)
    _check_sealed(value, "address")
    _check_sealed(value, "user_agent")
    if type(value["data"]) is not dict:
        _refuse(10)
    _check_data(value["data"], 1)


def _texts_fit(value: dict[str, Any]) -> bool:
    """Whether the texts have their forms: one look at all of them costs a third of one at each."""
    credential, behalf, request = _optional(value)
    try:
        joined = " ".join(
            (
                *_firm(value),
                "-" if credential is None else credential,
                "-" if behalf is None else behalf,
                "-" if request is None else request,
            )
        )
    except TypeError:  # one of them is not a text
        return False
    return _texts(joined) is not None


def _refuse_a_text(value: dict[str, Any]) -> NoReturn:
    """Name the text that does not have its form."""
    name = next(
        name
        for name, form in _FORMS.items()
        if not (name in _OPTIONAL and value[name] is None)
        and (type(value[name]) is not str or re.fullmatch(form, value[name]) is None)
    )
    _refuse({"time": 6, "salt": 7}.get(name, 4 if _FORMS[name] == _ID else 5), name)


def _exists(time: str) -> bool:
    try:
        datetime.fromisoformat(time)
    except ValueError:  # such as the 30th of February
        return False
    return True


def _check_sealed(value: dict[str, Any], name: str) -> None:
    sealed = value[name]
    if sealed is None:
        return
    if type(sealed) is not dict or sealed.keys() != _SEALED:
        _refuse(9, name)
    key, text = sealed["key"], sealed["text"]
    if type(key) is not str or _id(key) is None or type(text) is not str or _sealed_text(text) is None:
        _refuse(9, name)


def _value_of(sealed: Sealed | None) -> dict[str, str] | None:
    return None if sealed is None else {"key": sealed.key, "text": sealed.text}


def _sealed_of(value: dict[str, str] | None) -> Sealed | None:
    return None if value is None else Sealed(value["key"], value["text"])


def _check_data(value: Any, depth: int) -> None:
    """Rules 11 to 14 of what is inside so many objects and arrays."""
    kind = type(value)
    if kind is str:
        if "\x00" in value:  # PostgreSQL text cannot hold it
            _refuse(13)
    elif kind is dict or kind is list:
        if depth > _DEEPEST:
            _refuse(11)
        if kind is dict:
            for key in value:
                if type(key) is not str or _key(key) is None:
                    _refuse(12)
        for item in value.values() if kind is dict else value:
            if type(item) is not str or "\x00" in item:  # most are texts without one
                _check_data(item, depth + 1)
    elif kind is int:
        if abs(value) > LARGEST_INTEGER:
            _refuse(14)
    elif kind is not bool and value is not None:
        _refuse(14, f"there is a {kind.__name__}")


def _refuse(rule: int, what: str = "") -> NoReturn:
    raise NotCanonical(f"breaks rule {rule} of version 2, {RULES[rule]}{what and f': {what}'}", rule)
