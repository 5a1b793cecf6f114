"""A whole log over HTTP: its key, a checkpoint, and the entries that the checkpoint is of."""

import re
from collections.abc import Iterator

from causeloop_client import Client, Problem
from causeloop_client.calls import GetAuditKey, GetCheckpoint
from causeloop_client.stream import Event
from causeloop_log.export_file import Head
from causeloop_log.verification import Leaf, Pruned, Refused

_SIZE = re.compile(r"[0-9]{1,18}")


def head(gateway: Client) -> Head:
    """The log's newest checkpoint, and its key as the gateway gives it."""
    return Head(str(gateway.send(GetCheckpoint())["checkpoint"]), str(gateway.send(GetAuditKey())["key"]))


def size_of(checkpoint: str) -> int:
    """How many entries a checkpoint names. Not verified here: only that many are asked for."""
    lines = checkpoint.split("\n", 2)
    return int(lines[1]) if len(lines) > 1 and _SIZE.fullmatch(lines[1]) else 0


def leaves(gateway: Client, size: int) -> Iterator[Leaf]:
    """The first `size` entries, over many connections. Fewer when the log has fewer; Refused when it is damaged."""
    try:
        yield from map(_leaf, gateway.follow(0, count=size))
    except Problem as problem:
        if problem.code != "conflict":
            raise
        raise Refused(3, "entries", problem.detail.removesuffix(".")) from problem


def _leaf(event: Event) -> Leaf:
    if event.kind != "pruned":
        return event.data.encode()
    try:
        return Pruned(bytes.fromhex(event.body["leaf_hash"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Refused(3, "entries", "a removed entry has no hash") from error
