"""The words of a contract in a document."""

import inspect

from causeloop_common.contracts.base import Message


def words(kind: type[Message]) -> tuple[str, str]:
    """The first sentence of a message's docstring, and its other paragraphs."""
    first, *more = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    return " ".join(first.split()).rstrip("."), "\n\n".join(" ".join(paragraph.split()) for paragraph in more)
