"""Writes causeloop_log/vectors: `python libs/log/tests/vectors.py`. Every run writes the same bytes; a test compares.

entry-v1.json, entry-v2.json    leaves that are entries, with value and hash; leaves that are refused, with the reason
files.json                      exports, checkpoints and proofs that hold, and bent ones, named by their defect
"""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_log import entry, export_file
from causeloop_log.entry import Entry, Sealed, v1, v2
from causeloop_log.export_file import Head
from causeloop_log.tlog import merkle, note
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import Frontier, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof
from causeloop_log.verification import Leaf, Pruned

FOLDER = Path(__file__).parents[1] / "causeloop_log" / "vectors"

TENANT = "ws_01h455vb4pex5vsknk084sn02r"
OTHER_TENANT = "ws_01h455vb4pex5vsknk084sn02s"
PERSON = "usr_2sp9rtw6xwg79stgcjk0bz9cbf"
ORIGIN = f"causeloop.example/log/{TENANT}"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FORGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KEY = VerifierKey(ORIGIN, PRIVATE.public_key().public_bytes_raw())
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


# ---------------------------------------------------------------------------------------------------------- entries
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


# ------------------------------------------------------------------------------------------------------------ files
def a_leaf(number: int, tenant: str = TENANT) -> bytes:
    """An entry of a log in which version 2 begins in the middle."""
    salt, moment = bytes([number]) * 16, MOMENT.replace(minute=number)
    event, target = f"evt_01h455vb4pex5vsknk084sn0{number:02}", f"sec_01h455vb4pex5vsknk084sn1{number:02}"
    if number < 3:
        return v1.leaf(V1._replace(id=event, tenant=tenant, target=target, occurred_at=moment), salt)
    return v2.leaf(
        V2._replace(id=event, tenant=tenant, target=target, time=v2.time_of(moment), salt=salt.hex(), user_agent=None)
    )


LEAVES: list[Leaf] = [a_leaf(number) for number in range(6)]
PRUNED: list[Leaf] = [Pruned(leaf_hash(one)) if n in (1, 4) else one for n, one in enumerate(LEAVES)]  # type: ignore[arg-type]
FORKED: list[Leaf] = [*LEAVES[:2], a_leaf(9), *LEAVES[3:]]


def root_of(leaves: list[Leaf]) -> bytes:
    frontier = Frontier()
    for one in leaves:
        frontier.append(one.leaf_hash if isinstance(one, Pruned) else leaf_hash(one))
    return frontier.root()


def signed(leaves: list[Leaf], private: Ed25519PrivateKey = PRIVATE, origin: str = ORIGIN) -> str:
    return Checkpoint(origin, len(leaves), root_of(leaves)).sign(private)


def export(leaves: list[Leaf], checkpoint: str | None = None, key: VerifierKey = KEY) -> bytes:
    file = BytesIO()
    export_file.write(file, Head(checkpoint or signed(leaves), str(key)), leaves)
    return file.getvalue()


def proof(index: int = 2, leaves: list[Leaf] = LEAVES) -> LogProof:
    paths = [root_of(leaves[span.first : span.last]) for span in merkle.inclusion_spans(index, len(leaves))]
    found = leaves[index]
    return LogProof(index, paths, signed(leaves), found if isinstance(found, bytes) else None)


def with_line(text: bytes, number: int, line: bytes) -> bytes:
    lines = text.split(b"\n")
    lines[number] = line
    return b"\n".join(lines)


