"""Files that a person names on the command line: what is wrong is told, and they are written whole or not at all."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from causeloop_common.settings import SettingsError

LARGEST = 1024 * 1024
"""Characters of a key, a checkpoint or a proof; none of them has as many."""


def text(name: str) -> str:
    """The text of a file, - for standard input; SettingsError when it cannot be read, or is far too large."""
    try:
        with nullcontext(sys.stdin) if name == "-" else Path(name).open(encoding="utf-8") as file:
            found = file.read(LARGEST + 1)
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name} is not text.") from error
    if len(found) > LARGEST:
        raise SettingsError(f"{name} is larger than anything that belongs there.")
    return found


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that stands at `path` once the block has ended, readable by its owner alone, and not at all before.

    Until then it has a name that nobody can have put a link at.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".unfinished", dir=path.parent)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from error
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
