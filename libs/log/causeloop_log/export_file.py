"""The file of an exported log: everything that verifying it needs.

    {"causeloop":"log-export/v1","checkpoint":"<signed note>","key":"<verifier key>"}
    <entry 0, its bytes>
    <entry 1>
    {"pruned":"<leaf hash in hex>"}             where retention removed the content

One line each, in the log's order, so that an entry's index is its line. It is plain NDJSON to whoever only reads it.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from causeloop_log.verification import Leaf, Pruned, Refused

FORMAT = "log-export/v1"
_LONGEST = 512 * 1024


class Head(NamedTuple):
    """The first line: the checkpoint, and the key as the log tells it."""

    checkpoint: str
    key: str


def write(file: IO[bytes], head: Head, leaves: Iterable[Leaf]) -> int:
    """Write the file; how many entries."""
    file.write(_line({"causeloop": FORMAT, "checkpoint": head.checkpoint, "key": head.key}))
    count = 0
    for leaf in leaves:
        file.write(_line({"pruned": leaf.leaf_hash.hex()}) if isinstance(leaf, Pruned) else leaf + b"\n")
        count += 1
    return count


def is_export(path: Path) -> bool:
    """Whether the file begins like an export."""
    with path.open("rb") as file:
        return file.read(14) == b'{"causeloop":"'


def read(file: IO[bytes]) -> tuple[Head, Iterator[Leaf]]:
    """The first line, and the entries as they are read; Refused at what is no export."""
    try:
        told = json.loads(file.readline(_LONGEST))
        if told["causeloop"] != FORMAT:
            raise ValueError("another version")
        head = Head(str(told["checkpoint"]), str(told["key"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused(1, "key", f"the file is not of the form {FORMAT}") from error
    return head, _leaves(file)


def _leaves(file: IO[bytes]) -> Iterator[Leaf]:
    while line := file.readline(_LONGEST):
        if not line.endswith(b"\n"):
            raise Refused(3, "entries", "the last line is cut off, or one is too long to be an entry")
        leaf = line.removesuffix(b"\n")
        yield pruned(leaf) if leaf.startswith(b'{"pruned":') else leaf


def pruned(text: str | bytes, name: str = "pruned") -> Pruned:
    """An entry of which only the hash is left, from JSON that has it under this name."""
    try:
        return Pruned(bytes.fromhex(json.loads(text)[name]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused(3, "entries", "a removed entry has no hash") from error


def _line(value: dict[str, str]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