def exports() -> dict[str, tuple[int, str, bytes]]:
    """Bent exports: the step that refuses, why, the file."""
    whole, note_ = export(LEAVES), signed(LEAVES)
    head, *entries = whole.splitlines(keepends=True)
    forgers = VerifierKey(ORIGIN, FORGER.public_key().public_bytes_raw())
    pruned = export(PRUNED)
    removed = pruned.split(b"\n")[2]
    hash_ = removed[11:-2]

    def entries_of(leaves: list[Leaf]) -> bytes:
        return export(leaves, note_)

    def headed(**fields: str) -> bytes:
        value = {**json.loads(head), **fields}
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" + b"".join(entries)

    return {
        "empty": (2, "no signatures", b""),
        "not-an-export": (2, "no signatures", b'{"hello":"world"}\n'),
        "byte-order-mark": (2, "no signatures|control", b"\xef\xbb\xbf" + whole),
        "carriage-returns": (1, "first line", whole.replace(b"\n", b"\r\n")),
        "header-of-another-version": (1, "first line", whole.replace(b"export/v1", b"export/v9")),
        "header-with-a-field-too-many": (1, "first line", headed(entries="6")),
        "header-with-a-field-missing": (1, "first line", b'{"causeloop":"log-export/v1"}\n' + b"".join(entries)),
        "header-with-a-key-twice": (1, "first line", whole.replace(b'"key":', b'"key":"","key":', 1)),
        "header-with-spaces": (1, "first line", whole.replace(b'"key":', b'"key": ', 1)),
        "header-with-numbers": (
            1, "first line", b'{"causeloop":"log-export/v1","checkpoint":5,"key":6}\n' + b"".join(entries)
        ),
        "header-with-a-list": (1, "first line", whole.replace(b'"checkpoint":', b'"checkpoint":[],"x":', 1)),
        "header-nested-too-deep": (1, "first line", b'{"causeloop":"' + b"[" * 3_000 + b"\n"),
        "key-of-a-forger": (1, "not the one you pinned", export(LEAVES, signed(LEAVES, FORGER), forgers)),
        "key-missing": (1, "not of the form", headed(key="")),
        "signed-by-a-forger": (2, "not signed by the key", export(LEAVES, signed(LEAVES, FORGER))),
        "checkpoint-of-another-log": (
            2, "not signed by the key",
            export(LEAVES, signed(LEAVES, origin=f"causeloop.example/log/{OTHER_TENANT}")),
        ),
        "checkpoint-not-signed": (2, "no signature", export(LEAVES, note_.partition("\n\n")[0] + "\n")),
        "checkpoint-of-another-size": (2, "does not fit", export(LEAVES, note_.replace("\n6\n", "\n7\n"))),
        "entry-changed": (5, "another root", whole.replace(b"sn102", b"sn112")),
        "entry-of-version-2-changed": (5, "another root", whole.replace(b"sn104", b"sn114")),
        "entry-outcome-changed": (5, "another root", whole.replace(b'"outcome":"success"', b'"outcome":"failure"', 1)),
        "entry-sealed-text-changed": (5, "another root", whole.replace(b'"text":"clv1:1:', b'"text":"clv1:2:', 1)),
        "entry-not-json": (3, "entry 2 is not JSON", with_line(whole, 3, entries[2].rstrip()[:-1])),
        "entry-not-utf-8": (
            3, "entry 2 is not JSON", with_line(whole, 3, entries[2].rstrip().replace(b"db/", b"\xff/"))
        ),
        "entry-with-a-space": (3, "one form", with_line(whole, 1, entries[0].rstrip().replace(b'{"', b'{ "', 1))),
        "entry-with-a-key-twice": (3, "one form", whole.replace(b'{"action":', b'{"action":"x","action":', 1)),
        "entry-with-a-field-too-many": (3, "breaks rule 3", whole.replace(b'"v":2}', b'"v":2,"w":0}', 1)),
        "entry-with-an-invisible-character": (
            3, "breaks rule 4", whole.replace(b"secret_revealed", "secret\u200b_revealed".encode(), 1)
        ),
        "entry-of-an-unknown-version": (3, "not an entry of version 1 or 2", whole.replace(b'"v":2}', b'"v":3}', 1)),
        "entry-of-version-1-as-2": (3, "breaks rule 3", whole.replace(b'"v":1}', b'"v":2}', 1)),
        "entry-of-version-2-as-1": (3, "not an entry of version 1", whole.replace(b'"v":2}', b'"v":1}', 1)),
        "entry-of-another-tenant": (
            3, "of another tenant", entries_of([*LEAVES[:3], a_leaf(3, OTHER_TENANT), *LEAVES[4:]])
        ),
        "entry-too-large": (
            3, "breaks rule 1", with_line(whole, 4, entries[3].rstrip().replace(b"db/password", b"x" * v2.LARGEST))
        ),
        "entry-nested-too-deep": (
            3, "nested", whole.replace(b'"version":3}', b'"version":' + b"[" * 300 + b"]" * 300 + b"}", 1)
        ),
        "entry-added": (4, "7 entries, and 6 were signed", entries_of([*LEAVES, a_leaf(6)])),
        "entry-left-out": (4, "5 entries, and 6 were signed", entries_of([*LEAVES[:2], *LEAVES[3:]])),
        "entry-replaced": (5, "another root", entries_of(FORKED)),
        "entry-twice": (3, "a second time", entries_of([*LEAVES[:3], LEAVES[3], LEAVES[3], *LEAVES[5:]])),
        "entries-swapped": (5, "another root", entries_of([*LEAVES[:2], LEAVES[3], LEAVES[2], *LEAVES[4:]])),
        "no-entries": (4, "0 entries, and 6 were signed", head),
        "tail-cut": (4, "5 entries, and 6 were signed", entries_of(LEAVES[:5])),
        "last-line-cut": (3, "cut off", whole[:-20]),
        "last-newline-missing": (3, "cut off", whole[:-1]),
        "empty-line": (3, "entry 2 is not JSON", head + b"".join(entries[:2]) + b"\n" + b"".join(entries[2:])),
        "removed-entry-of-another-hash": (5, "another root", pruned.replace(hash_, hash_[::-1])),
        "removed-entry-with-a-claim": (
            3, "removed entry", pruned.replace(removed, removed[:-1] + b',"action":"vault.secret_written"}')
        ),
        "removed-entry-with-a-key-twice": (
            3, "removed entry", pruned.replace(removed, b'{"pruned":"' + bytes(64) + b'",' + removed[1:])
        ),
        "removed-entry-in-upper-case": (3, "removed entry", pruned.replace(hash_, hash_.upper())),
        "removed-entry-with-a-space": (3, "removed entry", pruned.replace(b'"pruned":', b'"pruned": ', 1)),
        "removed-entry-with-a-short-hash": (3, "removed entry", pruned.replace(hash_, hash_[:-2])),
        "removed-entry-without-a-hash": (3, "removed entry", pruned.replace(removed, b'{"pruned":null}')),
        "removed-entry-nested-too-deep": (3, "removed entry", pruned.replace(removed, b'{"pruned":' + b"[" * 3_000)),
    }  # fmt: skip


