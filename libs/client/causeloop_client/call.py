"""A call: an operation's class with its fields, typed by the gateway's answer.

    class PutSecret(Call[SecretView], route="PUT /secrets/{path}", keyed=True): ...

A field named in the route goes into the path; the others are the query of GET and DELETE, and the body of the rest. A
field that is None is not sent. `from_` is the field `from`.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NotRequired, TypedDict, TypeVar, dataclass_transform, get_args
from urllib.parse import quote

from causeloop_client.errors import Problem

Reply = TypeVar("Reply")
Item = TypeVar("Item")


class Page(TypedDict, Generic[Item]):
    """One page of a list; `page` has the `next_cursor`, null at the end.

    `unanswered` names the services that did not answer, where several are asked.
    """

    data: list[Item]
    page: dict[str, Any]
    unanswered: NotRequired[list[str]]


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Call(Generic[Reply]):
    """An operation with its fields. Its repr shows none of them: one may be a secret.

    `takes_key`: it takes an Idempotency-Key, and has one effect under it. Any other may be sent again as it is.
    """

    _route: ClassVar[str]
    _required: ClassVar[frozenset[str]]
    takes_key: ClassVar[bool]

    def __init_subclass__(cls, *, route: str = "", keyed: bool = False) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True, repr=False)(cls)
        if route:
            cls._route, cls.takes_key = route, keyed
            reply = Page if issubclass(cls, List) else get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]
            cls._required = getattr(reply, "__required_keys__", frozenset())

    def to_http(self) -> tuple[str, str, dict[str, Any], dict[str, Any] | None]:
        """Method, path, query and body; Problem when a field would lead the path elsewhere."""
        method, _, path = self._route.partition(" ")
        given = {name.rstrip("_"): value for name, value in vars(self).items() if value is not None}
        path = re.sub(r"\{(\w+)\}", lambda found: _segments(found[1], given.pop(found[1])), path)
        query, body = (given, None) if method in ("GET", "DELETE") else ({}, given)
        return method, f"/v1{path}", query, body

    def is_reply(self, body: Any) -> bool:
        """Whether an answer's body has what the reply must have."""
        return not self._required or (isinstance(body, dict) and self._required <= body.keys())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._route}>"


class List(Call[Page[Item]], Generic[Item]):
    """An operation that answers page by page, `limit` items each; `Client.items` goes through all of them."""

    limit: int | None = None
    cursor: str | None = None


def _segments(name: str, value: str) -> str:
    """A value in the path; only one that is a path itself has more than one segment."""
    if any(segment in ("", ".", "..") for segment in value.split("/")):
        errors = {name: ["has an empty segment, or one of dots alone"]}
        raise Problem(422, "validation_error", "The request has invalid fields; see 'errors'.", errors)
    return quote(value, safe="/" if name == "path" else "")
