"""Values with one written form: the part of JSON on which sorted compact JSON is RFC 8785.

Keys are ASCII, there are no floats, and no integer is beyond 2^53: then the order of keys and the spelling of numbers
leave no choice.
"""

import hashlib
from typing import Any

import orjson

LARGEST_INTEGER = 2**53


class NotCanonical(ValueError):
    """The value has no canonical form, or the text is not in it. The message is half a sentence: what the text is.

    `rule` is the number of the broken rule of version 2, 0 where no rule of it is meant.
    """

    def __init__(self, why: str, rule: int = 0) -> None:
        super().__init__(why)
        self.rule = rule


def read_data(text: bytes) -> dict[str, Any]:
    """The JSON object in a text; NotCanonical when it is none.

    Numbers, keys and nesting are not looked at yet: writing the entry does that.
    """
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotCanonical("is not JSON", rule=2) from error
    if not isinstance(data, dict):
        raise NotCanonical("is not an object", rule=2)
    return data


def written(value: dict[str, Any]) -> bytes:
    """The canonical form of a value that was checked before; NotCanonical for half of a surrogate pair."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise NotCanonical("contains text that is not Unicode", rule=2) from error


def digest_of(raw: bytes) -> dict[str, Any]:
    """The data of an entry that stands for an event which cannot be entered as it is."""
    return {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
