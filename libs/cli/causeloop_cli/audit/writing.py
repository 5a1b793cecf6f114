"""The files that a command writes: whole or not at all, and never over one that is there, unless it is asked to."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from causeloop_log import files
from causeloop_log.files import Unusable


@contextmanager
def written(name: str, *, replace: bool) -> Iterator[tuple[IO[bytes], Callable[[str], None]]]:
    """A file to write, - for standard output, and a function that prints a line about it where that does no harm.

    Unusable when the file is there already, unless `replace` is set. Only an ordinary file is ever replaced.
    """
    if name == "-":
        if sys.stdout is None:
            raise Unusable("Standard output is closed.")
        yield sys.stdout.buffer, lambda line: print(line, file=sys.stderr)
        return
    path = Path(name)
    if not replace and files.mode(path):
        raise Unusable(f"{files.short(name)} is there already. Name another file, or replace it with --force.")
    with files.replacing(path) as file:
        yield file, print
