"""Files that a person names on the command line: read within bounds, byte by byte, and written whole or not at all."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LARGEST = 1024 * 1024
"""Bytes of a key, a checkpoint or a proof; none of them has as many."""


class Unusable(Exception):
    """A file or an option that cannot be used. The message is a sentence for the person who named it."""


@contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """A file to read, - for standard input; Unusable when that is not possible."""
    try:
        if name == "-":
            yield sys.stdin.buffer
        else:
            with Path(name).open("rb") as file:
                yield file
    except BrokenPipeError:  # of our output, not of this file
        raise
    except OSError as error:
        raise Unusable(f"{name} cannot be read: {error.strerror}.") from error


def text(name: str) -> str:
    """The text of a file, - for standard input; Unusable when it cannot be read, or is far too large."""
    with opened(name) as file:
        found = content(name, file)
    try:
        return found.decode()
    except UnicodeDecodeError as error:
        raise Unusable(f"{name} is not text.") from error


def content(name: str, file: IO[bytes], start: bytes = b"") -> bytes:
    """All of an open file of which `start` has been read; Unusable when it is far too large."""
    found = start + file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise Unusable(f"{name} is larger than anything that belongs there.")
    return found


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that stands at `path` once the block has ended, readable by its owner alone, and not at all before.

    Until then it has a random name, at which nobody can have put a link.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".unfinished", dir=path.parent)
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror}.") from error
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