def checkpoints() -> dict[str, tuple[int, str, bytes]]:
    """Bent checkpoints."""
    whole = signed(LEAVES)
    text, _, signature = whole.partition("\n\n")
    root = base64.b64encode(root_of(LEAVES)).decode()
    other = "A" if signature[-10] != "A" else "B"

    def noted(text: str) -> bytes:
        return note.sign(text, ORIGIN, PRIVATE).encode()

    bent = {
        "not-signed": (2, "no signatures", f"{text}\n"),
        "no-empty-line": (2, "no signatures", whole.replace("\n\n", "\n")),
        "last-newline-missing": (2, "no signatures", whole.removesuffix("\n")),
        "signature-missing": (2, "no signature", f"{text}\n\n\n"),
        "signature-changed": (2, "does not fit", f"{text}\n\n{signature[:-10]}{other}{signature[-9:]}"),
        "signature-in-another-spelling": (2, "base64", whole.replace("=\n", "\n")),
        "signature-with-a-hyphen": (2, "base64", whole.replace("\u2014 ", "- ")),
        "signed-by-a-forger": (2, "not signed by the key", signed(LEAVES, FORGER)),
        "signed-twice-once-wrongly": (2, "does not fit", whole + signed(FORKED).partition("\n\n")[2]),
        "of-another-log": (
            2, "not signed by the key", signed(LEAVES, origin=f"causeloop.example/log/{OTHER_TENANT}")
        ),
        "carriage-returns": (2, "control characters", whole.replace("\n", "\r\n")),
        "control-character": (2, "control characters", whole.replace("\n6\n", "\n6\x1b\n")),
        "size-changed": (2, "does not fit", whole.replace("\n6\n", "\n5\n")),
    }  # fmt: skip
    return {
        **{name: (step, why, text.encode()) for name, (step, why, text) in bent.items()},
        "not-utf-8": (2, "not UTF-8", whole.encode() + b"\xe2\x80\x94 witness\xff AAAAAAAA\n"),
        "of-another-log-by-this-key": (
            2, "is of the log", noted(f"causeloop.example/log/{OTHER_TENANT}\n6\n{root}\n")
        ),
        "size-with-a-leading-zero": (2, "not a checkpoint", noted(f"{ORIGIN}\n06\n{root}\n")),
        "size-in-other-digits": (2, "not a checkpoint", noted(f"{ORIGIN}\n\u0666\n{root}\n")),
        "size-out-of-bounds": (2, "out of bounds", noted(f"{ORIGIN}\n{2**63}\n{root}\n")),
        "root-too-short": (2, "out of bounds", noted(f"{ORIGIN}\n6\n{base64.b64encode(bytes(31)).decode()}\n")),
        "root-missing": (2, "not a checkpoint", noted(f"{ORIGIN}\n6\n")),
        "empty-line-in-the-text": (2, "not a checkpoint", noted(f"{ORIGIN}\n6\n{root}\n\nmore\n")),
    }  # fmt: skip


