"""Vectors of entries: leaves that are entries, with value and hash, and leaves that are refused, with the reason."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from causeloop_log import entry
from causeloop_log.entry import Entry, Sealed, v1, v2
from causeloop_log.tlog.merkle import leaf_hash

TENANT = "ws_01h455vb4pex5vsknk084sn02r"
PERSON = "usr_2sp9rtw6xwg79stgcjk0bz9cbf"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

V1 = v1.Fields(
    id="evt_01h455vb4pex5vsknk084sn02q",
    tenant=TENANT,
    action="vault.secret_written",
    actor=PERSON,
    credential="ses_01h455vb4pex5vsknk084sn02s",
    target="sec_01h455vb4pex5vsknk084sn02t",
    occurred_at=MOMENT,
    request_id="req_01h455vb4pex5vsknk084sn02v",
    data={"version": 3, "path": "db/password"},
)
SALT = bytes(range(16))
V2 = Entry(
    version=2,
    id="evt_01h455vb4pex5vsknk084sn02q",
    source="vault",
    tenant=TENANT,
    time="2026-01-02T03:04:05.678901Z",
    action="vault.secret_revealed",
    outcome="success",
    actor="svc_01h455vb4pex5vsknk084sn02w",
    actor_kind="service_account",
    on_behalf_of=PERSON,
    credential="tok_01h455vb4pex5vsknk084sn02x",
    target="sec_01h455vb4pex5vsknk084sn02t",
    target_kind="secret",
    request="req_01h455vb4pex5vsknk084sn02v",
    address=Sealed(PERSON, "clv1:1:" + base64.b64encode(bytes(range(24))).decode()),
    user_agent=Sealed(PERSON, "clv1:1:" + base64.b64encode(bytes(range(24, 60))).decode()),
    data={"version": 3, "path": "db/password"},
    salt=SALT.hex(),
)
DATA: dict[str, dict[str, Any]] = {
    "nothing": {},
    "text of all kinds": {"note": 'é\n"\\/\u2028\u200d\x7f\x1f\U0001f511', "empty": ""},
    "the largest integers": {"most": 2**53, "least": -(2**53), "zero": 0},
    "true, false and null": {"yes": True, "no": False, "none": None},
    "arrays and objects": {"list": [1, "b", None, [], {}], "object": {"a": {"b": []}}},
    "keys in another order": {"b": 1, "a": 2, "B": 3, "_": 4, "a.b": 5, "10": 6, "9": 7},
}


def nested(depth: int, innermost: dict[str, Any] | None = None) -> dict[str, Any]:
    """Data of so many objects, one in the other."""
    return {"a": nested(depth - 1, innermost)} if depth > 1 else innermost or {}


def entries_v1() -> dict[str, Any]:
    accepted = {
        "an entry": V1,
        "no credential, no request": V1._replace(credential=None, request_id=""),
        "a full second": V1._replace(occurred_at=MOMENT.replace(microsecond=0)),
        "an unreadable event": V1._replace(
            action=entry.MALFORMED, actor="svc_audit", credential=None, target=V1.id, data=entry.digest_of(b"\xff")
        ),
        "a text as deep as can be": V1._replace(data=nested(17, {"a": "x"})),
        "a number as deep as can be": V1._replace(data=nested(16, {"a": 1})),
        "keys of all kinds": V1._replace(data={"": 1, " ": 2, "\x1f": 3, "k" * 300: 4}),
        "texts without a bound": V1._replace(action=f"a\u200b{'b' * 300}"),
        **{name: V1._replace(data=data) for name, data in DATA.items()},
    }
    leaf = v1.leaf(V1, SALT)
    bent = {
        "not JSON": (leaf[:-1], "is not JSON"),
        "not UTF-8": (leaf.replace(b"db/", b"\xff/"), "is not JSON"),
        "not an object": (b"[]", "is not an object"),
        "no fields": (b"{}", "is not an entry of version 1 or 2"),
        "a field missing": (changed(leaf, lambda value: value.pop("salt")), "is not an entry of version 1"),
        "a field too many": (changed(leaf, lambda value: value.update(x=1)), "is not an entry of version 1"),
        "version true": (leaf.replace(b'"v":1', b'"v":true'), "is not an entry of version 1"),
        "version 1.0": (leaf.replace(b'"v":1', b'"v":1.0'), "is not an entry of version 1"),
        "version 3": (leaf.replace(b'"v":1', b'"v":3'), "is not an entry of version 1 or 2"),
        "a list for a text": (changed(leaf, lambda value: value.update(id=[])), "has a field of another type"),
        "a number for the credential": (
            changed(leaf, lambda value: value.update(credential=1)), "has a field of another type"
        ),
        "a float": (leaf.replace(b":3}", b":3.0}"), "has a value of type float"),
        "an integer beyond 2^53": (leaf.replace(b":3}", b":9007199254740993}"), "has an integer beyond"),
        "the character NUL": (leaf.replace(b"db/", b"\\u0000"), "contains a NUL character"),
        "a key that is not ASCII": (leaf.replace(b'"path"', '"päth"'.encode()), "has a key that is not ASCII"),
        "nested too deep": (changed(leaf, lambda value: value.update(data=nested(18))), "is nested too deep"),
        "a number too deep": (
            changed(leaf, lambda value: value.update(data=nested(17, {"a": 1}))), "is nested too deep"
        ),
        **{name: (text, "is written in another than its one form") for name, text in other_forms(leaf).items()},
    }  # fmt: skip
    return {
        "format": "entry, version 1",
        "accepted": [_accepted(name, v1.leaf(fields, SALT)) for name, fields in accepted.items()],
        "refused": [{"name": name, **_text(leaf), "why": why} for name, (leaf, why) in bent.items()],
    }


def entries_v2() -> dict[str, Any]:
    longest = "x" * 256
    accepted = {
        "an entry": V2,
        "all that may be null": V2._replace(
            on_behalf_of=None, credential=None, request=None, address=None, user_agent=None
        ),
        "one sealed field": V2._replace(address=None),
        "a person, refused": V2._replace(actor=PERSON, actor_kind="person", on_behalf_of=None, outcome="denied"),
        "a service, in vain": V2._replace(actor="svc_vault", actor_kind="service", outcome="failure"),
        "an unreadable event": V2._replace(
            action=entry.MALFORMED, actor="svc_audit", actor_kind="service", on_behalf_of=None, outcome="failure",
            credential=None, target=V2.id, target_kind="event", request=None, address=None, user_agent=None,
            data=entry.digest_of(b"\xff"),
        ),
        "the longest texts": V2._replace(
            id=longest, tenant=longest, action=longest, actor=longest, on_behalf_of="y" * 256, credential=longest,
            target=longest, request=longest, source="s" * 64, target_kind="k" * 64,
            address=Sealed(longest, "z" * 1024), user_agent=Sealed(longest, "z" * 1024), data={"k" * 128: ""},
        ),
        "all that an id may have": V2._replace(id="".join(map(chr, range(0x21, 0x7F)))),
        "the first moment": V2._replace(time="1970-01-01T00:00:00.000000Z"),
        "the last moment": V2._replace(time="9999-12-31T23:59:59.999999Z"),
        "a leap day": V2._replace(time="2028-02-29T00:00:00.000000Z"),
        "nested as deep as can be": V2._replace(data=nested(16, {"a": 1, "b": "x"})),
        "the largest entry": V2._replace(data={"x": "x" * (v2.LARGEST - len(v2.leaf(V2._replace(data={"x": ""}))))}),
        **{name: V2._replace(data=data) for name, data in DATA.items()},
    }  # fmt: skip
    leaf = v2.leaf(V2)

    def with_(**fields: Any) -> bytes:
        return changed(leaf, lambda value: value.update(fields))

    def without(name: str) -> bytes:
        return changed(leaf, lambda value: value.pop(name))

    sealed = {"key": PERSON, "text": "clv1:1:AAAA"}
    bent: dict[str, tuple[int, bytes]] = {
        "one byte too large": (1, v2.leaf(accepted["the largest entry"]).replace(b'"xx', b'"xxx')),
        "not JSON": (2, leaf[:-1]),
        "not UTF-8": (2, leaf.replace(b"db/", b"\xff/")),
        "half a surrogate pair": (2, leaf.replace(b"db/", b"\\ud83d")),
        "not an object": (2, b"[]"),
        "NaN": (2, leaf.replace(b":3}", b":NaN}")),
        "a byte order mark": (2, b"\xef\xbb\xbf" + leaf),
        **{f"no {name}": (3, without(name)) for name in sorted(json.loads(leaf))},
        "a field too many": (3, with_(severity="low")),
        "a field of version 1 too many": (3, with_(request_id="req_1")),
        "version 3": (3, with_(v=3)),
        "version true": (3, with_(v=True)),
        "version 2.0": (3, leaf.replace(b'"v":2', b'"v":2.0')),
        "version as text": (3, with_(v="2")),
        "an empty id": (4, with_(id="")),
        "an id too long": (4, with_(id="x" * 257)),
        "an id with a space": (4, with_(id="evt 1")),
        "an id with a line break": (4, with_(id="evt_1\n")),
        "an id that is not ASCII": (4, with_(id="evt_\u0131")),
        "a number for an id": (4, with_(id=1)),
        "an action too long": (4, with_(action="a" * 3500)),
        "an action with an invisible character": (4, with_(action="vault.secret\u200b_revealed")),
        "an action with a change of direction": (4, with_(action="vault.\u202esecret")),
        "an action with an escape": (4, with_(action="vault.\x1b[2J")),
        "an empty tenant": (4, with_(tenant="")),
        "no actor but null": (4, with_(actor=None)),
        "no target but null": (4, with_(target=None)),
        "an empty credential": (4, with_(credential="")),
        "an empty request": (4, with_(request="")),
        "a list for on_behalf_of": (4, with_(on_behalf_of=[])),
        "a source in upper case": (5, with_(source="Vault")),
        "a source with a point": (5, with_(source="vault.secrets")),
        "an empty target_kind": (5, with_(target_kind="")),
        "a target_kind too long": (5, with_(target_kind="k" * 65)),
        "no target_kind but null": (5, with_(target_kind=None)),
        "an unknown actor_kind": (5, with_(actor_kind="robot")),
        "an unknown outcome": (5, with_(outcome="maybe")),
        "an outcome with a space": (5, with_(outcome="success ")),
        "a time with an offset": (6, with_(time="2026-01-02T03:04:05.678901+00:00")),
        "a time without its microseconds": (6, with_(time="2026-01-02T03:04:05Z")),
        "a time with milliseconds": (6, with_(time="2026-01-02T03:04:05.678Z")),
        "a time without zone": (6, with_(time="2026-01-02T03:04:05.678901")),
        "a time with a space": (6, with_(time="2026-01-02 03:04:05.678901Z")),
        "a time with a small z": (6, with_(time="2026-01-02T03:04:05.678901z")),
        "the 29th of February of a common year": (6, with_(time="2026-02-29T03:04:05.678901Z")),
        "the 13th month": (6, with_(time="2026-13-01T03:04:05.678901Z")),
        "the 24th hour": (6, with_(time="2026-01-02T24:00:00.000000Z")),
        "a leap second": (6, with_(time="2016-12-31T23:59:60.000000Z")),
        "a time before 1970": (6, with_(time="1969-12-31T23:59:59.999999Z")),
        "a time in other digits": (6, with_(time="2026-01-02T03:04:05.67890\u0661Z")),
        "a number for the time": (6, with_(time=1767323045)),
        "a short salt": (7, with_(salt="00" * 15)),
        "a salt in upper case": (7, with_(salt="AB" * 16)),
        "no salt but null": (7, with_(salt=None)),
        "an actor on its own behalf": (8, with_(on_behalf_of=V2.actor)),
        "an address in clear": (9, with_(address="192.0.2.1")),
        "a sealed text without its key": (9, with_(address={"text": "clv1:1:AAAA"})),
        "a sealed text with a clear one": (9, with_(address={**sealed, "clear": "192.0.2.1"})),
        "a sealed text under an empty key": (9, with_(user_agent={**sealed, "key": ""})),
        "an empty sealed text": (9, with_(user_agent={**sealed, "text": ""})),
        "a sealed text too long": (9, with_(user_agent={**sealed, "text": "x" * 1025})),
        "a sealed text with a space": (9, with_(user_agent={**sealed, "text": "Mozilla/5.0 (X11)"})),
        "no data but null": (10, with_(data=None)),
        "a list for data": (10, with_(data=[])),
        "nested too deep": (11, with_(data=nested(17))),
        "lists nested too deep": (11, with_(data={"a": json.loads("[" * 16 + "]" * 16)})),
        "an empty key": (12, with_(data={"": 1})),
        "a key too long": (12, with_(data={"k" * 129: 1})),
        "a key with a space": (12, with_(data={"a b": 1})),
        "a key that is not ASCII": (12, with_(data={"\u00e4": 1})),
        "a key with a line break, deep inside": (12, with_(data={"a": [{"b\n": 1}]})),
        "the character NUL": (13, with_(data={"a": "\x00"})),
        "the character NUL, deep inside": (13, with_(data={"a": [["\x00"]]})),
        "a float": (14, with_(data={"n": 1.5})),
        "a whole float": (14, leaf.replace(b":3}", b":3.0}")),
        "an exponent": (14, leaf.replace(b":3}", b":3e0}")),
        "an integer beyond 2^53": (14, with_(data={"n": 2**53 + 1})),
        "an integer below -2^53": (14, with_(data={"n": [-(2**53) - 1]})),
        "an integer of a hundred digits": (14, leaf.replace(b":3}", b":" + b"9" * 100 + b"}")),
        "minus zero": (15, leaf.replace(b":3}", b":-0}")),
        **{name: (15, text) for name, text in other_forms(leaf).items()},
    }
    return {
        "format": "entry, version 2",
        "rules": {str(number): rule for number, rule in v2.RULES.items()},
        "accepted": [_accepted(name, v2.leaf(value)) for name, value in accepted.items()],
        "refused": [{"name": name, **_text(text), "rule": rule} for name, (rule, text) in bent.items()],
    }


def other_forms(leaf: bytes) -> dict[str, bytes]:
    """The same value in other JSON."""
    value = json.loads(leaf)
    return {
        "white space": leaf.replace(b'{"action"', b'{ "action"', 1),
        "a newline behind": leaf + b"\n",
        "keys out of order": json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode(),
        "keys in data out of order": leaf.replace(
            b'"path":"db/password","version":3', b'"version":3,"path":"db/password"'
        ),
        "a key twice": leaf.replace(b'{"action"', b'{"action":"x","action"', 1),
        "a key in data twice": leaf.replace(b'"version":3', b'"version":2,"version":3'),
        "an escape that is not needed": leaf.replace(b"db/", b"db\\/"),
        "a letter as an escape": leaf.replace(b"db/", b"d\\u0062/"),
    }


def changed(leaf: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A leaf with its value changed, in canonical form."""
    value = json.loads(leaf)
    change(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _accepted(name: str, leaf: bytes) -> dict[str, Any]:
    return {"name": name, **_text(leaf), "leaf_hash": leaf_hash(leaf).hex()}


def _text(leaf: bytes) -> dict[str, str]:
    try:
        return {"leaf": leaf.decode()}
    except UnicodeDecodeError:
        return {"leaf_base64": base64.b64encode(leaf).decode()}
