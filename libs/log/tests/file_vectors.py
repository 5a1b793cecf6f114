"""Vectors of files: exports, checkpoints and proofs that hold, and bent ones, named by their defect."""

import base64
import json
from dataclasses import replace
from io import BytesIO
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from entry_vectors import MOMENT, TENANT, V1, V2

from causeloop_log import export_file
from causeloop_log.entry import v1, v2
from causeloop_log.export_file import Head
from causeloop_log.tlog import merkle, note
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import Frontier, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof
from causeloop_log.verification import Leaf, Pruned

OTHER_TENANT = "ws_01h455vb4pex5vsknk084sn02s"
ORIGIN = f"causeloop.example/log/{TENANT}"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FORGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
KEY = VerifierKey(ORIGIN, PRIVATE.public_key().public_bytes_raw())


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
ALL_PRUNED: list[Leaf] = [Pruned(leaf_hash(one)) for one in LEAVES if isinstance(one, bytes)]
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
        "empty": (0, "is empty", b""),
        "not-an-export": (2, "no signatures", b'{"hello":"world"}\n'),
        "byte-order-mark": (0, "byte order mark", b"\xef\xbb\xbf" + whole),
        "carriage-returns": (0, "line ends", whole.replace(b"\n", b"\r\n")),
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
        "removed-entries": (3, "of 2 of 6 entries only the hash is left", pruned),
        "removed-entries-alone": (3, "of 6 of 6", export(ALL_PRUNED)),
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
        "carriage-returns": (0, "line ends", whole.replace("\n", "\r\n")),
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
        "carriage-returns": (0, "line ends", text.replace("\n", "\r\n")),
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
        "accepted": [
            {"name": name, **_content(text), "kept": kept, **_options(name)} for name, (text, kept) in holding.items()
        ],
        "refused": [
            {"name": name, **_content(text), "kept": kept, "step": step, "why": why, **_options(name)}
            for name, step, why, text, kept in bent
        ],
    }


def _options(name: str) -> dict[str, bool]:
    """That removed entries are accepted; step 0 is the file itself, which is none that a verifier reads."""
    allows = ("export-with-removed-entries.ndjson", "export-removed-entry-of-another-hash.ndjson")
    return {"allow_withheld": True} if name in allows else {}


def _content(text: bytes) -> dict[str, str]:
    try:
        return {"text": text.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(text).decode()}