def proofs() -> dict[str, tuple[int, str, bytes]]:
    """Bent proofs."""
    whole = proof()
    text = str(whole)
    first, second, *_ = whole.path
    foreign = signed(LEAVES, origin=f"causeloop.example/log/{OTHER_TENANT}")
    leaf = whole.leaf or b""
    bent = {
        "of-another-format": (2, "not of the form", text.replace("proof@v1", "proof@v2")),
        "carriage-returns": (2, "not of the form", text.replace("\n", "\r\n")),
        "carriage-return-in-the-path": (2, "base64", text.replace("=\n", "=\r\n", 1)),
        "without-a-checkpoint": (2, "not of the form", text.partition("\n\n")[0]),
        "without-an-index": (2, "no line with the entry's index", text.replace("index 2\n", "")),
        "index-with-a-leading-zero": (2, "no line with the entry's index", text.replace("index 2\n", "index 02\n")),
        "index-changed": (4, "inclusion proof", text.replace("index 2\n", "index 3\n")),
        "index-beyond-the-log": (4, "not below the tree's size", text.replace("index 2\n", "index 6\n")),
        "index-of-a-hundred-digits": (
            2, "no line with the entry's index", text.replace("index 2\n", f"index {'9' * 100}\n")
        ),
        "entry-before-twice": (2, "no line with the entry's index", text.replace("extra ", "extra AAAA\nextra ")),
        "entry-behind-its-index": (2, "base64", text.replace("index 2\n", "index 2\nextra AAAA\n")),
        "entry-in-another-spelling": (2, "base64", text.replace("\nindex", "=\nindex")),
        "path-in-other-order": (4, "another root", str(replace(whole, path=[second, first, *whole.path[2:]]))),
        "path-changed": (4, "another root", str(replace(whole, path=[bytes(32), *whole.path[1:]]))),
        "path-too-short": (4, "ends before the root", str(replace(whole, path=whole.path[:-1]))),
        "path-too-long": (4, "longer than the path", str(replace(whole, path=[*whole.path, bytes(32)]))),
        "path-of-65-hashes": (2, "too many lines", str(replace(whole, path=[bytes(32)] * 65))),
        "path-with-a-short-hash": (2, "no SHA-256 hash", str(replace(whole, path=[bytes(31), *whole.path[1:]]))),
        "entry-missing": (3, "no entry in it", str(replace(whole, leaf=None))),
        "entry-changed": (4, "another root", str(replace(whole, leaf=leaf.replace(b"sn102", b"sn112")))),
        "entry-replaced": (4, "another root", str(replace(whole, leaf=a_leaf(9)))),
        "entry-of-another-tenant": (3, "of another tenant", str(replace(whole, leaf=a_leaf(2, OTHER_TENANT)))),
        "entry-with-a-key-twice": (
            3, "one form", str(replace(whole, leaf=leaf.replace(b'{"action":', b'{"action":"x","action":')))
        ),
        "entry-not-json": (3, "is not JSON", str(replace(whole, leaf=b"secret"))),
        "inner-node-as-entry": (3, "is not JSON", str(replace(whole, leaf=first + second))),
        "checkpoint-of-a-fork": (4, "another root", str(replace(whole, checkpoint=signed(FORKED)))),
        "checkpoint-of-another-log": (2, "not signed by the key", str(replace(whole, checkpoint=foreign))),
        "checkpoint-signed-by-a-forger": (
            2, "not signed by the key", str(replace(whole, checkpoint=signed(LEAVES, FORGER)))
        ),
        "text-behind-the-checkpoint": (2, "no signature|base64", f"{text}more\n"),
        "terminal-commands": (
            2, "no signature|control", f"{text.partition(ORIGIN)[0]}\x1b[2J\n1\nAAAA\n\n\u2014 a AAAAAAAA\n"
        ),
    }  # fmt: skip
    return {
        **{name: (step, why, text.encode()) for name, (step, why, text) in bent.items()},
        "not-utf-8": (2, "not UTF-8", text.encode().replace(b"index 2", b"index \xff")),
    }


