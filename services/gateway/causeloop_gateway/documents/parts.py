"""The parts of a document that are read: its frame from a file beside this one, and the words of a contract."""

import inspect
import tomllib
from pathlib import Path
from typing import Any

from causeloop_common.contracts.base import Message


def frame(name: str) -> dict[str, Any]:
    """The part of a document that stands in no contract, anew for each caller."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


def words(kind: type[Message]) -> tuple[str, str]:
    """The first sentence of a message's docstring, and its other paragraphs."""
    first, *more = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    return " ".join(first.split()).rstrip("."), "\n\n".join(" ".join(paragraph.split()) for paragraph in more)
