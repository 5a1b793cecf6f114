"""The log is proven, and then bent in front of the reader's eyes: each forgery is refused, by the step that should."""

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_cli.audit import log
from causeloop_client import Client
from causeloop_client.calls import GetConsistency, GetEventProof
from causeloop_dev.demo.page import Page, Unexpected
from causeloop_log import export_file
from causeloop_log.export_file import Head
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import Frontier, leaf_hash, verify_consistency
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.verification import Leaf, Pruned, Refused, Step, Verification

_ACTION = b'"action":"vault.secret_revealed"'
_BENT = b'"action":"vault.secret_revealeD"'


def run(page: Page, client: Client, one_more: Callable[[], None]) -> None:
    """Pin, verify, prove, export, bend; `one_more` makes the log grow in between."""
    pinned = log.head(client).key
    page.did("GET /v1/audit/key", "200", "pinned on first sight, from now on trusted")
    earlier = log.head(client)
    steps = Verification(lambda step: page.held(f"{step.number} {step.name}", step.finding))
    old = steps.log(
        earlier.key, pinned, earlier.checkpoint, log.leaves(client, log.size_of(earlier.checkpoint))
    ).checkpoint
    one_more()
    head = log.head(client)
    _grown(page, client, old, Checkpoint.verified(head.checkpoint, VerifierKey.parse(pinned)))

    leaves = list(log.leaves(client, log.size_of(head.checkpoint)))
    at = next(n for n, leaf in enumerate(leaves) if isinstance(leaf, bytes) and _ACTION in leaf)
    _one(page, client, pinned, leaves[at])
    with tempfile.TemporaryDirectory(prefix="causeloop-demo-") as folder:
        _forgeries(page, Path(folder) / "log.ndjson", pinned, head, earlier, leaves, at)


def _grown(page: Page, client: Client, old: Checkpoint, new: Checkpoint) -> None:
    path = [bytes.fromhex(node) for node in client.send(GetConsistency(from_=old.size, to=new.size))["path"]]
    try:
        verify_consistency(old.size, old.root, new.size, new.root, path)
    except NotVerified as error:
        raise Unexpected("a log that only grew", str(error)) from error
    grown = f"{len(path)} hashes: the {new.size} begin with those {old.size}"
    page.did("GET /v1/audit/consistency", "200, verified", grown)


def _one(page: Page, client: Client, pinned: str, leaf: Leaf) -> None:
    event = json.loads(leaf if isinstance(leaf, bytes) else b"")["id"]
    text = client.send(GetEventProof(id=event))["tlog_proof"]
    held: list[Step] = []
    Verification(held.append).proof(pinned, text)
    proven = f"{held[-1].finding} {len(text)} bytes, C2SP tlog-proof"
    page.did("GET /v1/audit/events/{id}/proof", "200, verified", proven)


def _forgeries(page: Page, path: Path, pinned: str, head: Head, earlier: Head, leaves: list[Leaf], at: int) -> None:
    """The export, and four ways to lie with it."""
    count = _write(path, head, leaves)
    _verify(path, pinned)
    page.did("export of the whole log", "verified", f"{count} entries in one file, offline")
    page.note("Now four forgeries of that file:")

    bent = [*leaves[:at], _changed(leaves[at]), *leaves[at + 1 :]]
    _write(path, head, bent)
    page.note(f"- entry {at}: {_ACTION.decode()} becomes {_BENT.decode()}, one byte")
    _refuses(page, path, pinned, 5, "one byte changed")
    _write(path, head, leaves[:-1])
    page.note(f"- entry {count - 1}, the last, is left out")
    _refuses(page, path, pinned, 4, "the tail cut")
    _write(path, Head(_forged(pinned, bent), head.key), bent)
    page.note("- the bent log has a root of its own, signed anew under the log's name with another key")
    _refuses(page, path, pinned, 2, "a forked log")
    size = log.size_of(earlier.checkpoint)
    _write(path, earlier, leaves[:size])
    page.note(f"- the log as it truly was at {size} entries, to somebody who kept the checkpoint of {count}")
    _refuses(page, path, pinned, 6, "a log rolled back", kept=head.checkpoint)


def _write(path: Path, head: Head, leaves: list[Leaf]) -> int:
    with path.open("wb") as file:
        return export_file.write(file, head, leaves)


def _changed(leaf: Leaf) -> bytes:
    return leaf.replace(_ACTION, _BENT, 1) if isinstance(leaf, bytes) else b""


def _forged(pinned: str, leaves: list[Leaf]) -> str:
    """A checkpoint of these entries that looks like the log's, by somebody without its key."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf.leaf_hash if isinstance(leaf, Pruned) else leaf_hash(leaf))
    origin = VerifierKey.parse(pinned).name
    return Checkpoint(origin, frontier.size, frontier.root()).sign(Ed25519PrivateKey.generate())


def _verify(path: Path, pinned: str, kept: str | None = None) -> None:
    head, leaves = export_file.read(io.BytesIO(path.read_bytes()))
    Verification(lambda _: None).log(head.key, pinned, head.checkpoint, leaves, kept)


def _refuses(page: Page, path: Path, pinned: str, step: int, what: str, kept: str | None = None) -> None:
    try:
        _verify(path, pinned, kept)
    except Refused as refused:
        if refused.number == step:
            page.forgery(what, f"by {refused}")
            return
        raise Unexpected(f"{what} is refused by step {step}", str(refused)) from refused
    raise Unexpected(f"{what} is refused by step {step}", "every step held")
