"""The file of an exported log: everything that its verification needs.

    {"causeloop":"log-export/v1","checkpoint":"<signed note>","key":"<verifier key>"}
    <entry 0, its bytes>
    <entry 1>
    {"pruned":"<leaf hash, 64 hexadecimal digits>"}             an entry whose content retention removed

One line each, every line ended by a newline, in the log's order: an entry's index is the number of entries before it.
Any reader of NDJSON can read it. The first line and that of a removed entry have one written form, as an entry has:
what is not covered by the checkpoint's root cannot be added to them.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from causeloop_log.verification import Leaf, Pruned, Refused

FORMAT = "log-export/v1"
START = b'{"causeloop":"'
"""How the first line begins; nothing else that is verified begins so."""
LONGEST_LINE = 512 * 1024
_PRUNED = re.compile(rb'\{"pruned":"([0-9a-f]{64})"\}')


class Head(NamedTuple):
    """The first line: the checkpoint, and the key that came with the log."""

    checkpoint: str
    key: str


def write(file: IO[bytes], head: Head, leaves: Iterable[Leaf]) -> int:
    """Write the file; the number of entries written."""
    file.write(_line({"causeloop": FORMAT, "checkpoint": head.checkpoint, "key": head.key}))
    count = 0
    for leaf in leaves:
        file.write(_line({"pruned": leaf.leaf_hash.hex()}) if isinstance(leaf, Pruned) else leaf + b"\n")
        count += 1
    return count


def read(file: IO[bytes]) -> tuple[Head, Iterator[Leaf]]:
    """The first line, and the entries one by one; Refused for a line that no export has."""
    return read_after(file.readline(LONGEST_LINE), file)


def read_after(line: bytes, file: IO[bytes]) -> tuple[Head, Iterator[Leaf]]:
    """The same of a file whose first line has been read."""
    try:
        fields = json.loads(line)
        head = Head(str(fields["checkpoint"]), str(fields["key"]))
        if _line({"causeloop": FORMAT, "checkpoint": head.checkpoint, "key": head.key}) != line:
            raise ValueError("another version, form or type")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused(1, "key", f"the first line is not that of the form {FORMAT}") from error
    return head, _leaves(file)


def _leaves(file: IO[bytes]) -> Iterator[Leaf]:
    while line := file.readline(LONGEST_LINE):
        if not line.endswith(b"\n"):
            raise Refused(3, "entries", "the last line is cut off, or one is too long to be an entry")
        leaf = line.removesuffix(b"\n")
        if leaf.startswith(b'{"pruned"'):
            found = _PRUNED.fullmatch(leaf)
            if found is None:
                raise Refused(3, "entries", "the line of a removed entry is not its hash alone, in its one form")
            yield Pruned(bytes.fromhex(found[1].decode()))
        else:
            yield leaf


def _line(value: dict[str, str]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
