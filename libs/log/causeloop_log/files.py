"""Files that a person names on the command line: read within bounds, byte by byte, and written whole or not at all."""

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LARGEST = 1024 * 1024
"""Bytes of a key, a checkpoint or a proof; none of them has as many."""

_OF_OUTPUT = (errno.EPIPE, errno.ENOSPC)
"""Errors of standard output, which is written while a file is read."""

_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_MARKS = {
    **{mark: f"is compressed ({kind}): unpack it first." for mark, kind in _PACKED.items()},
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "is UTF-16 text: take the file as it was written, in UTF-8."),
    b"\xef\xbb\xbf": "begins with a byte order mark: take the file as it was written.",
}
"""How a file begins that some program packed or rewrote, and what it is then."""


class Unusable(Exception):
    """A file or an option that cannot be used. The message is a sentence for the person who named it."""


@contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """A file to read, - for standard input; Unusable when that is not possible."""
    if name == "-" and sys.stdin is None:
        raise Unusable("Standard input is closed.")
    try:
        if name == "-":
            yield sys.stdin.buffer
        else:
            with Path(name).open("rb") as file:
                yield file
    except OSError as error:
        if error.errno not in _OF_OUTPUT:
            raise Unusable(f"{short(name)} cannot be read: {error.strerror}.") from error
        raise


def text(name: str) -> str:
    """The text of a file, - for standard input; Unusable when it cannot be read, or is far too large."""
    with opened(name) as file:
        found = content(name, file)
    try:
        return found.decode()
    except UnicodeDecodeError as error:
        raise Unusable(f"{short(name)} is not UTF-8 text.") from error


def content(name: str, file: IO[bytes], start: bytes = b"") -> bytes:
    """All of an open file of which `start` has been read; Unusable when it is far too large."""
    found = start + file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise Unusable(f"{short(name)} is larger than anything that belongs there.")
    return found


def unchanged(name: str, start: bytes) -> None:
    """Unusable when a file's first bytes show that some program packed or rewrote it."""
    for mark, what in _MARKS.items():
        if start.startswith(mark):
            raise Unusable(f"{short(name)} {what}")
    if start.endswith(b"\r\n"):
        raise Unusable(f"{short(name)} has line ends of another system (CR LF): take the file as it was written.")
    if not start:
        raise Unusable(f"{short(name)} is empty.")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that stands at `path` once the block has ended, readable by its owner alone, and not at all before.

    Until then it has a random name, at which nobody can have put a link. Unusable where something stands that is no
    ordinary file.
    """
    if (there := mode(path)) and not stat.S_ISREG(there):
        raise Unusable(f"{short(str(path))} cannot be written: it is no ordinary file.")
    try:
        handle, name = tempfile.mkstemp(prefix=f"{path.name[:100]}.", suffix=".unfinished", dir=path.parent)
    except OSError as error:
        raise Unusable(f"{short(str(path))} cannot be written: {error.strerror}.") from error
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise Unusable(f"{short(str(path))} cannot be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)


def short(name: str) -> str:
    """A name as it is shown: without characters that a terminal obeys, and cut when it is very long."""
    shown = "".join(character if character.isprintable() else "?" for character in name)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


def mode(path: Path) -> int:
    """The mode of what stands there, a link followed; 0 when nothing does."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0