def files() -> dict[str, Any]:
    older = signed(LEAVES[:4])
    holding: dict[str, tuple[bytes, str | None]] = {
        "export.ndjson": (export(LEAVES), None),
        "export-of-nothing.ndjson": (export([]), None),
        "export-with-removed-entries.ndjson": (export(PRUNED), None),
        "export-that-grew.ndjson": (export(LEAVES), older),
        "export-that-did-not-grow.ndjson": (export(LEAVES), signed(LEAVES)),
        "log.checkpoint": (signed(LEAVES).encode(), None),
        "log-with-a-witness.checkpoint": (
            (signed(LEAVES) + signed(LEAVES, FORGER, "witness.example/w1").partition("\n\n")[2]).encode(), None
        ),
        "log-that-grew.checkpoint": (signed(LEAVES).encode(), older),
        "log-that-did-not-grow.checkpoint": (signed(LEAVES).encode(), signed(LEAVES)),
        **{f"entry-{index}.tlog-proof": (str(proof(index)).encode(), None) for index in range(len(LEAVES))},
        "only-entry.tlog-proof": (str(proof(0, LEAVES[:1])).encode(), None),
    }  # fmt: skip
    bent: list[tuple[str, int, str, bytes, str | None]] = [
        *((f"export-{name}.ndjson", *one, None) for name, one in exports().items()),
        ("export-rolled-back.ndjson", 6, "only 4 are signed now", export(LEAVES[:4]), signed(LEAVES)),
        ("export-forked.ndjson", 6, "it is another log", export(FORKED), older),
        ("export-forked-at-the-same-size.ndjson", 6, "it is another log", export(FORKED), signed(LEAVES)),
        *((f"log-{name}.checkpoint", *one, None) for name, one in checkpoints().items()),
        ("log-rolled-back.checkpoint", 3, "only 4 are signed now", older.encode(), signed(LEAVES)),
        ("log-forked.checkpoint", 3, "two different logs", signed(FORKED).encode(), signed(LEAVES)),
        *((f"proof-{name}.tlog-proof", *one, None) for name, one in proofs().items()),
    ]
    return {
        "format": "export, checkpoint and tlog-proof",
        "key": str(KEY),
        "accepted": [{"name": name, **_content(text), "kept": kept} for name, (text, kept) in holding.items()],
        "refused": [
            {"name": name, **_content(text), "kept": kept, "step": step, "why": why}
            for name, step, why, text, kept in bent
        ],
    }


def _content(text: bytes) -> dict[str, str]:
    try:
        return {"text": text.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(text).decode()}


# ---------------------------------------------------------------------------------------------------------- writing
def written() -> dict[str, str]:
    """Every file of vectors by its name."""
    made = {"entry-v1.json": entries_v1(), "entry-v2.json": entries_v2(), "files.json": files()}
    return {name: f"{json.dumps(value, indent=1, ensure_ascii=True)}\n" for name, value in made.items()}


if __name__ == "__main__":
    for name, text in written().items():
        (FOLDER / name).write_text(text, encoding="ascii")
